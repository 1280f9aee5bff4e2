//! Stores for test beds: one that keeps nothing, and one that lies.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use swarm_net::{FileStore, PieceStore};

/// Takes pieces and keeps none; serves them from a file that holds the same. So many peers share one page cache.
pub(super) struct Mirror(pub(super) FileStore);

impl PieceStore for Mirror {
    fn write_piece(&self, _piece: u32, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()> {
        self.0.read_block(piece, begin, out)
    }

    fn write_piece_parts(&self, _piece: u32, _parts: &[&[u8]]) -> io::Result<()> {
        Ok(())
    }

    fn place(&self, piece: u32, begin: u32) -> Option<(BorrowedFd<'_>, u64)> {
        self.0.place(piece, begin)
    }
}

/// Damages every Nth block that it serves, as broken memory would.
pub(super) struct Corrupting {
    store: Arc<dyn PieceStore>,
    every: u32,
    served: AtomicU32,
}

impl Corrupting {
    pub(super) fn new(store: Arc<dyn PieceStore>, every: u32) -> Self {
        Self { store, every, served: AtomicU32::new(0) }
    }
}

impl PieceStore for Corrupting {
    fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        self.store.write_piece(piece, bytes)
    }

    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()> {
        self.store.read_block(piece, begin, out)?;
        let number = self.served.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if number.is_multiple_of(self.every.max(1))
            && let Some(byte) = out.first_mut()
        {
            *byte ^= 0x10;
        }
        Ok(())
    }
}
