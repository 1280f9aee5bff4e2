//! A partition's blocks -> an image, and back.
//!
//! The image's tree has one file as large as the partition; its data is what the file system uses and is not zero, its
//! holes are the rest. So frames, pieces, table and tar stream are those of any other image. Never reads a block that
//! the file system does not use, where we can tell: there is what was deleted.

mod restore;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use image_format::{
    DataExtent, FileContent, Metadata, Node, NodeKind, OwnerNames, PARTITION_FILE, Timestamp, Tree,
};
use image_source::{Found, find_file_system};

use crate::build::{self, BuildOptions};
use crate::contents::{self, Contents};
use crate::progress;

pub(crate) use restore::restore;

/// What is looked at as one: file systems allocate in units of this or of a quarter of it.
const UNIT_BYTES: u64 = 4096;
/// Shorter runs of zeros, used or not, are data: a frame holds them in fewer bytes than the table an extent.
const HOLE_BYTES_MIN: u64 = 64 << 10;
/// Most extents: what our tar reader and the table's readers are sure to take. With more, longer runs become data.
const EXTENTS_MAX: usize = 500_000;
/// Bytes read at once while looking for zeros.
const READ_BYTES: u64 = 1 << 20;
/// The only file has no time, so that equal partitions are equal images.
const NO_TIME: Timestamp = Timestamp { seconds: 0, nanoseconds: 0 };

/// A partition, opened so that nobody else writes to it.
struct Partition {
    file: File,
    len: u64,
    /// Of its file system; `unknown` is one too.
    kind: &'static str,
    /// What the file system uses, ascending, none touching; everything where that cannot be told.
    used: Vec<Range<u64>>,
    can_tell: bool,
}

/// Makes the image of the partition in `path`.
pub(crate) fn capture(path: &Path, options: &BuildOptions) -> Result<()> {
    let shown = path.display();
    let before = stamp(path)?;
    let partition = Partition::open(path).with_context(|| format!("capturing the partition {shown}"))?;
    let extents = partition.data().with_context(|| format!("reading {shown}"))?;
    let tree = tree(FileContent { size: partition.len, extents })?;
    if !partition.can_tell {
        let kind = partition.kind;
        eprintln!(
            "image-tools: {shown}: what a file system of kind {kind} uses cannot be told; all that is not zero is kept"
        );
    }
    build::build_partition(&tree, &partition, options, partition.kind)?;
    ensure!(stamp(path)? == before, "{shown} changed while it was read; capture it again, unmounted");
    Ok(())
}

/// What changes when somebody writes to a file; a device has nothing of the kind, but is ours alone.
fn stamp(path: &Path) -> Result<(u64, i64, i64)> {
    let metadata = std::fs::metadata(path).with_context(|| format!("opening {}", path.display()))?;
    let is_device = metadata.file_type().is_block_device();
    Ok(if is_device { (0, 0, 0) } else { (metadata.len(), metadata.mtime(), metadata.mtime_nsec()) })
}

/// Opens a device or a file. A device that is mounted or otherwise in use is refused.
pub(super) fn open_unused(path: &Path, write: bool) -> Result<(File, u64, bool)> {
    let metadata = std::fs::metadata(path).with_context(|| format!("opening {}", path.display()))?;
    let is_device = metadata.file_type().is_block_device();
    ensure!(is_device || metadata.is_file(), "{} is neither a block device nor a file", path.display());
    let mut options = File::options();
    options.read(true).write(write);
    if is_device {
        options.custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed());
    }
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            bail!("{} is in use: unmount it first", path.display())
        }
        file => file.with_context(|| format!("opening {}", path.display()))?,
    };
    let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
        .map_err(io::Error::from)
        .with_context(|| format!("looking for the end of {}", path.display()))?;
    Ok((file, len, is_device))
}

impl Partition {
    fn open(path: &Path) -> Result<Self> {
        let (file, len, _) = open_unused(path, false)?;
        ensure!(len > 0, "it is empty");
        let read = |offset, bytes: &mut [u8]| file.read_exact_at(bytes, offset);
        let found = find_file_system(&read, len)?;
        let kind = found.as_ref().map_or("unknown", |found| found.kind);
        let told = found.and_then(|Found { used, .. }| used);
        let can_tell = told.is_some();
        let used = told.unwrap_or_else(|| std::iter::once(0..len).collect());
        Ok(Self { file, len, kind, used, can_tell })
    }

