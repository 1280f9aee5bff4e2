//! Cuts a peer's stream of bytes into messages; bytes of blocks go from the socket to where they stay.
//!
//! Most of a busy stream is whole blocks, each behind 13 bytes of head. So a read scatters: first what is
//! missing of the open message, then 13 bytes of head, a block's buffer, 13 bytes, a buffer, and so on. While
//! the guess holds, nothing is copied; where another message stands in between, the rest of that read is moved
//! once. Never touches a socket.
//!
//! ```text
//!   room():  [rest of the open message][head][spare 16 KiB][head][spare 16 KiB]...
//!                                      \____________ the rope, cut by take() ____/
//! ```

mod rope;
#[cfg(test)]
mod tests;

use crate::buffers::{Buffer, Pool};
use rope::Rope;
use std::io::IoSliceMut;
use std::sync::Arc;
use swarm::wire::{BLOCK_HEAD_BYTES, Decoder, Message, RawBlock, WireError, block_head};

/// Messages given to the loop at once. A keep-alive has 4 bytes on the wire and a dozen times that in memory:
/// without this bound a stranger fills the queue of inputs with hundreds of MiB.
const MESSAGES_AT_ONCE: usize = 256;

/// What is looked at to see what a message is: the frequent ones (requests, HAVEs) are not longer.
const PEEK_BYTES: usize = 17;

/// What a peer sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Message),
    Block(Arrived),
}

/// A block and its bytes, as far as they are here.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) raw: RawBlock,
    buffer: Buffer,
    filled: usize,
}

impl Arrived {
    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    fn missing(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut().get_mut(self.filled..self.raw.len as usize).unwrap_or_default()
    }
}

/// The message that has begun and not ended.
#[derive(Debug)]
enum Open {
    /// Fewer bytes than tell what it is, or none.
    Unknown {
        start: [u8; BLOCK_HEAD_BYTES],
        there: usize,
    },
    Block(Arrived),
    /// Another kind, in its whole length; the first `there` bytes are here.
    Other {
        bytes: Vec<u8>,
        there: usize,
    },
}

const NOTHING: Open = Open::Unknown { start: [0; BLOCK_HEAD_BYTES], there: 0 };

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Intake {
    decoder: Decoder,
    pool: Arc<Pool>,
    open: Open,
    rope: Rope,
}

impl Intake {
    pub(crate) fn new(decoder: Decoder, pool: Arc<Pool>) -> Intake {
        Intake { decoder, pool, open: NOTHING, rope: Rope::default() }
    }

    /// Where the next read goes. To be called when [`Intake::take`] has nothing more.
    pub(crate) fn room(&mut self) -> Vec<IoSliceMut<'_>> {
        self.recover();
        let mut slices = Vec::with_capacity(1 + rope::SLICES_MAX);
        let (known, known_bytes) = match &mut self.open {
            Open::Unknown { start, there } => (*start, std::mem::take(there)),
            Open::Block(block) => {
                slices.push(IoSliceMut::new(block.missing()));
                ([0; BLOCK_HEAD_BYTES], 0)
            }
            Open::Other { bytes, there } => {
                slices.push(IoSliceMut::new(bytes.get_mut(*there..).unwrap_or_default()));
                ([0; BLOCK_HEAD_BYTES], 0)
            }
        };
        self.rope.room(&self.pool, known, known_bytes, &mut slices);
        slices
    }

    /// So many bytes were read into the room.
    pub(crate) fn filled(&mut self, mut bytes: usize) {
        match &mut self.open {
            Open::Unknown { .. } => {}
            Open::Block(block) => {
                let taken = bytes.min(block.missing().len());
                block.filled += taken;
                bytes -= taken;
            }
            Open::Other { bytes: whole, there } => {
                let taken = bytes.min(whole.len() - *there);
                *there += taken;
                bytes -= taken;
            }
        }
        self.rope.filled(bytes);
    }

    /// Nothing more can be read for now: gives up what was set aside for it.
    pub(crate) fn rest(&mut self) {
        self.recover();
        self.rope.rest();
    }

    /// The start of a message that [`Intake::room`] moved into the rope comes back if no read followed.
    fn recover(&mut self) {
        if let Open::Unknown { start, there } = &mut self.open {
            *there += self.rope.copy(start.get_mut(*there..).unwrap_or_default());
        }
    }

    /// The next messages; none if more bytes are needed.
    pub(crate) fn take(&mut self) -> Result<Vec<Incoming>, WireError> {
        let mut messages = Vec::new();
        while messages.len() < MESSAGES_AT_ONCE
            && let Some(message) = self.next()?
        {
            messages.push(message);
        }
        Ok(messages)
    }

    fn next(&mut self) -> Result<Option<Incoming>, WireError> {
        if matches!(self.open, Open::Unknown { .. })
            && let Some(whole) = self.begin()?
        {
            return Ok(Some(Incoming::Message(whole)));
        }
        match &mut self.open {
            Open::Unknown { .. } => return Ok(None),
            Open::Block(block) => {
                block.filled += self.rope.copy(block.missing());
                if !block.missing().is_empty() {
                    return Ok(None);
                }
            }
            Open::Other { bytes, there } => {
                *there += self.rope.copy(bytes.get_mut(*there..).unwrap_or_default());
                if *there < bytes.len() {
                    return Ok(None);
                }
            }
        }
        match std::mem::replace(&mut self.open, NOTHING) {
            Open::Unknown { .. } => Ok(None),
            Open::Block(block) => Ok(Some(Incoming::Block(block))),
            Open::Other { bytes, .. } => {
                Ok(self.decoder.decode(&bytes)?.map(|decoded| Incoming::Message(decoded.message)))
            }
        }
    }

    /// Looks at what comes next in the rope and opens it. A short message that is wholly there is given at once.
    fn begin(&mut self) -> Result<Option<Message>, WireError> {
        let mut peeked = [0; PEEK_BYTES];
        let count = self.rope.peek(&mut peeked);
        if count == 0 {
            // What is known of it already waits for the next read.
            return Ok(None);
        }
        let there = peeked.get(..count).unwrap_or_default();
        if let Some(head) = there.first_chunk::<BLOCK_HEAD_BYTES>()
            && let Some(raw) = block_head(head)?
        {
            let (buffer, filled) = self.rope.take_block(raw.len as usize, &self.pool);
            self.open = Open::Block(Arrived { raw, buffer, filled });
            return Ok(None);
        }
        let is_block = there.get(4) == Some(&7);
        // A length over the limit is an error here, before anything is allocated for it.
        if !is_block && let Some(decoded) = self.decoder.decode(there)? {
            self.rope.skip(decoded.used);
            return Ok(Some(decoded.message));
        }
        match there {
            [a, b, c, d, id, ..] if *id != 7 => {
                let whole = 4 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                self.open = Open::Other { bytes: vec![0; whole], there: 0 };
            }
            few => {
                let mut start = [0; BLOCK_HEAD_BYTES];
                start.iter_mut().zip(few).for_each(|(to, from)| *to = *from);
                self.open = Open::Unknown { start, there: count };
                self.rope.skip(count);
            }
        }
        Ok(None)
    }
}
