//! An image of a partition -> the partition: every frame checked, written, read back.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use image_format::{EntryIndex, EntryKind, FileContent, FrameIndex, Hash, NodeKind, PARTITION_FILE, Toc};
use rustix::fs::{Advice, FallocateFlags};

use super::open_unused;
use crate::contents;
use crate::image_file::ImageFile;
use crate::pending::Pending;
use crate::processors::with_buffers;
use crate::progress;
use crate::text;

/// Writes the image's partition to `target`: a device, whose contents go, or a new file.
pub(crate) fn restore(image: &ImageFile, target: &Path, overwrite: bool) -> Result<()> {
    let shown = target.display();
    let part = Part::of(&image.toc).with_context(|| image.path.display().to_string())?;
    let size = part.content.size;
    if is_device(target) {
        ensure!(overwrite, "{shown} is a device: everything on it would go; say so with --overwrite");
        let (device, len, _) = open_unused(target, true)?;
        ensure!(len >= size, "{shown} has {}, and the image needs {}", text::bytes(len), text::bytes(size));
        part.zero_holes(&device, len).with_context(|| format!("clearing {shown}"))?;
        part.write(image, &device).with_context(|| format!("writing {shown}"))?;
        part.read_back(&device).with_context(|| format!("reading back {shown}"))?;
    } else {
        ensure!(!target.exists() || overwrite, "{shown} is there already; replace it with --overwrite");
        let file = Pending::beside(target)?;
        file.file().set_len(size).with_context(|| format!("writing {shown}"))?;
        part.write(image, file.file()).with_context(|| format!("writing {shown}"))?;
        part.read_back(file.file()).with_context(|| format!("reading back {shown}"))?;
        file.appear_as(target)?;
    }
    let data = text::bytes(part.content.data_bytes());
    println!("{shown}: a partition of {} with {data} of data, read back and equal", text::bytes(size));
    Ok(())
}

fn is_device(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type()))
}

/// The one file of the tree.
struct Part {
    content: FileContent,
    hash: Option<Hash>,
}

impl Part {
    fn of(toc: &Toc) -> Result<Self> {
        let index = toc.entries().map(|(index, _)| index).find(|index| *index != EntryIndex::ROOT);
        let node = index.and_then(|index| toc.node(index));
        let entry = index.and_then(|index| toc.entry(index));
        match (node.map(|node| (node.path, node.kind)), entry.map(|entry| &entry.kind)) {
            (Some((path, NodeKind::File(content))), Some(EntryKind::File { hash, .. }))
                if path == PARTITION_FILE && toc.entries().len() == 2 =>
            {
                Ok(Self { content, hash: *hash })
            }
            _ => Err(anyhow!(
                "this is an image of files, not of a partition: extract it into a directory with -C"
            )),
        }
    }

    /// Holes of the image are zeros, and so is what lies behind it: nothing that was on the device before must look
    /// like part of a file system, or like another one that ends with the device.
    fn zero_holes(&self, device: &File, end: u64) -> Result<()> {
        let mut at = 0;
        let starts = self.content.extents.iter().map(|extent| (extent.offset, extent.offset + extent.len));
        for (start, next) in starts.chain([(end, end)]) {
            if start > at {
                let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(device, flags, at, start - at).map_err(std::io::Error::from)?;
            }
            at = next;
        }
        Ok(())
    }

    fn write(&self, image: &ImageFile, target: &File) -> Result<()> {
        let bar = progress::bytes("extracting", image.len);
        let frames: Vec<FrameIndex> = image.toc.frame_indices().collect();
        with_buffers(&frames, |&index, raw| {
            let frame = image.toc.frame(index).context("a frame is not there")?;
            image.read_checked(index, raw)?;
            for extent in image.toc.frame_extents(index) {
                let from = extent.frame_offset as usize;
                let data = raw.get(from..from + extent.len as usize).unwrap_or_default();
                target.write_all_at(data, extent.file_offset)?;
            }
            bar.inc(u64::from(frame.len));
            Ok(())
        })?;
        bar.finish_and_clear();
        target.sync_all().context("handing it to the disk")
    }

    fn read_back(&self, target: &File) -> Result<()> {
        // What is still in memory proves nothing about the disk.
        rustix::fs::fadvise(target.as_fd(), 0, None, Advice::DontNeed).map_err(std::io::Error::from)?;
        let bar = progress::bytes("reading back", self.content.data_bytes());
        let mut hasher = blake3::Hasher::new();
        for extent in &self.content.extents {
            contents::read_range(target, extent.offset..extent.offset + extent.len, &mut |bytes| {
                hasher.update(bytes);
                bar.inc(bytes.len() as u64);
                Ok(())
            })?;
        }
        bar.finish_and_clear();
        let found = Hash::from(hasher.finalize());
        ensure!(self.hash.is_none_or(|hash| hash == found), "what was written is not what is read");
        Ok(())
    }
}