    /// What is used and not zero, in runs of at least a unit, with at least [`HOLE_BYTES_MIN`] between them.
    fn data(&self) -> Result<Vec<DataExtent>> {
        let bar = progress::bytes("looking", self.used.iter().map(|range| range.end - range.start).sum());
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut buffer = Vec::new();
        for range in &self.used {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min((at + READ_BYTES) / UNIT_BYTES * UNIT_BYTES);
                buffer.resize(usize::try_from(end - at)?, 0);
                self.file.read_exact_at(&mut buffer, at)?;
                add_data(&mut found, &buffer, at);
                bar.inc(end - at);
                at = end;
            }
        }
        bar.finish_and_clear();
        let mut hole_bytes_min = HOLE_BYTES_MIN;
        while found.len() > EXTENTS_MAX {
            hole_bytes_min *= 2;
            found = joined(found, hole_bytes_min);
        }
        Ok(found
            .into_iter()
            .map(|range| DataExtent { offset: range.start, len: range.end - range.start })
            .collect())
    }
}

/// Adds the units of `bytes`, which lie at `at`, that are not zero.
fn add_data(found: &mut Vec<Range<u64>>, bytes: &[u8], at: u64) {
    let unit = usize::try_from(UNIT_BYTES).unwrap_or(usize::MAX);
    let mut offset = at;
    for part in bytes.chunks(unit) {
        let end = offset + part.len() as u64;
        if part.iter().any(|&byte| byte != 0) {
            match found.last_mut() {
                Some(last) if offset - last.end < HOLE_BYTES_MIN => last.end = end,
                _ => found.push(offset..end),
            }
        }
        offset = end;
    }
}

/// The same with shorter holes filled.
fn joined(ranges: Vec<Range<u64>>, hole_bytes_min: u64) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start.saturating_sub(last.end) < hole_bytes_min => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

impl Contents for Partition {
    fn read_part(
        &self,
        _: usize,
        _: &Node,
        content: &FileContent,
        part: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        for wanted in contents::data_ranges(content, &part) {
            let mut at = wanted.start;
            let first = self.used.partition_point(|range| range.end <= at);
            for range in self.used.iter().skip(first).take_while(|range| range.start < wanted.end) {
                let (start, end) = (range.start.max(at), range.end.min(wanted.end));
                zeros(start - at, each)?;
                contents::read_range(&self.file, start..end, each).context("reading the partition")?;
                at = end;
            }
            zeros(wanted.end - at, each)?;
        }
        Ok(())
    }
}

/// What is not used is not read: it may be anything.
fn zeros(mut count: u64, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let block = [0; 4096];
    while count > 0 {
        let now = count.min(block.len() as u64);
        each(block.get(..usize::try_from(now)?).unwrap_or_default())?;
        count -= now;
    }
    Ok(())
}

fn tree(content: FileContent) -> Result<Tree> {
    let node = |path: &[u8], mode, kind| Node {
        path: path.to_vec(),
        metadata: Metadata { mode, mtime: NO_TIME, ..Metadata::default() },
        names: OwnerNames::default(),
        xattrs: Vec::new(),
        kind,
    };
    let nodes =
        vec![node(b"", 0o755, NodeKind::Directory), node(PARTITION_FILE, 0o600, NodeKind::File(content))];
    Tree::new(nodes).map_err(|error| anyhow!("the image cannot hold {error}"))
}

#[cfg(test)]
mod tests {
    use super::{HOLE_BYTES_MIN, add_data, joined};

    #[test]
    fn short_runs_of_zeros_are_data() {
        let mut bytes = vec![0; 1 << 20];
        for at in [5000, 20_000, 151_072] {
            bytes[at] = 1;
        }
        let mut found = Vec::new();
        add_data(&mut found, &bytes, 1 << 30);
        let base = 1 << 30;
        assert_eq!(found, [base + 4096..base + 20_480, base + 147_456..base + 151_552]);
        let filled = joined(found, HOLE_BYTES_MIN * 4);
        assert_eq!((filled.len(), filled.first()), (1, Some(&(base + 4096..base + 151_552))));
    }
}
