//! Where frames go: a tree of files, or the blocks of a partition.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_apply::{Applier, ApplyError, PartitionWriter};
use image_format::{FrameIndex, Toc};
use nix::libc;

use super::FetchError;

/// What an image is written to.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A directory, empty but for mount points: images of files.
    Tree(PathBuf),
    /// The device of the new root: images of a partition.
    Device(PathBuf),
}

/// Takes frames in any order, from any thread.
#[derive(Debug)]
pub(crate) enum Writer {
    Tree(Applier),
    Partition(PartitionWriter),
}

impl Place {
    /// Makes what an image needs before its first frame. Blocks.
    pub(super) fn begin(&self, toc: &Arc<Toc>) -> Result<Writer, FetchError> {
        match self {
            Self::Tree(root) => Ok(Writer::Tree(Applier::begin(root, Arc::clone(toc))?)),
            Self::Device(device) => begin_on(device, toc).map(Writer::Partition),
        }
    }
}

fn begin_on(device: &Path, toc: &Arc<Toc>) -> Result<PartitionWriter, FetchError> {
    let name = || device.display().to_string();
    let (target, have) = open(device).map_err(|source| FetchError::Open { device: name(), source })?;
    let writer = PartitionWriter::begin(target, Arc::clone(toc))?;
    let needed = writer.size();
    if have < needed {
        return Err(FetchError::TooSmall { device: name(), have, needed });
    }
    tracing::info!("{}: {} MiB are cleared", name(), needed >> 20);
    writer.clear(needed)?;
    Ok(writer)
}

/// The device for us alone, and its length in bytes.
fn open(device: &Path) -> io::Result<(File, u64)> {
    let target = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(device)?;
    let length = io::Seek::seek(&mut &target, io::SeekFrom::End(0))?;
    Ok((target, length))
}

impl Writer {
    pub(super) fn write_frame(&self, index: FrameIndex, compressed: &[u8]) -> Result<(), ApplyError> {
        match self {
            Self::Tree(applier) => applier.write_frame(index, compressed),
            Self::Partition(writer) => writer.write_frame(index, compressed),
        }
    }

    /// Hands everything to the disk. Blocks.
    pub(super) fn finish(self) -> Result<(), ApplyError> {
        match self {
            Self::Tree(applier) => applier.finish().map(drop),
            Self::Partition(writer) => writer.finish().map(drop),
        }
    }
}
