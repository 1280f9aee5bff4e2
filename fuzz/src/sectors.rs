//! A disk of zeros of which an input names the sectors that have something.
//!
//! Never depends on the fuzzer: it is part of the targets that read disks and partitions.

/// Of an input's parts: three bytes say which sector of 512 bytes, two how many bytes follow.
const HEAD_BYTES: usize = 5;

/// The parts of an input, each with its first byte on the disk.
pub(crate) struct Sectors<'a>(Vec<(u64, &'a [u8])>);

impl<'a> Sectors<'a> {
    /// Any bytes are a disk.
    pub(crate) fn of(data: &'a [u8]) -> Self {
        let (mut parts, mut rest) = (Vec::new(), data);
        while let Some((&[a, b, c, high, low], after)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let sector = u64::from(u32::from_be_bytes([0, a, b, c]));
            let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
            let (part, next) = after.split_at(len);
            parts.push((sector * 512, part));
            rest = next;
        }
        Self(parts)
    }

    /// What the disk has from `offset` on.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        for (start, part) in &self.0 {
            let begin = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
            let skipped = usize::try_from(offset.saturating_sub(*start)).unwrap_or(usize::MAX);
            if let (Some(to), Some(from)) = (bytes.get_mut(begin..), part.get(skipped..)) {
                let len = to.len().min(from.len());
                to[..len].copy_from_slice(&from[..len]);
            }
        }
    }
}
