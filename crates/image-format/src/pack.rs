//! Cuts a tar stream into independent zstd frames that fill containers exactly.
//!
//! The compressor is fed so that its output is known after every step and can never overrun the container: full
//! blocks while there is room, ever smaller ones near the end. No frame is compressed twice.

use std::io::Write;

use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use crate::container::{CONTAINER_BYTES, FRAME_RAW_BYTES_MAX, PAD_HEADER_BYTES, next_container, pad_frame};
use crate::id::Hash;

/// zstd's largest block (RFC 8878): input is taken in such steps, so that flushing costs nothing.
const STEP_BYTES: usize = 128 << 10;
/// Below this a step near a container's end is not worth its block header and its entropy tables.
const LAST_STEP_BYTES: usize = 2 << 10;
/// Room that a new frame must have to be begun in a container.
const NEW_FRAME_BYTES: u64 = 64 << 10;
/// Frame header, end block and checksum.
const FRAME_OVERHEAD_BYTES: u64 = 32;
/// Matches reach back over a whole frame: frames are decompressed in one piece anyway.
const WINDOW_LOG: u32 = 24;

/// A frame as it lies in the packed output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedFrame {
    /// First byte, from where the packer was told that its output begins.
    pub offset: u64,
    /// Compressed bytes.
    pub len: u32,
    /// Bytes of the stream.
    pub raw_len: u32,
    /// BLAKE3 of the compressed bytes.
    pub hash: Hash,
}

/// Writing the packed output or compressing failed. What was written is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The output took no more.
    #[error("writing the compressed image")]
    Write(#[source] std::io::Error),
    /// zstd refused; a defect or no memory.
    #[error("compressing the image")]
    Compress(#[source] std::io::Error),
}

/// Packs one run of a tar stream. Equal streams, starts and levels give equal output, however it is pushed.
pub struct Packer<W> {
    output: W,
    encoder: Encoder<'static>,
    /// Where the next byte of output goes, as an offset in the image file or in a run that begins a container.
    position: u64,
    /// Stream bytes that wait until a step is full.
    waiting: Vec<u8>,
    /// The frame that is being made.
    frame: Vec<u8>,
    frame_raw: u32,
    frames: Vec<PackedFrame>,
}

impl<W: Write> Packer<W> {
    /// Writes to `output`, whose first byte will lie at `start` of the image file (or of a run of containers).
    ///
    /// # Errors
    /// A level that zstd does not know.
    pub fn new(output: W, level: i32, start: u64) -> Result<Self, PackError> {
        let mut encoder = Encoder::new(level).map_err(PackError::Compress)?;
        for parameter in [CParameter::WindowLog(WINDOW_LOG), CParameter::ChecksumFlag(true)] {
            encoder.set_parameter(parameter).map_err(PackError::Compress)?;
        }
        let frame = Vec::with_capacity(usize::try_from(CONTAINER_BYTES).unwrap_or(0));
        Ok(Self {
            output,
            encoder,
            position: start,
            waiting: Vec::new(),
            frame,
            frame_raw: 0,
            frames: Vec::new(),
        })
    }

    /// The next bytes of the stream.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while !bytes.is_empty() {
            let step = self.next_step()?;
            let missing = step.saturating_sub(self.waiting.len());
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.waiting.extend_from_slice(now);
            bytes = later;
            if self.waiting.len() >= step {
                self.compress_waiting(step)?;
            }
        }
        Ok(())
    }

    /// Ends the stream. Returns the frames, the output, and the offset behind its last byte; no pad follows it.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn finish(mut self) -> Result<(Vec<PackedFrame>, W, u64), PackError> {
        while !self.waiting.is_empty() {
            let step = self.next_step()?.min(self.waiting.len());
            self.compress_waiting(step)?;
        }
        self.end_frame()?;
        self.output.flush().map_err(PackError::Write)?;
        Ok((self.frames, self.output, self.position))
    }

    /// How many bytes can be compressed next so that, at worst, they still fit; ends the frame and the container
    /// when that is too few.
    fn next_step(&mut self) -> Result<usize, PackError> {
        loop {
            let raw_room = (FRAME_RAW_BYTES_MAX - self.frame_raw) as usize;
            let step = fitting_step(self.room()).min(raw_room);
            if step >= LAST_STEP_BYTES || (step > 0 && step == raw_room) {
                return Ok(step);
            }
            self.end_frame()?;
            if self.room() < NEW_FRAME_BYTES {
                self.end_container()?;
            }
        }
    }

    /// Bytes that the container still takes beside what the frame holds, its end, and a pad's header.
    fn room(&self) -> u64 {
        let end = next_container(self.position + 1);
        (end - self.position)
            .saturating_sub(self.frame.len() as u64 + FRAME_OVERHEAD_BYTES + PAD_HEADER_BYTES)
    }

    fn compress_waiting(&mut self, step: usize) -> Result<(), PackError> {
        if self.frame_raw == 0 {
            self.encoder.reinit().map_err(PackError::Compress)?;
        }
        let rest = self.waiting.split_off(step.min(self.waiting.len()));
        let mut input = InBuffer::around(self.waiting.as_slice());
        while input.pos() < input.src.len() {
            self.frame.reserve(STEP_BYTES);
            let filled = self.frame.len();
            let mut output = OutBuffer::around_pos(&mut self.frame, filled);
            self.encoder.run(&mut input, &mut output).map_err(PackError::Compress)?;
        }
        drain(&mut self.frame, |output| self.encoder.flush(output))?;
        self.frame_raw += u32::try_from(self.waiting.len()).unwrap_or(0);
        self.waiting = rest;
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), PackError> {
        if self.frame_raw == 0 {
            return Ok(());
        }
        drain(&mut self.frame, |output| self.encoder.finish(output, true))?;
        self.output.write_all(&self.frame).map_err(PackError::Write)?;
        let len = u32::try_from(self.frame.len()).unwrap_or(u32::MAX);
        let hash = Hash::of(&self.frame);
        self.frames.push(PackedFrame { offset: self.position, len, raw_len: self.frame_raw, hash });
        self.position += u64::from(len);
        self.frame.clear();
        self.frame_raw = 0;
        Ok(())
    }

    fn end_container(&mut self) -> Result<(), PackError> {
        let end = next_container(self.position);
        if let Some(pad) = pad_frame(end - self.position) {
            self.output.write_all(&pad).map_err(PackError::Write)?;
        }
        self.position = end;
        Ok(())
    }
}

