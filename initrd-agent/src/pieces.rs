//! Verified pieces, kept as they came so that they can be given on: in memory, or in a file without a name on the
//! new disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use nix::libc;

/// More than this part of the free memory is not taken: formatters, the page cache and decompression need the
/// rest (percent).
const MEMORY_PERCENT_MAX: u64 = 40;

/// Where the pieces of one image are.
#[derive(Debug)]
pub(crate) struct PieceCache {
    length: u64,
    piece_bytes: u64,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Memory(Vec<RwLock<Option<Box<[u8]>>>>),
    File(File),
}

/// Whether an image of this size may be kept in memory.
pub(crate) const fn fits_in_memory(image_bytes: u64, available_bytes: u64) -> bool {
    image_bytes < available_bytes / 100 * MEMORY_PERCENT_MAX
}

/// `MemAvailable` of `/proc/meminfo`, bytes.
pub(crate) fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

impl PieceCache {
    /// Keeps pieces in memory; takes it as they come.
    pub(crate) fn in_memory(length: u64, piece_bytes: u64) -> Self {
        let piece_bytes = piece_bytes.max(1);
        let pieces = usize::try_from(length.div_ceil(piece_bytes)).unwrap_or_default();
        let slots = std::iter::repeat_with(|| RwLock::new(None)).take(pieces).collect();
        Self { length, piece_bytes, backing: Backing::Memory(slots) }
    }

    /// Keeps pieces in a file below `directory` that has no name and so goes with its last user. Its space is
    /// taken at once, so that the file system cannot fill up in the middle.
    pub(crate) fn in_file(directory: &Path, length: u64, piece_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_TMPFILE)
            .open(directory)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length)?;
        Ok(Self { length, piece_bytes: piece_bytes.max(1), backing: Backing::File(file) })
    }

    /// Where the pieces are, in words.
    pub(crate) const fn place(&self) -> &'static str {
        match self.backing {
            Backing::Memory(_) => "memory",
            Backing::File(_) => "a file on the new disk",
        }
    }

    /// Stores a verified piece.
    pub(crate) fn write(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        let start = self.start_of(piece, bytes.len())?;
        match &self.backing {
            Backing::Memory(slots) => {
                let slot = slots.get(usize::try_from(piece).unwrap_or(usize::MAX));
                let slot = slot.ok_or_else(|| invalid("no such piece"))?;
                *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(bytes.into());
                Ok(())
            }
            Backing::File(file) => file.write_all_at(bytes, start),
        }
    }

    /// Reads bytes of the image from pieces that were stored.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = u64::try_from(out.len()).ok().and_then(|length| offset.checked_add(length));
        if end.is_none_or(|end| end > self.length) {
            return Err(invalid("beyond the end of the image"));
        }
        match &self.backing {
            Backing::Memory(slots) => read_slots(slots, self.piece_bytes, offset, out),
            Backing::File(file) => file.read_exact_at(out, offset),
        }
    }

    /// Reads a part of one piece.
    pub(crate) fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()> {
        self.read(u64::from(piece) * self.piece_bytes + u64::from(begin), out)
    }
}

fn read_slots(
    slots: &[RwLock<Option<Box<[u8]>>>],
    piece_bytes: u64,
    mut offset: u64,
    mut out: &mut [u8],
) -> io::Result<()> {
    while !out.is_empty() {
        let piece = usize::try_from(offset / piece_bytes).unwrap_or(usize::MAX);
        let begin = usize::try_from(offset % piece_bytes).unwrap_or(usize::MAX);
        let slot = slots.get(piece).ok_or_else(|| invalid("no such piece"))?;
        let slot = slot.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = slot.as_deref().and_then(|bytes| bytes.get(begin..)).filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| invalid("a piece that is not here"))?;
        let length = bytes.len().min(out.len());
        let (now, later) = out.split_at_mut(length);
        now.copy_from_slice(bytes.get(..length).unwrap_or_default());
        offset += u64::try_from(length).unwrap_or_default();
        out = later;
    }
    Ok(())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl PieceCache {
    /// Stores a verified piece that came in parts.
    fn write_parts(&self, piece: u32, parts: &[&[u8]]) -> io::Result<()> {
        match &self.backing {
            Backing::Memory(_) => self.write(piece, &parts.concat()),
            Backing::File(file) => {
                let start = self.start_of(piece, parts.iter().map(|part| part.len()).sum())?;
                swarm_net::write_parts_at(file, parts, start)
            }
        }
    }

    /// Where the piece begins, if it has this many bytes.
    fn start_of(&self, piece: u32, bytes: usize) -> io::Result<u64> {
        let start = u64::from(piece) * self.piece_bytes;
        let expected = self.length.checked_sub(start).map(|rest| rest.min(self.piece_bytes));
        if expected == u64::try_from(bytes).ok() {
            Ok(start)
        } else {
            Err(invalid("a piece of the wrong length"))
        }
    }
}

impl swarm_net::PieceStore for PieceCache {
    fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        self.write(piece, bytes)
    }

    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()> {
        Self::read_block(self, piece, begin, out)
    }

    fn write_piece_parts(&self, piece: u32, parts: &[&[u8]]) -> io::Result<()> {
        self.write_parts(piece, parts)
    }

    fn place(&self, piece: u32, begin: u32) -> Option<(BorrowedFd<'_>, u64)> {
        match &self.backing {
            Backing::Memory(_) => None,
            Backing::File(file) => {
                Some((file.as_fd(), u64::from(piece) * self.piece_bytes + u64::from(begin)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both backings, for an image of 25 bytes in pieces of 10.
    fn check_both(story: impl Fn(&PieceCache)) {
        story(&PieceCache::in_memory(25, 10));
        let directory = tempfile::tempdir().unwrap();
        match PieceCache::in_file(directory.path(), 25, 10) {
            Ok(cache) => {
                assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the file has no name");
                story(&cache);
            }
            Err(error) => eprintln!("skipped: no unnamed files here: {error}"),
        }
    }

    #[test]
    fn bytes_come_back_across_pieces() {
        check_both(|cache| {
            cache.write(2, b"uvwxy").unwrap();
            cache.write(0, b"abcdefghij").unwrap();
            cache.write(1, b"klmnopqrst").unwrap();
            let mut out = [0; 13];
            cache.read(9, &mut out).unwrap();
            assert_eq!(&out, b"jklmnopqrstuv");
            let mut block = [0; 2];
            cache.read_block(2, 3, &mut block).unwrap();
            assert_eq!(&block, b"xy");
        });
    }

    #[test]
    fn wrong_lengths_and_places_are_errors() {
        check_both(|cache| {
            assert!(cache.write(0, b"short").is_err());
            assert!(cache.write(3, b"").is_err());
            assert!(cache.write(u32::MAX, b"abcdefghij").is_err());
            assert!(cache.read(20, &mut [0; 6]).is_err());
            assert!(cache.read(u64::MAX, &mut [0; 6]).is_err());
        });
        let memory = PieceCache::in_memory(25, 10);
        assert!(memory.read(0, &mut [0; 1]).is_err(), "a piece that never came");
    }

    #[test]
    fn memory_is_taken_only_when_there_is_plenty() {
        assert!(fits_in_memory(39 << 20, 100 << 20));
        assert!(!fits_in_memory(40 << 20, 100 << 20));
        assert_eq!(available_memory("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available_memory("MemTotal: 9 kB\n"), None);
    }
}
