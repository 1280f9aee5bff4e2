//! An image as a read-only file system (FUSE), without unpacking it.
//!
//! Never gives a byte whose frame was not checked, and holds no more frames than it was told to.

mod cache;
mod tree;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Args;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, IoctlFlags, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};
use image_format::{Entry, EntryIndex, EntryKind, Mode, Timestamp};
use rustix::mount::{UnmountFlags, unmount};

use crate::image_file::ImageFile;
use crate::text;
use cache::Frames;
use tree::Children;

/// An image never changes, so the kernel may remember what it was told.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);
/// Threads that answer: decompressing is most of the work.
const THREADS_MAX: usize = 8;
/// What `stat` shows as the unit of reading.
const BLOCK_BYTES: u32 = 4096;
/// `FS_IOC_GETFLAGS` of linux/fs.h on 64-bit machines.
const GET_FLAGS: u32 = 0x8008_6601;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// What to mount and where.
#[derive(Debug, Args)]
pub(crate) struct MountArguments {
    /// The image.
    image: PathBuf,
    /// An empty directory.
    directory: PathBuf,
    /// Memory for decompressed frames [MiB]; a frame has at most 16.
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(16..1 << 20))]
    cache_mib: u64,
    /// A minisign public key that may have signed the image. May be repeated.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
}

/// Serves until somebody unmounts it, or until it is told to end.
pub(crate) fn run(arguments: &MountArguments) -> Result<()> {
    let image = ImageFile::open(&arguments.image, &arguments.trust)?;
    let is_delta = image.manifest.as_ref().is_some_and(|manifest| manifest.mode == Mode::Delta);
    ensure!(!is_delta, "{} is a delta image; mount the image that it leads to", image.path.display());
    let directory = &arguments.directory;
    let shown = directory.display();
    let mut entries = std::fs::read_dir(directory).with_context(|| format!("opening {shown}"))?;
    ensure!(entries.next().is_none(), "{shown} is not empty; name an empty directory");
    let is_root = rustix::process::geteuid().is_root();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
        MountOption::FSName(image.path.display().to_string().replace(',', "_")),
        MountOption::Subtype("esir".to_owned()),
    ];
    // Others see it by its own owners and modes; without root, only who mounted it.
    config.acl = if is_root { SessionACL::All } else { SessionACL::Owner };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS_MAX);
    config.n_threads = Some(threads);
    let entries = image.toc.entries().len();
    let mounted = Mounted::new(image, arguments.cache_mib << 20);
    let mut session = Session::new(mounted, directory, &config).with_context(|| {
        format!("mounting at {shown} (needs /dev/fuse, and root or fusermount3 of the package fuse3)")
    })?;
    let (mut unmounter, place) = (session.unmount_callable(), directory.clone());
    end_on_signal(move || {
        // As root at once: the name goes, and who still reads a file is served until it is closed.
        let result = if is_root {
            unmount(&place, UnmountFlags::DETACH).map_err(std::io::Error::from)
        } else {
            unmounter.unmount()
        };
        if let Err(error) = result {
            eprintln!("image-tools: unmounting {}: {error}", place.display());
        }
    })?;
    println!("{shown}: {entries} entries, read-only; `umount {shown}` or Ctrl-C ends it");
    session.run().with_context(|| format!("serving {shown}"))
}

/// Calls `end` when the process is told to end.
fn end_on_signal(end: impl FnOnce() + Send + 'static) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting a thread for signals")?;
    let mut streams = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = streams.0.recv() => {}
                _ = streams.1.recv() => {}
            }
        });
        end();
    });
    Ok(())
}

/// What the kernel asks.
struct Mounted {
    image: ImageFile,
    children: Children,
    frames: Frames,
    started: SystemTime,
}

/// The answer, or what is wrong.
type Answer<T> = std::result::Result<T, Errno>;

impl Mounted {
    fn new(image: ImageFile, cache_bytes: u64) -> Self {
        let children = Children::of(&image.toc);
        Self { image, children, frames: Frames::new(cache_bytes), started: SystemTime::now() }
    }

