//! What a partition may claim of its file system, and what must hold for everything that was taken.
//!
//! Never depends on the fuzzer: the same function replays the corpus in `crates/image-source/tests/corpus.rs`.

#[path = "sectors.rs"]
mod sectors;

use image_source::find_file_system;
use sectors::Sectors;

/// Small, so that counts without end show as time.
const PARTITION_BYTES: u64 = 1 << 30;

/// The input is a partition of zeros with some bytes written to some sectors. Whatever is said of it, no read may fail
/// the caller, and what is in use is ascending, apart and within the partition.
pub(crate) fn blocks(data: &[u8]) {
    let sectors = Sectors::of(data);
    let read = |offset: u64, bytes: &mut [u8]| {
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= PARTITION_BYTES);
        assert!(end.is_some(), "read at {offset}, {} bytes", bytes.len());
        sectors.read(offset, bytes);
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
