//! One inode as the file system has it, with everything that an image keeps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use image_format::{FILE_FLAGS_KEPT, Metadata, Timestamp, Xattr};
use rustix::fs::{AtFlags, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::beneath;

/// QUIRK(XFS): it lists ACLs a second time, by the names of the attributes in which it keeps them.
const XFS_ALIASES: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];
/// Most entries have no attributes or one short one.
const XATTR_BYTES_USUAL: usize = 1024;
/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of Linux.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// What stat(2) says an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One inode.
#[derive(Debug)]
pub struct Inode {
    /// What it is.
    pub file_type: FileType,
    /// Owner, mode, time, flags.
    pub metadata: Metadata,
    /// Ascending by name.
    pub xattrs: Vec<Xattr>,
    /// Bytes of a file.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// The file system's device number, major and minor.
    pub file_system: (u32, u32),
    /// Unique within its file system.
    pub number: u64,
    /// Names.
    pub links: u32,
    /// Change time: seconds and nanoseconds. Differs when anything about the inode changed.
    pub changed: Timestamp,
    /// The inode itself, for reading; only of files and directories.
    pub fd: Option<OwnedFd>,
}

/// Reads what is called `name` in `directory`; `directory` itself for an empty name. Symbolic links are not followed.
///
/// # Errors
/// As statx(2), openat2(2), listxattr(2); `InvalidData` for a kind of inode that Linux does not have yet.
pub fn read_inode(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Inode> {
    let flags =
        AtFlags::SYMLINK_NOFOLLOW | if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    let stat = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
    let file_type = file_type(&stat)?;
    let fd = match file_type {
        FileType::File => Some(beneath::open(directory, name, OFlags::RDONLY | OFlags::NONBLOCK)?),
        FileType::Directory => Some(beneath::open_directory(directory, name)?),
        _ => None,
    };
    let xattrs = read_xattrs(directory, name, fd.as_ref())?;
    let flags = fd.as_ref().map(read_flags).transpose()?.unwrap_or(0);
    let time =
        |time: rustix::fs::StatxTimestamp| Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
    let metadata = Metadata {
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: time(stat.stx_mtime),
        flags,
    };
    Ok(Inode {
        file_type,
        metadata,
        xattrs,
        size: stat.stx_size,
        device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        file_system: (stat.stx_dev_major, stat.stx_dev_minor),
        number: stat.stx_ino,
        links: stat.stx_nlink,
        changed: time(stat.stx_ctime),
        fd,
    })
}

fn file_type(stat: &Statx) -> io::Result<FileType> {
    match rustix::fs::FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        rustix::fs::FileType::Directory => Ok(FileType::Directory),
        rustix::fs::FileType::RegularFile => Ok(FileType::File),
        rustix::fs::FileType::Symlink => Ok(FileType::Symlink),
        rustix::fs::FileType::CharacterDevice => Ok(FileType::CharDevice),
        rustix::fs::FileType::BlockDevice => Ok(FileType::BlockDevice),
        rustix::fs::FileType::Fifo => Ok(FileType::Fifo),
        rustix::fs::FileType::Socket => Ok(FileType::Socket),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown kind of inode")),
    }
}

fn read_flags(fd: &OwnedFd) -> io::Result<u32> {
    match rustix::fs::ioctl_getflags(fd) {
        Ok(flags) => Ok(flags.bits() & FILE_FLAGS_KEPT),
        // File systems without flags say one of these.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn read_xattrs(directory: BorrowedFd<'_>, name: &[u8], fd: Option<&OwnedFd>) -> io::Result<Vec<Xattr>> {
    let path = proc_path(directory, name);
    let list = sized(|buffer| match fd {
        Some(fd) => rustix::fs::flistxattr(fd, buffer),
        None => rustix::fs::llistxattr(path.as_slice(), buffer),
    });
    let list = match list {
        // As good as none.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    let mut xattrs = Vec::new();
    for key in names(&list) {
        let value = sized(|buffer| match fd {
            Some(fd) => rustix::fs::fgetxattr(fd, key, buffer),
            None => rustix::fs::lgetxattr(path.as_slice(), key, buffer),
        });
        match value {
            Ok(value) => xattrs.push(Xattr { name: key.to_vec(), value }),
            // Listed but not there: some file systems list what a security module would have.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// The names of the extended attributes of a file or directory.
pub(crate) fn xattr_names(fd: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let list = match sized(|buffer| rustix::fs::flistxattr(fd, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    Ok(names(&list).map(<[u8]>::to_vec).collect())
}

/// The names of a list as listxattr(2) gives it.
fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == 0).filter(|name| !name.is_empty() && !XFS_ALIASES.contains(name))
}

/// Calls with a small buffer first and with the largest possible if that is too small.
fn sized(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; XATTR_BYTES_USUAL];
    let len = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(XATTR_BYTES_MAX, 0);
            call(&mut buffer)?
        }
        result => result?,
    };
    buffer.truncate(len);
    Ok(buffer)
}

/// A path to what cannot be opened without side effects (a symbolic link, a device, a pipe): its directory is held
/// open, so nothing on the way can change. For the `l...xattr` calls, which exist for paths only.
pub(crate) fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
