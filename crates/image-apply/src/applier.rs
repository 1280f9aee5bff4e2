//! Skeleton -> frames in any order, from any number of threads -> links, and what a directory has of its own.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use image_format::{EntryIndex, Extent, FrameError, FrameIndex, Toc, decompress_frame};

use crate::beneath::{self, Parents};
use crate::buffers::Buffers;
use crate::finish;
use crate::flush::Flusher;
use crate::reuse::{self, Reused, Source};
use crate::skeleton::{self, Skeleton};
use crate::write;

/// Writes one image beneath one directory.
///
/// ```text
/// begin -- skeleton made --> write_frame ... write_frame -- all frames written --> finish -> AppliedTree
/// ```
/// The skeleton is every directory and all that has no data. A file whose data lies in one frame, as nearly all do, is
/// made, written and given its owner, mode and times when that frame comes, and not opened again.
///
/// Memory: one uncompressed frame (at most 16 MiB) per thread that is in [`Applier::write_frame`].
#[derive(Debug)]
pub struct Applier {
    root: OwnedFd,
    toc: Arc<Toc>,
    skeleton: Skeleton,
    /// Files that were moved into their place from elsewhere, complete.
    placed: HashSet<EntryIndex>,
    frames: Vec<FrameState>,
    bytes: AtomicU64,
    buffers: Buffers,
    flusher: Flusher,
}

#[derive(Debug)]
struct FrameState {
    /// Writing it was begun, so files of it may be there.
    begun: AtomicBool,
    written: AtomicBool,
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
    /// It is an image of files.
    #[error("this is an image of files, not of a partition")]
    NotPartition,
    /// The device refused something.
    #[error("{doing} the partition")]
    Partition {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
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
        let skeleton = skeleton::make_directories(root.as_fd(), &toc)?;
        Self::begin_with(root, toc, skeleton, HashSet::new())
    }

    /// As [`Applier::begin_at`], but files whose contents a source has are taken from there. Frames that nothing else
    /// is needed of count as written; [`Applier::unwritten`] are the others.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn begin_reusing(
        root: OwnedFd,
        toc: Arc<Toc>,
        sources: &[Source<'_>],
    ) -> Result<(Self, Reused), ApplyError> {
        let skeleton = skeleton::make_directories(root.as_fd(), &toc)?;
        let (placed, reused) = reuse::place(root.as_fd(), &toc, sources)?;
        Ok((Self::begin_with(root, toc, skeleton, placed)?, reused))
    }

    fn begin_with(
        root: OwnedFd,
        toc: Arc<Toc>,
        skeleton: Skeleton,
        placed: HashSet<EntryIndex>,
    ) -> Result<Self, ApplyError> {
        skeleton::make_others(root.as_fd(), &toc, &skeleton, &placed)?;
        let is_needed = |index| toc.frame_extents(index).iter().any(|extent| !placed.contains(&extent.entry));
        let state = |index| {
            let written = !placed.is_empty() && !is_needed(index);
            FrameState { begun: AtomicBool::new(false), written: AtomicBool::new(written) }
        };
        let frames = toc.frame_indices().map(state).collect();
        let flusher = Flusher::start(root.as_fd()).map_err(ApplyError::Root)?;
        let (bytes, buffers) = (AtomicU64::new(0), Buffers::default());
        Ok(Self { root, toc, skeleton, placed, frames, bytes, buffers, flusher })
    }

    /// Checks a frame and writes the data in it. Writing one twice is harmless.
    ///
    /// # Errors
    /// See [`ApplyError`]; after [`ApplyError::Frame`] nothing was written and the right bytes can still come.
    pub fn write_frame(&self, index: FrameIndex, compressed: &[u8]) -> Result<(), ApplyError> {
        let unknown = || ApplyError::UnknownFrame(index.get());
        let frame = self.toc.frame(index).ok_or_else(unknown)?;
        let state = self.frames.get(index.get() as usize).ok_or_else(unknown)?;
        let mut raw = self.buffers.take();
        decompress_frame(frame, compressed, &mut raw)
            .map_err(|source| ApplyError::Frame { frame: index.get(), source })?;
        let again = state.begun.swap(true, Ordering::AcqRel);
        let extents = self.toc.frame_extents(index);
        let mut parents = Parents::new(self.root.as_fd(), &self.toc);
        for of_one_file in extents.chunk_by(|a, b| a.entry == b.entry) {
            if of_one_file.first().is_some_and(|extent| self.placed.contains(&extent.entry)) {
                continue;
            }
            self.write_file(&mut parents, of_one_file, &raw, again)?;
        }
        self.buffers.put_back(raw);
        if !state.written.swap(true, Ordering::AcqRel) {
            let bytes = extents.iter().map(|extent| u64::from(extent.len)).sum();
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.flusher.wrote(bytes);
        }
        Ok(())
    }

    /// Whether a frame was written.
    #[must_use]
    pub fn is_written(&self, index: FrameIndex) -> bool {
        self.frames.get(index.get() as usize).is_some_and(|state| state.written.load(Ordering::Acquire))
    }

    /// The frames that [`Applier::finish`] still needs.
    #[must_use]
    pub fn unwritten(&self) -> Vec<FrameIndex> {
        self.toc.frame_indices().filter(|&index| !self.is_written(index)).collect()
    }

    /// Bytes of file data written so far.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Makes hard links, sets what is not set yet, and hands everything to the disk.
    ///
    /// # Errors
    /// [`ApplyError::Missing`] while a frame is not written; else see [`ApplyError`].
    pub fn finish(self) -> Result<AppliedTree, ApplyError> {
        let missing = self.unwritten();
        if let Some(first) = missing.first() {
            return Err(ApplyError::Missing { missing: missing.len(), first: first.get() });
        }
        finish::set_all(self.root.as_fd(), &self.toc, &self.skeleton, &self.placed)?;
        self.flusher.stop().map_err(ApplyError::Sync)?;
        rustix::fs::syncfs(&self.root).map_err(|error| ApplyError::Sync(error.into()))?;
        Ok(AppliedTree { entries: self.toc.entries().len() as u64, bytes: self.bytes.into_inner() })
    }

    /// Writes what one frame has of one file.
    fn write_file(
        &self,
        parents: &mut Parents<'_>,
        extents: &[Extent],
        raw: &[u8],
        again: bool,
    ) -> Result<(), ApplyError> {
        let Some(index) = extents.first().map(|extent| extent.entry) else { return Ok(()) };
        let failed = |doing| move |source| ApplyError::entry(&self.toc, index, doing, source);
        let entry =
            self.toc.entry(index).ok_or_else(|| failed(Doing::Creating)(io::ErrorKind::NotFound.into()))?;
        let parent = parents.of(entry).map_err(failed(Doing::Creating))?;
        let name = self.toc.name(entry);
        if write::spans_frames(&self.toc, entry) {
            let file = write::open(parent, name).map_err(failed(Doing::Creating))?;
            return write::extents(&file, extents, raw).map_err(failed(Doing::Writing));
        }
        let file = write::create(parent, name, entry, again).map_err(failed(Doing::Creating))?;
        write::extents(&file, extents, raw).map_err(failed(Doing::Writing))?;
        if self.skeleton.is_plain(&self.toc, index, entry) {
            return Ok(());
        }
        finish::set_opened(&file, &entry.metadata, self.toc.xattrs(entry)).map_err(failed(Doing::Finishing))
    }
}
