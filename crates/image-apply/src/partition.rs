//! An image of a partition onto a partition: frames in any order, from any number of threads, and read back.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use image_format::{
    EntryIndex, EntryKind, FileContent, FrameIndex, Hash, NodeKind, PARTITION_FILE, Toc, decompress_frame,
};
use rustix::fs::{Advice, FallocateFlags};

use crate::applier::ApplyError;
use crate::buffers::Buffers;
use crate::contents::compare_data;
use crate::verify::{Mismatch, READ_BYTES, VerifyError, VerifyReport};

/// Writes the image of a partition to a device, or to a file that stands for one.
///
/// ```text
/// begin --> clear --> write_frame ... write_frame -- all frames written --> finish
/// ```
/// Memory: one uncompressed frame (at most 16 MiB) per thread that is in [`PartitionWriter::write_frame`].
#[derive(Debug)]
pub struct PartitionWriter {
    target: File,
    toc: Arc<Toc>,
    content: FileContent,
    written: Vec<AtomicBool>,
    buffers: Buffers,
}

impl PartitionWriter {
    /// Nothing is written yet. `target` has to be as large as [`PartitionWriter::size`] says.
    ///
    /// # Errors
    /// [`ApplyError::NotPartition`] for an image of files.
    pub fn begin(target: File, toc: Arc<Toc>) -> Result<Self, ApplyError> {
        let (content, _) = content(&toc).ok_or(ApplyError::NotPartition)?;
        let written = toc.frame_indices().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { target, toc, content, written, buffers: Buffers::default() })
    }

    /// Bytes of the partition that the image was made of.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.content.size
    }

    /// Makes zeros of the image's holes, and of what lies between the partition's end and `end`: nothing that was there
    /// before may look like part of a file system, or like another one that ends with the device.
    ///
    /// # Errors
    /// The device refuses.
    pub fn clear(&self, end: u64) -> Result<(), ApplyError> {
        let mut at = 0;
        let data = self.content.extents.iter().map(|extent| (extent.offset, extent.offset + extent.len));
        for (start, next) in data.chain([(end, end)]) {
            if start > at {
                let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&self.target, flags, at, start - at).map_err(failed("clearing"))?;
            }
            at = next;
        }
        Ok(())
    }

    /// Checks a frame and writes its data. Writing one twice is harmless.
    ///
    /// # Errors
    /// See [`ApplyError`]; after [`ApplyError::Frame`] nothing was written and the right bytes can still come.
    pub fn write_frame(&self, index: FrameIndex, compressed: &[u8]) -> Result<(), ApplyError> {
        let unknown = || ApplyError::UnknownFrame(index.get());
        let frame = self.toc.frame(index).ok_or_else(unknown)?;
        let written = self.written.get(index.get() as usize).ok_or_else(unknown)?;
        let mut raw = self.buffers.take();
        decompress_frame(frame, compressed, &mut raw)
            .map_err(|source| ApplyError::Frame { frame: index.get(), source })?;
        for extent in self.toc.frame_extents(index) {
            let from = extent.frame_offset as usize;
            let data = raw.get(from..from + extent.len as usize).unwrap_or_default();
            self.target.write_all_at(data, extent.file_offset).map_err(failed("writing"))?;
        }
        self.buffers.put_back(raw);
        written.store(true, Ordering::Release);
        Ok(())
    }

    /// Hands everything to the disk.
    ///
    /// # Errors
    /// [`ApplyError::Missing`] while a frame is not written, or the disk refuses.
    pub fn finish(self) -> Result<File, ApplyError> {
        let is_missing = |written: &AtomicBool| !written.load(Ordering::Acquire);
        let missing = self.written.iter().filter(|written| is_missing(written)).count();
        if let Some(first) = self.written.iter().position(is_missing) {
            return Err(ApplyError::Missing { missing, first: u32::try_from(first).unwrap_or(u32::MAX) });
        }
        self.target.sync_all().map_err(ApplyError::Sync)?;
        Ok(self.target)
    }
}

/// Reads the data of a partition back and compares its hash. What lies in the image's holes is not looked at.
/// `progress` gets the bytes as they are read.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify_partition(
    target: &File,
    toc: &Toc,
    progress: &dyn Fn(u64),
) -> Result<VerifyReport, VerifyError> {
    read_back(target, toc, progress)
        .map_err(|mismatch| mismatch.of(String::from_utf8_lossy(PARTITION_FILE).into_owned()))
}

fn read_back(target: &File, toc: &Toc, progress: &dyn Fn(u64)) -> Result<VerifyReport, Mismatch> {
    let (content, expected) =
        content(toc).ok_or_else(|| Mismatch::Different("the image is one of files".to_owned()))?;
    // What is still in memory proves nothing about the disk.
    rustix::fs::fadvise(target, 0, None, Advice::DontNeed)?;
    let data = content.extents.iter().map(|extent| extent.offset..extent.offset + extent.len);
    let bytes = compare_data(target.as_fd(), data, expected, &mut vec![0; READ_BYTES], progress)?;
    Ok(VerifyReport { entries: 1, bytes })
}

/// The data of the only file of an image of a partition, and its hash; `None` for any other image.
fn content(toc: &Toc) -> Option<(FileContent, Option<Hash>)> {
    let index = toc.entries().map(|(index, _)| index).find(|index| *index != EntryIndex::ROOT)?;
    let node = toc.node(index)?;
    match (node.kind, &toc.entry(index)?.kind) {
        (NodeKind::File(content), EntryKind::File { hash, .. })
            if node.path == PARTITION_FILE && toc.entries().len() == 2 =>
        {
            Some((content, *hash))
        }
        _ => None,
    }
}

fn failed<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> ApplyError {
    move |source| ApplyError::Partition { doing, source: source.into() }
}
