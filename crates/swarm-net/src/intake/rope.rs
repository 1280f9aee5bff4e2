//! What one read brought, scattered over heads and block buffers, as one run of bytes.

use crate::buffers::{Buffer, Pool};
use std::io::IoSliceMut;
use std::sync::Arc;
use swarm::BLOCK_BYTES;
use swarm::wire::BLOCK_HEAD_BYTES;

/// Blocks that one read can bring: 128 KiB make a read's fixed cost small, and are all that a connection holds
/// beside its open message, which is a block or 64 KiB at most.
pub(super) const BLOCKS_AT_ONCE: usize = 8;

/// Most slices that a rope is.
pub(super) const SLICES_MAX: usize = 2 * BLOCKS_AT_ONCE;

/// One head and one block.
const UNIT: usize = BLOCK_HEAD_BYTES + BLOCK_BYTES as usize;

#[derive(Debug)]
pub(super) struct Rope {
    heads: [[u8; BLOCK_HEAD_BYTES]; BLOCKS_AT_ONCE],
    spares: Vec<Buffer>,
    /// Bytes from `at` to `end` are here and not cut yet.
    at: usize,
    end: usize,
    /// How many spares the next read gets: twice as many if all were filled, else one more than were needed.
    ahead: usize,
}

impl Default for Rope {
    fn default() -> Rope {
        let heads = [[0; BLOCK_HEAD_BYTES]; BLOCKS_AT_ONCE];
        Rope { heads, spares: Vec::new(), at: 0, end: 0, ahead: 1 }
    }
}

impl Rope {
    /// Starts anew: `known` bytes of the first head are here, the rest is room.
    pub(super) fn room<'a>(
        &'a mut self,
        pool: &Arc<Pool>,
        known: [u8; BLOCK_HEAD_BYTES],
        known_bytes: usize,
        slices: &mut Vec<IoSliceMut<'a>>,
    ) {
        (self.at, self.end) = (0, known_bytes);
        while self.spares.len() < self.ahead {
            self.spares.push(pool.take());
        }
        if let Some(first) = self.heads.first_mut() {
            *first = known;
        }
        let mut from = known_bytes;
        for (head, spare) in self.heads.iter_mut().zip(&mut self.spares).take(self.ahead) {
            slices.push(IoSliceMut::new(head.get_mut(from..).unwrap_or_default()));
            slices.push(IoSliceMut::new(spare.bytes_mut()));
            from = 0;
        }
    }

    /// So many bytes of the room came.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
        let full = self.end >= self.ahead * UNIT;
        let next = if full { self.ahead * 2 } else { self.end.div_ceil(UNIT) + 1 };
        self.ahead = next.min(BLOCKS_AT_ONCE);
    }

    /// Gives the spares back.
    pub(super) fn rest(&mut self) {
        (self.at, self.end) = (0, 0);
        self.spares.clear();
    }

    /// The bytes at `place` that lie together.
    fn run(&self, place: usize) -> &[u8] {
        let (unit, offset) = (place / UNIT, place % UNIT);
        let run = match offset.checked_sub(BLOCK_HEAD_BYTES) {
            None => self.heads.get(unit).and_then(|head| head.get(offset..)),
            Some(offset) => self.spares.get(unit).and_then(|spare| spare.bytes().get(offset..)),
        };
        let run = run.unwrap_or_default();
        run.get(..self.end.saturating_sub(place)).unwrap_or(run)
    }

    /// Copies the next bytes without taking them; gives how many there were.
    pub(super) fn peek(&self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        while let Some(rest) = out.get_mut(copied..).filter(|rest| !rest.is_empty()) {
            let run = self.run(self.at + copied);
            if run.is_empty() {
                break;
            }
            let length = run.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..length), run.get(..length)) {
                to.copy_from_slice(from);
            }
            copied += length;
        }
        copied
    }

    /// Takes the next bytes; gives how many there were.
    pub(super) fn copy(&mut self, out: &mut [u8]) -> usize {
        let copied = self.peek(out);
        self.at += copied;
        copied
    }

    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Takes a block's head and, if the block lies where a block was expected, also its bytes, in their buffer
    /// and uncopied. Gives a buffer and how much of the block is in it.
    pub(super) fn take_block(&mut self, block_bytes: usize, pool: &Arc<Pool>) -> (Buffer, usize) {
        let unit = self.at / UNIT;
        let expected = self.at.is_multiple_of(UNIT);
        self.at += BLOCK_HEAD_BYTES;
        let here = self.end - self.at;
        // A shorter block in the midst leaves what follows it in the same buffer.
        let alone = block_bytes == BLOCK_BYTES as usize || here <= block_bytes;
        match self.spares.get_mut(unit).filter(|_| expected && alone) {
            Some(spare) => {
                let filled = here.min(block_bytes);
                self.at += filled;
                (std::mem::replace(spare, pool.take()), filled)
            }
            None => (pool.take(), 0),
        }
    }
}
