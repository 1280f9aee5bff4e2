//! Owners, modes, extended attributes and times of one inode; and what can be done only when all data is there.
//!
//! The order on one inode matters: chown(2) clears setuid bits and capabilities, so the mode comes behind it and the
//! attributes behind the mode; every change touches times, so they come next. An immutable inode takes no change and no
//! further name at all, so flags come last of everything.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use image_format::{Entry, EntryIndex, EntryKind, FILE_FLAGS_KEPT, Metadata, Toc, Xattr};
use rustix::fs::{AtFlags, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};

use crate::applier::{ApplyError, Doing};
use crate::beneath;
use crate::inode::proc_path;
use crate::parallel::for_each_entry;
use crate::skeleton::Skeleton;
use crate::write;

/// Makes hard links and sets what was not set yet: files of several frames, directories, flags.
pub(crate) fn set_all(
    root: BorrowedFd<'_>,
    toc: &Toc,
    skeleton: &Skeleton,
    placed: &HashSet<EntryIndex>,
) -> Result<(), ApplyError> {
    let failed = |index, doing| move |source| ApplyError::entry(toc, index, doing, source);
    for_each_entry(root, toc, &|parents, index, entry| match entry.kind {
        EntryKind::HardLink { to } => parents
            .of(entry)
            .and_then(|parent| make_hard_link(root, parent, toc, toc.name(entry), to))
            .map_err(failed(index, Doing::Creating)),
        EntryKind::File { .. }
            if write::spans_frames(toc, entry)
                && !placed.contains(&index)
                && !skeleton.is_plain(toc, index, entry) =>
        {
            let set = |parent| {
                set_opened(&open_again(parent, toc.name(entry))?, &entry.metadata, toc.xattrs(entry))
            };
            parents.of(entry).and_then(set).map_err(failed(index, Doing::Finishing))
        }
        _ => Ok(()),
    })?;
    // Nothing is made from here on, so directories keep the times that they are given, in any order.
    for_each_entry(root, toc, &|parents, index, entry| {
        let is_directory = entry.kind == EntryKind::Directory;
        if !(is_directory || entry.metadata.flags != 0) || skeleton.is_plain(toc, index, entry) {
            return Ok(());
        }
        let name = if index == EntryIndex::ROOT { &[] } else { toc.name(entry) };
        let set = |parent| -> io::Result<()> {
            if is_directory {
                let directory = beneath::open_directory(parent, name)?;
                set_opened(&directory, &entry.metadata, toc.xattrs(entry))?;
                set_flags(&directory, &entry.metadata)
            } else {
                set_flags(&open_again(parent, name)?, &entry.metadata)
            }
        };
        parents.of(entry).and_then(set).map_err(failed(index, Doing::Finishing))
    })
}

fn open_again(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    beneath::open(parent, name, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// Files and directories, by descriptor; flags excepted.
pub(crate) fn set_opened(fd: &OwnedFd, metadata: &Metadata, xattrs: &[Xattr]) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(metadata.mode))?;
    for xattr in xattrs {
        rustix::fs::fsetxattr(fd, xattr.name.as_slice(), &xattr.value, XattrFlags::empty())?;
    }
    Ok(rustix::fs::futimens(fd, &times(metadata))?)
}

fn set_flags(fd: &OwnedFd, metadata: &Metadata) -> io::Result<()> {
    if metadata.flags == 0 {
        return Ok(());
    }
    let kept = IFlags::from_bits_retain(FILE_FLAGS_KEPT);
    let flags = rustix::fs::ioctl_getflags(fd)?.difference(kept) | IFlags::from_bits_retain(metadata.flags);
    Ok(rustix::fs::ioctl_setflags(fd, flags)?)
}

/// What must not be opened: links, devices, pipes, sockets. `parent` is beneath the root and `name` one component.
pub(crate) fn set_named(
    parent: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    xattrs: &[Xattr],
) -> io::Result<()> {
    let metadata = &entry.metadata;
    let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if entry.kind != EntryKind::Symlink {
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(metadata.mode), AtFlags::empty())?;
    }
    if !xattrs.is_empty() {
        let path = proc_path(parent.as_fd(), name);
        for xattr in xattrs {
            rustix::fs::lsetxattr(path.as_slice(), xattr.name.as_slice(), &xattr.value, XattrFlags::empty())?;
        }
    }
    Ok(rustix::fs::utimensat(parent, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn make_hard_link(
    root: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    toc: &Toc,
    name: &[u8],
    to: EntryIndex,
) -> io::Result<()> {
    let target = toc.entry(to).ok_or(io::ErrorKind::NotFound)?;
    let directory = beneath::open_directory(root, &toc.path(target.parent()))?;
    Ok(rustix::fs::linkat(directory, toc.name(target), parent, name, AtFlags::empty())?)
}

fn times(metadata: &Metadata) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: metadata.mtime.seconds,
            tv_nsec: i64::from(metadata.mtime.nanoseconds),
        },
    }
}
