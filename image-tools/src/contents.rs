//! Where the data of a tree's files is read from while its image is made.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};
use image_apply::{Inode, open_file};
use image_format::{FileContent, Node, Timestamp};
use rustix::fs::{AtFlags, StatxFlags};

use crate::text;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// Gives the data of files.
pub(crate) trait Contents: Sync {
    /// Calls `each` with these bytes of the data of node `index`, which is a file; data is counted without holes.
    fn read_part(
        &self,
        index: usize,
        node: &Node,
        content: &FileContent,
        part: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;

    /// All of the file's data.
    fn read(
        &self,
        index: usize,
        node: &Node,
        content: &FileContent,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.read_part(index, node, content, 0..content.data_bytes(), each)
    }
}

/// Where in a file these bytes of its data lie; data is counted without holes.
pub(crate) fn data_ranges(content: &FileContent, part: &Range<u64>) -> Vec<Range<u64>> {
    let mut at = 0;
    let mut ranges = Vec::new();
    for extent in &content.extents {
        let begin = part.start.saturating_sub(at).min(extent.len);
        let end = part.end.saturating_sub(at).min(extent.len);
        if begin < end {
            ranges.push(extent.offset + begin..extent.offset + end);
        }
        at += extent.len;
    }
    ranges
}

/// What an inode was when the tree was walked; if it is another now, the image would be of no moment in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    number: u64,
    size: u64,
    changed: Timestamp,
}

impl Stamp {
    pub(crate) const fn of(inode: &Inode) -> Self {
        Self { number: inode.number, size: inode.size, changed: inode.changed }
    }

    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let changed = Timestamp { seconds: stat.stx_ctime.tv_sec, nanoseconds: stat.stx_ctime.tv_nsec };
        Ok(Self { number: stat.stx_ino, size: stat.stx_size, changed })
    }
}

/// The files of a directory.
#[derive(Debug)]
pub(crate) struct DirectoryContents {
    pub(crate) root: OwnedFd,
    /// By node index.
    pub(crate) stamps: Vec<Stamp>,
}

impl Contents for DirectoryContents {
    fn read_part(
        &self,
        index: usize,
        node: &Node,
        content: &FileContent,
        part: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let path = || text::path(&node.path);
        let reading = || format!("reading /{}", path());
        let file = open_file(self.root.as_fd(), &node.path).map(File::from).with_context(reading)?;
        let check = || match Stamp::of_file(&file).with_context(reading)? {
            stamp if Some(&stamp) == self.stamps.get(index) => Ok(()),
            _ => bail!("/{} changed while it was read; capture a tree that nobody writes to", path()),
        };
        check()?;
        for range in data_ranges(content, &part) {
            read_range(&file, range, each).with_context(reading)?;
        }
        check()
    }
}

/// Calls `each` with all bytes of `range`, in order.
pub(crate) fn read_range(
    file: &File,
    range: Range<u64>,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let longest = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; longest.min(READ_BYTES)];
    let mut at = range.start;
    while at < range.end {
        let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(READ_BYTES);
        let count = match file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            bail!("it ends early");
        }
        each(buffer.get(..count).unwrap_or_default())?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::data_ranges;
    use image_format::{DataExtent, FileContent};

    #[test]
    fn parts_of_data_lie_between_holes() {
        let extents = vec![DataExtent { offset: 100, len: 10 }, DataExtent { offset: 200, len: 20 }];
        let content = FileContent { size: 300, extents };
        assert_eq!(data_ranges(&content, &(0..30)), [100..110, 200..220]);
        assert_eq!(data_ranges(&content, &(5..12)), [105..110, 200..202]);
        assert_eq!(data_ranges(&content, &(9..11)), [109..110, 200..201]);
        assert_eq!(data_ranges(&content, &(30..40)), []);
    }
}
