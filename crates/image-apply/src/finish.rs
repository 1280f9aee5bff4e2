//! Owners, modes, extended attributes, times and flags: after all data, directories after what is in them.
//!
//! The order on one inode matters: chown(2) clears setuid bits and capabilities, so the mode comes behind it and the
//! attributes behind the mode; every change touches times, so they come next; an immutable inode takes no change at
//! all, so flags come last.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use image_format::{Entry, EntryIndex, EntryKind, FILE_FLAGS_KEPT, Metadata, Toc, Xattr};
use rustix::fs::{AtFlags, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};

use crate::applier::{ApplyError, Doing};
use crate::beneath::{self, Parents};
use crate::inode::proc_path;
use crate::skeleton::Skeleton;

/// More threads only queue at the journal.
const THREADS_MAX: usize = 4;
/// Entries that a thread takes at once: neighbours share their directory.
const ENTRIES_AT_ONCE: usize = 256;

/// Sets everything beneath `root`.
pub(crate) fn set_all(root: BorrowedFd<'_>, toc: &Toc, skeleton: &Skeleton) -> Result<(), ApplyError> {
    let entries: Vec<(EntryIndex, &Entry)> = toc.entries().collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), ApplyError> {
        let mut parents = Parents::new(root, toc);
        loop {
            let from = next.fetch_add(ENTRIES_AT_ONCE, Ordering::Relaxed);
            let until = entries.len().min(from.saturating_add(ENTRIES_AT_ONCE));
            let Some(batch) = entries.get(from..until).filter(|batch| !batch.is_empty()) else {
                return Ok(());
            };
            for &(index, entry) in batch {
                if entry.kind != EntryKind::Directory && !skeleton.is_plain(toc, index, entry) {
                    set(&mut parents, toc, index, entry)?;
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut parents = Parents::new(root, toc);
    for &(index, entry) in entries.iter().rev() {
        if entry.kind == EntryKind::Directory && !skeleton.is_plain(toc, index, entry) {
            set(&mut parents, toc, index, entry)?;
        }
    }
    Ok(())
}

fn set(parents: &mut Parents<'_>, toc: &Toc, index: EntryIndex, entry: &Entry) -> Result<(), ApplyError> {
    let set = |parent: BorrowedFd<'_>| {
        let name = if index == EntryIndex::ROOT { &[] } else { toc.name(entry) };
        match entry.kind {
            EntryKind::HardLink { .. } => Ok(()),
            EntryKind::Directory => {
                set_opened(&beneath::open_directory(parent, name)?, &entry.metadata, toc.xattrs(entry))
            }
            EntryKind::File { .. } => {
                let file = beneath::open(parent, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
                set_opened(&file, &entry.metadata, toc.xattrs(entry))
            }
            _ => set_named(parent, name, entry, toc.xattrs(entry)),
        }
    };
    parents.of(entry).and_then(set).map_err(|source| ApplyError::entry(toc, index, Doing::Finishing, source))
}

/// Files and directories, by descriptor.
fn set_opened(fd: &OwnedFd, metadata: &Metadata, xattrs: &[Xattr]) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(metadata.mode))?;
    for xattr in xattrs {
        rustix::fs::fsetxattr(fd, xattr.name.as_slice(), &xattr.value, XattrFlags::empty())?;
    }
    rustix::fs::futimens(fd, &times(metadata))?;
    if metadata.flags != 0 {
        let kept = IFlags::from_bits_retain(FILE_FLAGS_KEPT);
        let flags =
            rustix::fs::ioctl_getflags(fd)?.difference(kept) | IFlags::from_bits_retain(metadata.flags);
        rustix::fs::ioctl_setflags(fd, flags)?;
    }
    Ok(())
}

/// What must not be opened: links, devices, pipes, sockets. `parent` is beneath the root and `name` one component.
fn set_named(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry, xattrs: &[Xattr]) -> io::Result<()> {
    let metadata = &entry.metadata;
    let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if entry.kind != EntryKind::Symlink {
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(metadata.mode), AtFlags::empty())?;
    }
    let path = proc_path(parent.as_fd(), name);
    for xattr in xattrs {
        rustix::fs::lsetxattr(path.as_slice(), xattr.name.as_slice(), &xattr.value, XattrFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(parent, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)?)
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
