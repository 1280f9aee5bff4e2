//! Where pieces lie: a file, memory, or whatever the agent applies images from.

use rustix::io::pwritev;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

/// Keeps whole pieces and gives back blocks of them. Called from several threads at once; may block.
pub trait PieceStore: Send + Sync {
    /// Stores a piece whose hash is right. When this returns, its blocks can be read.
    fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()>;

    /// Fills `out` from `begin` bytes into a piece that was stored.
    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()>;

    /// As [`PieceStore::write_piece`], with the piece in parts that lie behind one another. A store that can
    /// write them as they are saves a copy.
    fn write_piece_parts(&self, piece: u32, parts: &[&[u8]]) -> io::Result<()> {
        self.write_piece(piece, &parts.concat())
    }

    /// The file that a stored piece lies in, and where that byte of it is there; the rest of the piece lies behind
    /// it. A store that says so has its blocks read straight from the page cache, without a hop to another thread;
    /// `read_block` is then called only for what is not there.
    fn place(&self, _piece: u32, _begin: u32) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }
}

/// Slices that one call writes: 16 MiB in blocks; the kernel takes 1024.
const SLICES_MAX: usize = 1024;

/// Writes the parts behind one another from `offset` on, by as few calls as the kernel allows.
pub fn write_parts_at(file: &File, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
    let mut parts = parts.iter().copied().filter(|part| !part.is_empty());
    let mut pending: Vec<&[u8]> = Vec::new();
    loop {
        pending.extend(parts.by_ref().take(SLICES_MAX - pending.len()));
        if pending.is_empty() {
            return Ok(());
        }
        let slices: Vec<IoSlice<'_>> = pending.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = match pwritev(file, &slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        offset += written as u64;
        pending.retain_mut(|part| {
            let done = written.min(part.len());
            written -= done;
            *part = part.get(done..).unwrap_or_default();
            !part.is_empty()
        });
    }
}

/// Pieces at their place in one file, by pread and pwrite.
#[derive(Debug)]
pub struct FileStore {
    file: File,
    piece_bytes: u32,
}

impl FileStore {
    /// A store in `file`, opened for reading, and for writing if pieces will come. The file grows as they do.
    pub fn new(file: File, piece_bytes: u32) -> FileStore {
        FileStore { file, piece_bytes }
    }

    /// The file, for syncing.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn offset(&self, piece: u32, begin: u32) -> u64 {
        u64::from(piece) * u64::from(self.piece_bytes) + u64::from(begin)
    }
}

impl PieceStore for FileStore {
    fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.offset(piece, 0))
    }

    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, self.offset(piece, begin))
    }

    fn write_piece_parts(&self, piece: u32, parts: &[&[u8]]) -> io::Result<()> {
        write_parts_at(&self.file, parts, self.offset(piece, 0))
    }

    fn place(&self, piece: u32, begin: u32) -> Option<(BorrowedFd<'_>, u64)> {
        Some((self.file.as_fd(), self.offset(piece, begin)))
    }
}

/// Pieces in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    pieces: RwLock<BTreeMap<u32, Box<[u8]>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A store that holds all of `bytes`.
    pub fn holding(bytes: &[u8], piece_bytes: u32) -> MemoryStore {
        let pieces = (0_u32..).zip(bytes.chunks((piece_bytes as usize).max(1)).map(Box::from));
        MemoryStore { pieces: RwLock::new(pieces.collect()) }
    }

    /// All stored pieces in order.
    pub fn contents(&self) -> Vec<u8> {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        pieces.values().flat_map(|piece| piece.iter().copied()).collect()
    }
}

impl PieceStore for MemoryStore {
    fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        let copy = Box::from(bytes);
        self.pieces.write().unwrap_or_else(PoisonError::into_inner).insert(piece, copy);
        Ok(())
    }

    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()> {
        let pieces = self.pieces.read().unwrap_or_else(PoisonError::into_inner);
        let from = begin as usize;
        let block = pieces.get(&piece).and_then(|bytes| bytes.get(from..from.checked_add(out.len())?));
        out.copy_from_slice(block.ok_or(io::ErrorKind::NotFound)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_stores_give_back_what_they_were_given() {
        let file = FileStore::new(tempfile::tempfile().unwrap(), 8);
        let memory = MemoryStore::new();
        for store in [&file as &dyn PieceStore, &memory] {
            store.write_piece(1, b"89abcde").unwrap();
            store.write_piece(0, b"01234567").unwrap();
            let mut out = [0; 3];
            store.read_block(1, 2, &mut out).unwrap();
            assert_eq!(&out, b"abc");
            assert!(store.read_block(1, 5, &mut out).is_err(), "beyond the end");
            assert!(store.read_block(9, 0, &mut out).is_err(), "never stored");
        }
        assert_eq!(memory.contents(), b"0123456789abcde");
    }

    #[test]
    fn parts_are_written_behind_one_another() {
        let bytes: Vec<u8> = (0..5000_u16).flat_map(u16::to_le_bytes).collect();
        let (file, memory) = (FileStore::new(tempfile::tempfile().unwrap(), 10_000), MemoryStore::new());
        // More parts than one call takes, and empty ones.
        let parts: Vec<&[u8]> = bytes.chunks(3).flat_map(|part| [part, &[]]).collect();
        for store in [&file as &dyn PieceStore, &memory] {
            store.write_piece_parts(1, &parts).unwrap();
            let mut out = vec![0; bytes.len()];
            store.read_block(1, 0, &mut out).unwrap();
            assert!(out == bytes);
        }
        assert_eq!(file.place(1, 7).map(|(_, offset)| offset), Some(10_007));
    }
}