/// The largest step whose worst case (zstd's bound for incompressible input) fits in `room`.
fn fitting_step(room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let worst = |step: usize| step + (step >> 8) + 64;
    if worst(STEP_BYTES) <= room {
        return STEP_BYTES;
    }
    // Multiples of 1 KiB: odd lengths would gain nothing.
    let step = (room.saturating_sub(64 + (room >> 8))) & !1023;
    if worst(step) <= room { step } else { 0 }
}

/// Calls `operation` with more room until it says that nothing is left inside.
fn drain(
    frame: &mut Vec<u8>,
    mut operation: impl FnMut(&mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<usize>,
) -> Result<(), PackError> {
    loop {
        frame.reserve(STEP_BYTES);
        let filled = frame.len();
        let mut output = OutBuffer::around_pos(frame, filled);
        if operation(&mut output).map_err(PackError::Compress)? == 0 {
            return Ok(());
        }
    }
}

/// How much room to keep in front of the data for a table of contents whose hashes and frames are not known yet.
///
/// `draft_len` is the compressed length of the table without them, `hashes` how many files have one, `stream_bytes`
/// the length of the tar stream. Deterministic, and a little too large on purpose: the rest becomes a pad.
#[must_use]
pub fn plan_toc_space(draft_len: u64, hashes: u64, stream_bytes: u64) -> u64 {
    let frames = stream_bytes / CONTAINER_BYTES + stream_bytes / u64::from(FRAME_RAW_BYTES_MAX) + 4;
    let table = draft_len + draft_len / 64 + hashes * 34 + frames * 42 + 1024;
    crate::container::HEADER_FRAME_BYTES + crate::container::TOC_FRAME_HEADER_BYTES + table + PAD_HEADER_BYTES
}

#[cfg(test)]
mod tests;
