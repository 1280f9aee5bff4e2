//! Files that are there already move into the new tree, instead of being written again.
//!
//! Never believes a file that it has not read: what an installed system has is hashed before it is taken.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use image_format::{ContentId, Entry, EntryIndex, EntryKind, Extent, FILE_FLAGS_KEPT, Hash, Toc};
use rustix::fs::{FileType, IFlags, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::applier::{ApplyError, Doing};
use crate::beneath::{self, Parents};
use crate::contents::{Unlike, compare};
use crate::finish;
use crate::inode;
use crate::parallel::for_each_entry;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// More than there are threads, so that they seldom wait for each other.
const TAKEN_LOCKS: usize = 64;
/// `FS_ENCRYPT_FL` and `FS_VERITY_FL` of linux/fs.h: such a file is not as any other, and stays so.
const NEVER_REUSED: u32 = 0x0010_0800;

/// A directory on the new tree's own file system from which files may be taken. What is taken is gone from there.
#[derive(Debug)]
pub struct Source<'a> {
    root: BorrowedFd<'a>,
    kind: SourceKind<'a>,
}

#[derive(Debug)]
enum SourceKind<'a> {
    /// An older system; the table that it was made from says where contents may be.
    Installed(HashMap<ContentId, Vec<u8>>),
    /// Contents of a delta image, just written from checked frames, by their table.
    Staged(HashMap<Hash, &'a [u8]>),
}

/// What was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reused {
    /// Files.
    pub files: u64,
    /// Bytes of data in them.
    pub bytes: u64,
}

impl<'a> Source<'a> {
    /// An older system below `root`. Files are looked for under their own path and where `table` has their contents.
    #[must_use]
    pub fn installed(root: BorrowedFd<'a>, table: Option<&Toc>) -> Self {
        let contents = table.into_iter().flat_map(|toc| {
            toc.entries().filter_map(|(index, entry)| Some((toc.content_id(entry)?, toc.path(index))))
        });
        Self { root, kind: SourceKind::Installed(contents.collect()) }
    }

    /// The files of a delta image, which `table` describes and which were just written below `root`: each is called
    /// [`staged_name`] of the first entry that needs it.
    #[must_use]
    pub fn staged(root: BorrowedFd<'a>, table: &'a Toc) -> Self {
        let contents = table.entries().filter_map(|(_, entry)| Some((plain_hash(entry)?, table.name(entry))));
        Self { root, kind: SourceKind::Staged(contents.collect()) }
    }

    /// Paths at which the contents of an entry may be.
    fn candidates(&self, toc: &Toc, index: EntryIndex, entry: &Entry) -> Vec<Vec<u8>> {
        match &self.kind {
            SourceKind::Staged(contents) => match plain_hash(entry) {
                Some(hash) => contents.get(&hash).map(|name| name.to_vec()).into_iter().collect(),
                // Holes are not in the hash, so each file that has some comes by itself.
                None => vec![staged_name(index).into_bytes()],
            },
            SourceKind::Installed(contents) => {
                let Some(content) = toc.content_id(entry) else { return Vec::new() };
                let own = toc.path(index);
                let elsewhere = contents.get(&content).filter(|path| **path != own).cloned();
                std::iter::once(own).chain(elsewhere).collect()
            }
        }
    }
}

/// What a delta image calls the contents of entry `index` of the new table.
#[must_use]
pub fn staged_name(index: EntryIndex) -> String {
    format!("{:08x}", index.get())
}

/// The hash of a file that is nothing but its contents.
fn plain_hash(entry: &Entry) -> Option<Hash> {
    match entry.kind {
        EntryKind::File { hash, sparse: false, .. } => hash,
        _ => None,
    }
}

/// Puts every file of `toc` that a source has into its place beneath `root`, where its directory is already, and
/// returns which entries that were.
pub(crate) fn place(
    root: BorrowedFd<'_>,
    toc: &Toc,
    sources: &[Source<'_>],
) -> Result<(HashSet<EntryIndex>, Reused), ApplyError> {
    if sources.is_empty() {
        return Ok((HashSet::new(), Reused::default()));
    }
    let world = World {
        root,
        toc,
        sources,
        placed: toc.entries().map(|_| AtomicBool::new(false)).collect(),
        taken: std::array::from_fn(|_| Mutex::default()),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    for_each_entry(root, toc, &|parents, index, entry| {
        if !matches!(entry.kind, EntryKind::File { hash: Some(_), .. }) {
            return Ok(());
        }
        world
            .move_one(parents, index, entry)
            .map_err(|error| ApplyError::entry(toc, index, Doing::Creating, error))
    })?;
    world.copy_doubles()?;
    let World { placed, files, bytes, .. } = world;
    let placed = toc.entries().zip(placed).filter(|(_, placed)| placed.load(Ordering::Relaxed));
    let placed = placed.map(|((index, _), _)| index).collect();
    Ok((placed, Reused { files: files.into_inner(), bytes: bytes.into_inner() }))
}

/// What the threads share.
struct World<'a> {
    root: BorrowedFd<'a>,
    toc: &'a Toc,
    sources: &'a [Source<'a>],
    placed: Vec<AtomicBool>,
    /// Numbers of the inodes that were taken, by their remainder. An inode is looked at under its lock: several entries
    /// may want the one file that has what they need, and another name of it is not another file.
    taken: [Mutex<HashSet<u64>>; TAKEN_LOCKS],
    files: AtomicU64,
    bytes: AtomicU64,
}

