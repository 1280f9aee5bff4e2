//! Making files and putting data into them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use image_format::{Entry, EntryKind, Extent, Toc};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

/// Nobody but us can look inside before owners and modes are right.
pub(crate) const CLOSED_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Whether a file's data lies in more than one frame.
pub(crate) fn spans_frames(toc: &Toc, entry: &Entry) -> bool {
    let extents = toc.extents(entry);
    extents.first().map(|extent| extent.frame) != extents.last().map(|extent| extent.frame)
}

/// Makes an empty file, as long as it will be if it has holes. `again`: it may be there from an earlier try.
pub(crate) fn create(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry, again: bool) -> io::Result<OwnedFd> {
    let exclusive = if again { OFlags::empty() } else { OFlags::EXCL };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | exclusive;
    let file = rustix::fs::openat(parent, name, flags, CLOSED_FILE)?;
    if let EntryKind::File { size, sparse: true, .. } = entry.kind {
        rustix::fs::ftruncate(&file, size)?;
    }
    Ok(file)
}

/// Makes an empty file that several frames write in any order: told the size, the file system lays it out in one piece.
pub(crate) fn create_large(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> io::Result<()> {
    let file = create(parent, name, entry, false)?;
    if let EntryKind::File { size, sparse: false, .. } = entry.kind {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Opens a file that the skeleton has.
pub(crate) fn open(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Writes runs of the uncompressed frame `raw` to their places in `file`.
pub(crate) fn extents(file: &OwnedFd, extents: &[Extent], raw: &[u8]) -> io::Result<()> {
    for extent in extents {
        let from = extent.frame_offset as usize;
        let mut data = raw.get(from..from + extent.len as usize).unwrap_or_default();
        let mut offset = extent.file_offset;
        while !data.is_empty() {
            match rustix::io::pwrite(file, data, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    data = data.get(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
