//! Opening things beneath the root, and only there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use image_format::{Entry, EntryIndex, Toc};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// `MSDOS_SUPER_MAGIC` of linux/magic.h: FAT, which has no owners, modes, links or extended attributes.
const MSDOS_SUPER_MAGIC: i64 = 0x4d44;
/// openat2 says EAGAIN when a rename elsewhere made it uncertain; nobody renames beneath our root, so a few tries.
const OPEN_TRIES: u32 = 16;

/// Opens the directory that everything else is opened beneath.
///
/// # Errors
/// As open(2); `ENOTDIR` if it is none.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens `path`, relative to `directory`, without leaving it and without following a symbolic link on the way.
pub(crate) fn open(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = if path.is_empty() { b"." } else { path };
    for _ in 1..OPEN_TRIES {
        match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
    Ok(rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)?)
}

/// Opens the directory `path` beneath `directory`; empty for `directory` itself.
///
/// # Errors
/// As openat2(2): `ELOOP` for a symbolic link anywhere, `EXDEV` for a way out.
pub fn open_directory(directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(directory, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens the regular file `path` beneath `directory` for reading.
///
/// # Errors
/// As [`open_directory`].
pub fn open_file(directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(directory, path, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// Whether `directory` is on a file system without owners and modes, such as an EFI system partition.
///
/// # Errors
/// As fstatfs(2).
pub fn is_plain_file_system(directory: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(directory)?.f_type == MSDOS_SUPER_MAGIC)
}

/// The directory of the entry at hand. Entries come directory by directory, so one open directory saves nearly all
/// opens, however deep the tree is.
pub(crate) struct Parents<'a> {
    root: BorrowedFd<'a>,
    toc: &'a Toc,
    open: Option<(EntryIndex, OwnedFd)>,
}

impl<'a> Parents<'a> {
    pub(crate) const fn new(root: BorrowedFd<'a>, toc: &'a Toc) -> Self {
        Self { root, toc, open: None }
    }

    /// The directory that holds `entry`; for the root, the root itself.
    pub(crate) fn of(&mut self, entry: &Entry) -> io::Result<BorrowedFd<'_>> {
        let parent = entry.parent();
        let fd = match self.open.take() {
            Some((index, fd)) if index == parent => fd,
            _ => open_directory(self.root, &self.toc.path(parent))?,
        };
        Ok(self.open.insert((parent, fd)).1.as_fd())
    }
}