impl World<'_> {
    fn is_placed(&self, index: EntryIndex) -> bool {
        self.placed.get(index.get() as usize).is_some_and(|placed| placed.load(Ordering::Relaxed))
    }

    fn set_placed(&self, index: EntryIndex, bytes: u64) {
        if let Some(placed) = self.placed.get(index.get() as usize) {
            placed.store(true, Ordering::Relaxed);
        }
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Moves the first candidate that has the right contents, if one has.
    fn move_one(&self, parents: &mut Parents<'_>, index: EntryIndex, entry: &Entry) -> io::Result<()> {
        for source in self.sources {
            for path in source.candidates(self.toc, index, entry) {
                let (directory, name) = split(&path);
                let Some(directory) = found(beneath::open_directory(source.root, directory))? else {
                    continue;
                };
                let Some(file) = found(beneath::open_file(directory.as_fd(), name))? else { continue };
                let stat = rustix::fs::fstat(&file)?;
                let mut taken = self.taken_beside(stat.st_ino);
                if taken.contains(&stat.st_ino) || !self.is_same(source, &file, &stat, entry)? {
                    continue;
                }
                let (from, to) = (directory.as_fd(), parents.of(entry)?);
                let rename = || {
                    rustix::fs::renameat_with(from, name, to, self.toc.name(entry), RenameFlags::NOREPLACE)
                };
                match rename() {
                    // Nothing leaves a directory that is protected.
                    Err(Errno::PERM) => unprotect(&directory).and_then(|()| Ok(rename()?))?,
                    renamed => renamed?,
                }
                finish::set_opened(&file, &entry.metadata, self.toc.xattrs(entry))?;
                taken.insert(stat.st_ino);
                self.set_placed(index, self.toc.extents(entry).iter().map(|it| u64::from(it.len)).sum());
                return Ok(());
            }
        }
        Ok(())
    }

    fn taken_beside(&self, number: u64) -> MutexGuard<'_, HashSet<u64>> {
        let at = usize::try_from(number % TAKEN_LOCKS as u64).unwrap_or(0);
        let lock = self.taken.get(at).unwrap_or(&self.taken[0]);
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `file` has the contents of `entry` and can become it.
    fn is_same(&self, source: &Source<'_>, file: &OwnedFd, stat: &Stat, entry: &Entry) -> io::Result<bool> {
        let EntryKind::File { size, hash: Some(hash), .. } = entry.kind else { return Ok(false) };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || u64::try_from(stat.st_size) != Ok(size) {
            return Ok(false);
        }
        if matches!(source.kind, SourceKind::Staged(_)) {
            return Ok(true);
        }
        let data = self.toc.extents(entry).iter().map(Extent::file_range);
        match compare(file, size, data, Some(hash), &mut vec![0; READ_BYTES]) {
            Ok(_) => strip(file),
            Err(Unlike::Unreadable(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// What several entries have in common was moved to the first of them; the others get copies.
    fn copy_doubles(&self) -> Result<(), ApplyError> {
        let mut first: HashMap<ContentId, EntryIndex> = HashMap::new();
        for (index, entry) in self.toc.entries().filter(|(index, _)| self.is_placed(*index)) {
            if let Some(content) = self.toc.content_id(entry) {
                first.entry(content).or_insert(index);
            }
        }
        let mut parents = Parents::new(self.root, self.toc);
        for (index, entry) in self.toc.entries().filter(|(index, _)| !self.is_placed(*index)) {
            let Some(from) = self.toc.content_id(entry).and_then(|content| first.get(&content)) else {
                continue;
            };
            let copied = parents.of(entry).and_then(|parent| self.copy(*from, parent, entry));
            let bytes = copied.map_err(|error| ApplyError::entry(self.toc, index, Doing::Creating, error))?;
            self.set_placed(index, bytes);
        }
        Ok(())
    }

    fn copy(&self, from: EntryIndex, parent: BorrowedFd<'_>, entry: &Entry) -> io::Result<u64> {
        let mut from = File::from(beneath::open_file(self.root, &self.toc.path(from))?);
        let mut to = File::from(crate::write::create(parent, self.toc.name(entry), entry, false)?);
        let mut bytes = 0;
        for extent in self.toc.extents(entry) {
            from.seek(SeekFrom::Start(extent.file_offset))?;
            to.seek(SeekFrom::Start(extent.file_offset))?;
            // By the kernel, which shares the extents where the file system can.
            bytes += io::copy(&mut (&mut from).take(extent.len.into()), &mut to)?;
        }
        finish::set_opened(&to.into(), &entry.metadata, self.toc.xattrs(entry))?;
        Ok(bytes)
    }
}

/// That it is not there, or something else is, is no error.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::NXIO, Errno::ISDIR];
    match result {
        Err(error) if absent.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) => {
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// Removes what an older system gave the inode and the new one may not: flags, extended attributes. Whether it is one
/// that can be reused at all.
pub(crate) fn strip(fd: &OwnedFd) -> io::Result<bool> {
    match rustix::fs::ioctl_getflags(fd) {
        Ok(flags) if flags.bits() & NEVER_REUSED != 0 => return Ok(false),
        Ok(flags) if flags.bits() & FILE_FLAGS_KEPT != 0 => {
            rustix::fs::ioctl_setflags(fd, flags.difference(IFlags::from_bits_retain(FILE_FLAGS_KEPT)))?;
        }
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    for name in inode::xattr_names(fd)? {
        match rustix::fs::fremovexattr(fd, name.as_slice()) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// A path's directory and its last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

/// Where a root keeps what is not of its system while it is being made.
pub const WORK_DIRECTORY: &str = ".esir";
/// Below it: the older system, and what of it nobody took.
const OLD: &str = "old";
/// Stays where it is: it belongs to the file system.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Moves the system in `root` into a directory of its own in the same file system and returns that. The root is then
/// empty but for it.
///
/// # Errors
/// As rename(2). `AlreadyExists` if something was being made here before and was not completed.
pub fn set_aside(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let whole = beneath::open_directory(root, &[])?;
    if !strip(&whole)? {
        return Err(io::ErrorKind::Unsupported.into());
    }
    rustix::fs::mkdirat(root, WORK_DIRECTORY, Mode::RWXU)?;
    let work = beneath::open_directory(root, WORK_DIRECTORY.as_bytes())?;
    rustix::fs::mkdirat(&work, OLD, Mode::RWXU)?;
    let old = beneath::open_directory(work.as_fd(), OLD.as_bytes())?;
    for entry in rustix::fs::Dir::read_from(&whole)? {
        let entry = entry?;
        let name = entry.file_name();
        let stays: [&[u8]; 4] = [b".", b"..", WORK_DIRECTORY.as_bytes(), LOST_AND_FOUND];
        if stays.contains(&name.to_bytes()) {
            continue;
        }
        match rustix::fs::renameat(root, name, &old, name) {
            // Nothing that is protected goes anywhere.
            Err(Errno::PERM) => {
                unprotect(&beneath::open(root, name.to_bytes(), OFlags::RDONLY | OFlags::NONBLOCK)?)?;
                rustix::fs::renameat(root, name, &old, name)?;
            }
            renamed => renamed?,
        }
    }
    Ok(old)
}

/// Removes what [`set_aside`] made, with all that is left in it. Before [`crate::Applier::finish`], which gives the root
/// directory its time.
///
/// # Errors
/// As unlink(2).
pub fn remove_aside(root: BorrowedFd<'_>) -> io::Result<()> {
    match remove_all(root, WORK_DIRECTORY.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes the directory `name` of `parent` with all that is in it, however it is protected.
///
/// # Errors
/// As unlink(2).
pub fn remove_all(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    // Each level holds one directory open; names are collected first, because removing disturbs reading.
    let directory = beneath::open_directory(parent, name)?;
    unprotect(&directory)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        if ![b".".as_slice(), b".."].contains(&entry.file_name().to_bytes()) {
            names.push((entry.file_name().to_bytes().to_vec(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        if kind == FileType::Directory {
            remove_all(directory.as_fd(), &name)?;
        } else if let Err(error) =
            rustix::fs::unlinkat(&directory, name.as_slice(), rustix::fs::AtFlags::empty())
        {
            if error != Errno::PERM || kind != FileType::RegularFile {
                return Err(error.into());
            }
            unprotect(&beneath::open(directory.as_fd(), &name, OFlags::RDONLY | OFlags::NONBLOCK)?)?;
            rustix::fs::unlinkat(&directory, name.as_slice(), rustix::fs::AtFlags::empty())?;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::REMOVEDIR)?)
}

/// Takes away the flags that forbid changes.
fn unprotect(fd: &OwnedFd) -> io::Result<()> {
    let forbid = IFlags::IMMUTABLE | IFlags::APPEND;
    match rustix::fs::ioctl_getflags(fd) {
        Ok(flags) if flags.intersects(forbid) => {
            Ok(rustix::fs::ioctl_setflags(fd, flags.difference(forbid))?)
        }
        _ => Ok(()),
    }
}
