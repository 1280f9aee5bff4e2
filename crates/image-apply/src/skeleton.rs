//! Makes every entry of an image, empty and closed to others: directories, files, links, devices.

use std::collections::HashSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use image_format::{Entry, EntryIndex, EntryKind, FRAME_RAW_BYTES_MAX, Toc};
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::applier::{ApplyError, Doing};
use crate::beneath::{self, Parents};

/// Nobody but us can look inside before owners and modes are right.
const CLOSED_DIRECTORY: Mode = Mode::RWXU;
const CLOSED_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// What `finish` has to know about the skeleton.
#[derive(Debug, Default)]
pub(crate) struct Skeleton {
    /// Directories that were there before and lie on a file system without owners and modes.
    pub(crate) plain: HashSet<EntryIndex>,
}

impl Skeleton {
    /// Whether `entry` lies where there are no owners and modes.
    pub(crate) fn is_plain(&self, toc: &Toc, index: EntryIndex, entry: &Entry) -> bool {
        if self.plain.is_empty() {
            return false;
        }
        let mut at = index;
        let mut above = Some(entry);
        while let Some(entry) = above.filter(|_| at != EntryIndex::ROOT) {
            if self.plain.contains(&at) {
                return true;
            }
            at = entry.parent();
            above = toc.entry(at);
        }
        self.plain.contains(&EntryIndex::ROOT)
    }
}

/// Makes everything beneath `root`. Directories may be there already (mount points, `lost+found`); nothing else may.
pub(crate) fn make(root: BorrowedFd<'_>, toc: &Toc) -> Result<Skeleton, ApplyError> {
    let mut skeleton = Skeleton::default();
    let mut parents = Parents::new(root, toc);
    for (index, entry) in toc.entries() {
        let result = if index == EntryIndex::ROOT {
            beneath::is_plain_file_system(root)
        } else {
            parents.of(entry).and_then(|parent| make_entry(root, parent, toc, entry))
        };
        let plain = result.map_err(|source| ApplyError::entry(toc, index, Doing::Creating, source))?;
        if plain {
            skeleton.plain.insert(index);
        }
    }
    Ok(skeleton)
}

/// Whether a directory was there that lies on a plain file system.
fn make_entry(root: BorrowedFd<'_>, parent: BorrowedFd<'_>, toc: &Toc, entry: &Entry) -> io::Result<bool> {
    let name = toc.name(entry);
    match entry.kind {
        EntryKind::Directory => return make_directory(parent, name),
        EntryKind::File { size, sparse, .. } => make_file(parent, name, size, sparse)?,
        EntryKind::Symlink => rustix::fs::symlinkat(toc.link_target(entry), parent, name)?,
        EntryKind::CharDevice { major, minor } => {
            make_node(parent, name, FileType::CharacterDevice, (major, minor))?;
        }
        EntryKind::BlockDevice { major, minor } => {
            make_node(parent, name, FileType::BlockDevice, (major, minor))?
        }
        EntryKind::Fifo => make_node(parent, name, FileType::Fifo, (0, 0))?,
        EntryKind::Socket => make_node(parent, name, FileType::Socket, (0, 0))?,
        EntryKind::HardLink { to } => make_hard_link(root, parent, toc, name, to)?,
    }
    Ok(false)
}

fn make_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::mkdirat(parent, name, CLOSED_DIRECTORY) {
        Ok(()) => Ok(false),
        Err(Errno::EXIST) => {
            let directory = beneath::open_directory(parent, name)?;
            beneath::is_plain_file_system(std::os::fd::AsFd::as_fd(&directory))
        }
        Err(error) => Err(error.into()),
    }
}

fn make_file(parent: BorrowedFd<'_>, name: &[u8], size: u64, sparse: bool) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::openat(parent, name, flags, CLOSED_FILE)?;
    if sparse {
        rustix::fs::ftruncate(&file, size)?;
    } else if size > u64::from(FRAME_RAW_BYTES_MAX) {
        // Several frames write it in any order; told the size, the file system lays it out in one piece.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn make_node(parent: BorrowedFd<'_>, name: &[u8], kind: FileType, device: (u32, u32)) -> io::Result<()> {
    let device = rustix::fs::makedev(device.0, device.1);
    Ok(rustix::fs::mknodat(parent, name, kind, CLOSED_FILE, device)?)
}

fn make_hard_link(
    root: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    toc: &Toc,
    name: &[u8],
    to: EntryIndex,
) -> io::Result<()> {
    let target = toc.entry(to).ok_or(Errno::NOENT)?;
    let directory = beneath::open_directory(root, &toc.path(target.parent()))?;
    Ok(rustix::fs::linkat(directory, toc.name(target), parent, name, AtFlags::empty())?)
}