    /// The entry of an inode number, which is its index and one.
    fn entry(&self, inode: INodeNo) -> Answer<(EntryIndex, &Entry)> {
        let raw = inode.0.checked_sub(1).and_then(|raw| u32::try_from(raw).ok());
        let index = raw.and_then(|raw| self.image.toc.entry_index(raw)).ok_or(Errno::ENOENT)?;
        self.image.toc.entry(index).map(|entry| (index, entry)).ok_or(Errno::ENOENT)
    }

    /// Of a hard link, that of the entry that it names.
    fn inode(&self, index: EntryIndex) -> INodeNo {
        let index = match self.image.toc.entry(index).map(|entry| &entry.kind) {
            Some(EntryKind::HardLink { to }) => *to,
            _ => index,
        };
        INodeNo(u64::from(index.get()) + 1)
    }

    fn attributes(&self, inode: INodeNo) -> Answer<FileAttr> {
        let (index, entry) = self.entry(inode)?;
        let toc = &self.image.toc;
        let size = match entry.kind {
            EntryKind::File { size, .. } => size,
            EntryKind::Symlink => toc.link_target(entry).len() as u64,
            EntryKind::Directory => u64::from(BLOCK_BYTES),
            _ => 0,
        };
        let data: u64 = toc.extents(entry).iter().map(|extent| u64::from(extent.len)).sum();
        let rdev = match entry.kind {
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                // As the kernel packs both into 32 bits.
                minor & 0xFF | major << 8 | (minor & !0xFF) << 12
            }
            _ => 0,
        };
        let mode = entry.metadata.mode;
        let time = time(entry.metadata.mtime);
        Ok(FileAttr {
            ino: inode,
            size,
            blocks: data.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: self.started,
            kind: file_type(&entry.kind),
            perm: u16::try_from(mode).unwrap_or_default(),
            nlink: self.children.links(index),
            uid: entry.metadata.uid,
            gid: entry.metadata.gid,
            rdev,
            blksize: BLOCK_BYTES,
            flags: 0,
        })
    }

    fn read_data(&self, inode: INodeNo, offset: u64, size: u32) -> Answer<Vec<u8>> {
        let (_, entry) = self.entry(inode)?;
        let EntryKind::File { size: file_bytes, .. } = entry.kind else { return Err(Errno::EISDIR) };
        let end = offset.saturating_add(u64::from(size)).min(file_bytes);
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or_default();
        let mut bytes = vec![0; len];
        let extents = self.image.toc.extents(entry);
        let first = extents.partition_point(|extent| extent.file_offset + u64::from(extent.len) <= offset);
        for extent in extents.iter().skip(first).take_while(|extent| extent.file_offset < end) {
            let raw = self.frames.get(&self.image, extent.frame).map_err(|error| {
                eprintln!("image-tools: {error:#}");
                Errno::EIO
            })?;
            let from = offset.max(extent.file_offset);
            let to = end.min(extent.file_offset + u64::from(extent.len));
            let place = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
            let (start, count) = (place(from, extent.file_offset), place(to, from));
            let start = start.saturating_add(extent.frame_offset as usize);
            let source = raw.get(start..start.saturating_add(count)).ok_or(Errno::EIO)?;
            let target = bytes.get_mut(place(from, offset)..).and_then(|bytes| bytes.get_mut(..count));
            target.ok_or(Errno::EIO)?.copy_from_slice(source);
        }
        Ok(bytes)
    }

    fn seek(&self, inode: INodeNo, offset: i64, whence: i32) -> Answer<i64> {
        let (_, entry) = self.entry(inode)?;
        let EntryKind::File { size, .. } = entry.kind else { return Err(Errno::EINVAL) };
        let at = u64::try_from(offset).ok().filter(|at| *at < size).ok_or(Errno::ENXIO)?;
        let end = |extent: &image_format::Extent| extent.file_offset + u64::from(extent.len);
        let mut extents = self.image.toc.extents(entry).iter().skip_while(|extent| end(extent) <= at);
        let found = match whence {
            SEEK_DATA => extents.next().map(|extent| extent.file_offset.max(at)).ok_or(Errno::ENXIO)?,
            SEEK_HOLE => {
                let mut hole = at;
                for extent in extents {
                    if extent.file_offset > hole {
                        break;
                    }
                    hole = end(extent);
                }
                hole
            }
            _ => return Err(Errno::EINVAL),
        };
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }

    fn xattr(&self, inode: INodeNo, name: &OsStr) -> Answer<&[u8]> {
        let (_, entry) = self.entry(inode)?;
        let xattrs = self.image.toc.xattrs(entry);
        let found = xattrs.iter().find(|xattr| xattr.name == name.as_bytes());
        found.map(|xattr| xattr.value.as_slice()).ok_or(Errno::ENODATA)
    }
}

