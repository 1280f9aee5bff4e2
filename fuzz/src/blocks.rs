//! What a partition may claim of its file system, and what must hold for everything that was taken.
//!
//! Never depends on the fuzzer: the same function replays the corpus in `crates/image-source/tests/corpus.rs`.

use image_source::find_file_system;

/// Small, so that counts without end show as time.
const PARTITION_BYTES: u64 = 1 << 30;
/// Of an input's parts: three bytes say which sector of 512 bytes, two how many bytes follow.
const HEAD_BYTES: usize = 5;

/// The input is a partition of zeros with some bytes written to some sectors. Whatever is said of it, no read may fail
/// the caller, and what is in use is ascending, apart and within the partition.
pub(crate) fn blocks(data: &[u8]) {
    let mut parts: Vec<(u64, &[u8])> = Vec::new();
    let mut rest = data;
    while let Some((&[a, b, c, high, low], after)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let sector = u64::from(u32::from_be_bytes([0, a, b, c]));
        let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (part, next) = after.split_at(len);
        parts.push((sector * 512, part));
        rest = next;
    }
    let read = |offset: u64, bytes: &mut [u8]| {
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= PARTITION_BYTES);
        assert!(end.is_some(), "read at {offset}, {} bytes", bytes.len());
        bytes.fill(0);
        for (start, part) in &parts {
            let begin = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
            let skipped = usize::try_from(offset.saturating_sub(*start)).unwrap_or(usize::MAX);
            if let (Some(to), Some(from)) = (bytes.get_mut(begin..), part.get(skipped..)) {
                let len = to.len().min(from.len());
                to[..len].copy_from_slice(&from[..len]);
            }
        }
        Ok(())
    };
    let Ok(Some(found)) = find_file_system(&read, PARTITION_BYTES) else { return };
    let mut end = None;
    for range in found.used.unwrap_or_default() {
        assert!(range.start < range.end && range.end <= PARTITION_BYTES);
        assert!(end.is_none_or(|end| range.start > end), "touching or not ascending");
        end = Some(range.end);
    }
}
