//! Where the data of a tree's files is read from while its image is made.

use std::fs::File;
use std::io;
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
    /// Calls `each` with the data extents of node `index`, which is a file, one after the other.
    fn read(
        &self,
        index: usize,
        node: &Node,
        content: &FileContent,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;
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

    fn of_file(file: &File) -> io::Result<Self> {
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
    fn read(
        &self,
        index: usize,
        node: &Node,
        content: &FileContent,
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
        for extent in &content.extents {
            read_range(&file, extent.offset, extent.len, each).with_context(reading)?;
        }
        check()
    }
}

/// `len` bytes of a file from `offset` on.
pub(crate) fn read_range(
    file: &File,
    offset: u64,
    len: u64,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let (mut at, mut left) = (offset, len);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
        let count = match file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            bail!("it ends early");
        }
        each(buffer.get(..count).unwrap_or_default())?;
        at += count as u64;
        left -= count as u64;
    }
    Ok(())
}
