//! Which bytes of a partition its file system uses, by the file system's own records; the rest is what was deleted.

mod ext;
mod xfs;

use std::io;
use std::ops::Range;

/// Runs of used bytes before they are put together: half a GiB of them.
const RUNS_MAX: usize = 32 << 20;

/// Why a file system is not taken as it is.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// The partition cannot be read.
    #[error("reading the file system's own records")]
    Read(#[from] io::Error),
    /// Its records may be behind its files.
    #[error(
        "the {0} in it was not unmounted cleanly: unmount it, or check it with fsck, and capture it again"
    )]
    Dirty(&'static str),
    /// Its records cannot all be true.
    #[error("its file system contradicts itself: {0}; check it with fsck")]
    Contradiction(&'static str),
}

/// Fills all of the slice with the bytes from an offset on.
pub type ReadAt<'a> = dyn Fn(u64, &mut [u8]) -> io::Result<()> + 'a;

/// A file system that is known by its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As `mount -t` takes it.
    pub kind: &'static str,
    /// What it uses: ascending, none touching, within the partition. Nothing where that cannot be told.
    pub used: Option<Vec<Range<u64>>>,
}

/// Looks at a partition of `len` bytes.
///
/// # Errors
/// See [`BlocksError`]. An unknown file system is none.
pub fn find_file_system(read: &ReadAt<'_>, len: u64) -> Result<Option<Found>, BlocksError> {
    for find in [ext::find, xfs::find] {
        if let Some(found) = find(read, len)? {
            return Ok(Some(found));
        }
    }
    let has = |&(offset, magic, _): &(u64, &[u8], &'static str)| {
        let mut bytes = vec![0; magic.len()];
        offset + magic.len() as u64 <= len && read(offset, &mut bytes).is_ok() && bytes == magic
    };
    Ok(OTHERS.iter().find(|other| has(other)).map(|(.., kind)| Found { kind, used: None }))
}

/// File systems that are kept as they are: what they write where.
const OTHERS: [(u64, &[u8], &str); 6] = [
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (54, b"FAT", "vfat"),
    (82, b"FAT", "vfat"),
    (0x400, b"\x10\x20\xF5\xF2", "f2fs"),
];

/// The same bytes, ascending, none touching.
fn united(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut united: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|range| range.start < range.end) {
        match united.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => united.push(range),
        }
    }
    united
}
