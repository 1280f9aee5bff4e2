//! Where pieces lie: a file, memory, or whatever the agent applies images from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

/// Keeps whole pieces and gives back blocks of them. Called from several threads at once; may block.
pub trait PieceStore: Send + Sync {
    /// Stores a piece whose hash is right. When this returns, its blocks can be read.
    fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()>;

    /// Fills `out` from `begin` bytes into a piece that was stored.
    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()>;
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
}
