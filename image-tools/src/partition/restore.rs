//! An image of a partition -> the partition: every frame checked, written, read back.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use image_apply::{PartitionWriter, verify_partition};
use image_format::FrameIndex;

use super::open_unused;
use crate::image_file::ImageFile;
use crate::pending::Pending;
use crate::processors::on_all_processors;
use crate::progress;
use crate::text;

/// Writes the image's partition to `target`: a device, whose contents go, or a new file.
pub(crate) fn restore(image: &ImageFile, target: &Path, overwrite: bool) -> Result<()> {
    let shown = target.display();
    let begin = |to: File| PartitionWriter::begin(to, Arc::clone(&image.toc));
    let not_ours = || format!("{}: extract an image of files into a directory with -C", image.path.display());
    let (size, data) = if is_device(target) {
        ensure!(overwrite, "{shown} is a device: everything on it would go; say so with --overwrite");
        let (device, len, _) = open_unused(target, true)?;
        let writer = begin(device).with_context(not_ours)?;
        let size = writer.size();
        ensure!(len >= size, "{shown} has {}, and the image needs {}", text::bytes(len), text::bytes(size));
        writer.clear(len).with_context(|| shown.to_string())?;
        (size, write(image, writer).with_context(|| shown.to_string())?)
    } else {
        ensure!(!target.exists() || overwrite, "{shown} is there already; replace it with --overwrite");
        let file = Pending::beside(target)?;
        let writer = begin(file.file().try_clone()?).with_context(not_ours)?;
        let size = writer.size();
        file.file().set_len(size).with_context(|| format!("writing {shown}"))?;
        let data = write(image, writer).with_context(|| shown.to_string())?;
        file.appear_as(target)?;
        (size, data)
    };
    let (size, data) = (text::bytes(size), text::bytes(data));
    println!("{shown}: a partition of {size} with {data} of data, read back and equal");
    Ok(())
}

fn is_device(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type()))
}

/// Bytes of data written and read back.
fn write(image: &ImageFile, writer: PartitionWriter) -> Result<u64> {
    let bar = progress::bytes("extracting", image.len);
    let frames: Vec<FrameIndex> = image.toc.frame_indices().collect();
    on_all_processors(&frames, |&index| {
        let frame = image.toc.frame(index).context("a frame is not there")?;
        writer.write_frame(index, &image.read_frame(frame)?)?;
        bar.inc(u64::from(frame.len));
        Ok(())
    })?;
    bar.finish_and_clear();
    let written = writer.finish()?;
    let total = image.toc.frames().iter().map(|frame| u64::from(frame.raw_len)).sum();
    let bar = progress::bytes("reading back", total);
    let report = verify_partition(&written, &image.toc, &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    Ok(report.bytes)
}
