//! Makes every directory of an image and all that has no data of its own, closed to others until it is complete.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use image_format::{Entry, EntryIndex, EntryKind, Toc};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use crate::applier::{ApplyError, Doing};
use crate::beneath::{self, Parents};
use crate::finish;
use crate::parallel::for_each_entry;
use crate::write::{self, CLOSED_FILE};

/// Nobody but us can look inside before owners and modes are right.
const CLOSED_DIRECTORY: Mode = Mode::RWXU;

/// What has to be known about the skeleton later.
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

/// Makes all directories beneath `root`. They may be there already (mount points, `lost+found`); nothing else may.
pub(crate) fn make_directories(root: BorrowedFd<'_>, toc: &Toc) -> Result<Skeleton, ApplyError> {
    let mut skeleton = Skeleton::default();
    let mut parents = Parents::new(root, toc);
    for (index, entry) in toc.entries() {
        let plain = match entry.kind {
            EntryKind::Directory if index == EntryIndex::ROOT => beneath::is_plain_file_system(root),
            EntryKind::Directory => {
                parents.of(entry).and_then(|parent| make_directory(parent, toc.name(entry)))
            }
            _ => continue,
        };
        if plain.map_err(|source| ApplyError::entry(toc, index, Doing::Creating, source))? {
            skeleton.plain.insert(index);
        }
    }
    Ok(skeleton)
}

/// Makes everything else that has to be there before data comes, but what is `placed`.
pub(crate) fn make_others(
    root: BorrowedFd<'_>,
    toc: &Toc,
    skeleton: &Skeleton,
    placed: &HashSet<EntryIndex>,
) -> Result<(), ApplyError> {
    for_each_entry(root, toc, &|parents, index, entry| {
        if placed.contains(&index) {
            return Ok(());
        }
        let plain = skeleton.is_plain(toc, index, entry);
        parents
            .of(entry)
            .and_then(|parent| make_entry(parent, toc, entry, plain))
            .map_err(|source| ApplyError::entry(toc, index, Doing::Creating, source))
    })
}

/// Makes what is neither directory nor hard link nor a file that its one frame makes.
fn make_entry(parent: BorrowedFd<'_>, toc: &Toc, entry: &Entry, plain: bool) -> io::Result<()> {
    let name = toc.name(entry);
    match entry.kind {
        EntryKind::Directory | EntryKind::HardLink { .. } => return Ok(()),
        EntryKind::File { .. } if toc.extents(entry).is_empty() => {
            let file = write::create(parent, name, entry, false)?;
            return if plain {
                Ok(())
            } else {
                finish::set_opened(&file, &entry.metadata, toc.xattrs(entry))
            };
        }
        EntryKind::File { .. } => {
            if write::spans_frames(toc, entry) {
                write::create_large(parent, name, entry)?;
            }
            return Ok(());
        }
        EntryKind::Symlink => rustix::fs::symlinkat(toc.link_target(entry), parent, name)?,
        EntryKind::CharDevice { major, minor } => {
            make_node(parent, name, FileType::CharacterDevice, (major, minor))?;
        }
        EntryKind::BlockDevice { major, minor } => {
            make_node(parent, name, FileType::BlockDevice, (major, minor))?
        }
        EntryKind::Fifo => make_node(parent, name, FileType::Fifo, (0, 0))?,
        EntryKind::Socket => make_node(parent, name, FileType::Socket, (0, 0))?,
    }
    if plain { Ok(()) } else { finish::set_named(parent, name, entry, toc.xattrs(entry)) }
}

/// Whether the directory was there and lies on a plain file system.
fn make_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::mkdirat(parent, name, CLOSED_DIRECTORY) {
        Ok(()) => Ok(false),
        Err(Errno::EXIST) => {
            let directory = beneath::open_directory(parent, name)?;
            beneath::is_plain_file_system(directory.as_fd())
        }
        Err(error) => Err(error.into()),
    }
}

fn make_node(parent: BorrowedFd<'_>, name: &[u8], kind: FileType, device: (u32, u32)) -> io::Result<()> {
    let device = rustix::fs::makedev(device.0, device.1);
    Ok(rustix::fs::mknodat(parent, name, kind, CLOSED_FILE, device)?)
}