fn time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let nanoseconds = Duration::from_nanos(u64::from(time.nanoseconds));
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

const fn file_type(kind: &EntryKind) -> FileType {
    match kind {
        EntryKind::Directory => FileType::Directory,
        EntryKind::File { .. } | EntryKind::HardLink { .. } => FileType::RegularFile,
        EntryKind::Symlink => FileType::Symlink,
        EntryKind::CharDevice { .. } => FileType::CharDevice,
        EntryKind::BlockDevice { .. } => FileType::BlockDevice,
        EntryKind::Fifo => FileType::NamedPipe,
        EntryKind::Socket => FileType::Socket,
    }
}

/// Attributes: an empty buffer asks for the length.
fn reply_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.entry(parent).and_then(|(index, _)| {
            let child = self.children.find(&self.image.toc, index, name.as_bytes());
            self.attributes(self.inode(child.ok_or(Errno::ENOENT)?))
        });
        match found {
            Ok(attributes) => reply.entry(&FOR_EVER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Ok(attributes) => reply.attr(&FOR_EVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.entry(inode) {
            Ok((_, entry)) if entry.kind == EntryKind::Symlink => {
                reply.data(self.image.toc.link_target(entry));
            }
            Ok(_) => reply.error(Errno::EINVAL),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_data(inode, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (index, entry) = match self.entry(inode) {
            Ok(found) => found,
            Err(error) => return reply.error(error),
        };
        let dots = [(inode, "."), (self.inode(entry.parent()), "..")];
        let dots = dots.map(|(inode, name)| (inode, FileType::Directory, name.as_bytes()));
        let toc = &self.image.toc;
        let children = self.children.of_directory(index).iter().filter_map(|&child| {
            let (index, entry) = self.entry(INodeNo(u64::from(child) + 1)).ok()?;
            let inode = self.inode(index);
            let kind = self.entry(inode).map(|(_, entry)| file_type(&entry.kind)).ok()?;
            Some((inode, kind, toc.name(entry)))
        });
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (inode, kind, name)) in (1_u64..).zip(dots.into_iter().chain(children)).skip(skipped) {
            if reply.add(inode, next, kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let bytes: u64 = self.image.toc.frames().iter().map(|frame| u64::from(frame.raw_len)).sum();
        let blocks = bytes.div_ceil(u64::from(BLOCK_BYTES));
        reply.statfs(blocks, 0, 0, self.image.toc.entries().len() as u64, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.xattr(inode, name) {
            Ok(value) => reply_xattr(reply, size, value),
            Err(error) => reply.error(error),
        }
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        match self.entry(inode) {
            Ok((_, entry)) => {
                let xattrs = self.image.toc.xattrs(entry).iter();
                let names: Vec<u8> = xattrs.flat_map(|xattr| xattr.name.iter().copied().chain([0])).collect();
                reply_xattr(reply, size, &names);
            }
            Err(error) => reply.error(error),
        }
    }

    fn lseek(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(inode, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(error),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        match self.entry(inode) {
            Ok((_, entry)) if command == GET_FLAGS => {
                reply.ioctl(0, &entry.metadata.flags.to_ne_bytes());
            }
            Ok(_) => reply.error(Errno::ENOTTY),
            Err(error) => reply.error(error),
        }
    }
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", text::path(self.image.path.as_os_str().as_bytes()))
    }
}
