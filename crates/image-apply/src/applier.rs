//! Skeleton -> frames in any order, from any number of threads -> owners, modes, times.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use image_format::{EntryIndex, Extent, FrameError, FrameIndex, Toc, decompress_frame};
use rustix::fs::OFlags;

use crate::beneath;
use crate::finish;
use crate::skeleton::{self, Skeleton};

/// Writes one image beneath one directory.
///
/// ```text
/// begin -- skeleton made --> write_frame ... write_frame -- all frames written --> finish -> AppliedTree
/// ```
/// Memory: one uncompressed frame (at most 16 MiB) per thread that is in [`Applier::write_frame`].
#[derive(Debug)]
pub struct Applier {
    root: OwnedFd,
    toc: Arc<Toc>,
    skeleton: Skeleton,
    written: Vec<AtomicBool>,
    bytes: AtomicU64,
    /// Uncompressed frames that nobody uses at the moment; as many as threads ever were in at once.
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// A tree that is complete, with every owner, mode and time, and handed to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedTree {
    /// Names made.
    pub entries: u64,
    /// Bytes of file data written.
    pub bytes: u64,
}

/// What was being done to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Making it.
    Creating,
    /// Writing its data.
    Writing,
    /// Setting owner, mode, attributes, time or flags.
    Finishing,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Writing => "writing",
            Self::Finishing => "setting owner, mode and attributes of",
        })
    }
}

/// The tree is incomplete and must not be booted.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The root directory itself.
    #[error("opening the root directory of the new system")]
    Root(#[source] io::Error),
    /// The file system refused something.
    #[error("{doing} /{path}")]
    Entry {
        /// Which entry.
        path: String,
        /// What was being done.
        doing: Doing,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The frame's bytes are not those of the image; nothing of it was written. Fetch it again.
    #[error("frame {frame} was refused")]
    Frame {
        /// Which.
        frame: u32,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// A frame of another table.
    #[error("there is no frame {0} in this image")]
    UnknownFrame(u32),
    /// `finish` came too early.
    #[error("{missing} frames of the image are not written yet, the first is {first}")]
    Missing {
        /// How many.
        missing: usize,
        /// The first of them.
        first: u32,
    },
    /// Data could not be handed to the disk.
    #[error("writing the new system out to the disk")]
    Sync(#[source] io::Error),
}

impl ApplyError {
    pub(crate) fn entry(toc: &Toc, index: EntryIndex, doing: Doing, source: io::Error) -> Self {
        Self::Entry { path: String::from_utf8_lossy(&toc.path(index)).into_owned(), doing, source }
    }
}

impl Applier {
    /// Makes the skeleton beneath the directory `root`, which should be empty; mount points may be there.
    ///
    /// # Errors
    /// See [`ApplyError`]; what was made stays.
    pub fn begin(root: &Path, toc: Arc<Toc>) -> Result<Self, ApplyError> {
        Self::begin_at(beneath::open_root(root).map_err(ApplyError::Root)?, toc)
    }

    /// As [`Applier::begin`], for a directory that is open already.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn begin_at(root: OwnedFd, toc: Arc<Toc>) -> Result<Self, ApplyError> {
        let skeleton = skeleton::make(root.as_fd(), &toc)?;
        let written = toc.frames().iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { root, toc, skeleton, written, bytes: AtomicU64::new(0), buffers: Mutex::default() })
    }

    /// Checks a frame and writes the data in it. Writing one twice is harmless.
    ///
    /// # Errors
    /// See [`ApplyError`]; after [`ApplyError::Frame`] nothing was written and the right bytes can still come.
    pub fn write_frame(&self, index: FrameIndex, compressed: &[u8]) -> Result<(), ApplyError> {
        let frame = self.toc.frame(index).ok_or(ApplyError::UnknownFrame(index.get()))?;
        let mut raw = self.take_buffer();
        decompress_frame(frame, compressed, &mut raw)
            .map_err(|source| ApplyError::Frame { frame: index.get(), source })?;
        let extents = self.toc.frame_extents(index);
        for extent in extents {
            self.write_extent(extent, &raw)
                .map_err(|source| ApplyError::entry(&self.toc, extent.entry, Doing::Writing, source))?;
        }
        self.return_buffer(raw);
        let was_written =
            self.written.get(index.get() as usize).map(|written| written.swap(true, Ordering::AcqRel));
        if was_written == Some(false) {
            let bytes = extents.iter().map(|extent| u64::from(extent.len)).sum();
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether a frame was written.
    #[must_use]
    pub fn is_written(&self, index: FrameIndex) -> bool {
        self.written.get(index.get() as usize).is_some_and(|written| written.load(Ordering::Acquire))
    }

    /// Bytes of file data written so far.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Sets owners, modes, extended attributes, times and flags, and hands everything to the disk.
    ///
    /// # Errors
    /// [`ApplyError::Missing`] while a frame is not written; else see [`ApplyError`].
    pub fn finish(self) -> Result<AppliedTree, ApplyError> {
        let missing: Vec<_> = self.toc.frame_indices().filter(|&index| !self.is_written(index)).collect();
        if let Some(first) = missing.first() {
            return Err(ApplyError::Missing { missing: missing.len(), first: first.get() });
        }
        finish::set_all(self.root.as_fd(), &self.toc, &self.skeleton)?;
        rustix::fs::syncfs(&self.root).map_err(|error| ApplyError::Sync(error.into()))?;
        Ok(AppliedTree { entries: self.toc.entries().len() as u64, bytes: self.bytes.into_inner() })
    }

    fn write_extent(&self, extent: &Extent, raw: &[u8]) -> io::Result<()> {
        let from = extent.frame_offset as usize;
        let mut data = raw.get(from..from + extent.len as usize).unwrap_or_default();
        let file = beneath::open(self.root.as_fd(), &self.toc.path(extent.entry), OFlags::WRONLY)?;
        let mut offset = extent.file_offset;
        while !data.is_empty() {
            match rustix::io::pwrite(&file, data, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    data = data.get(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn take_buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn return_buffer(&self, buffer: Vec<u8>) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}
