//! Reads a written tree back and compares all of it with the image.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use image_format::{Entry, EntryIndex, EntryKind, Extent, Toc, Xattr};
use rustix::fs::Advice;
use rustix::io::Errno;

use crate::beneath::{self, Parents};
use crate::contents::{Unlike, compare};
use crate::inode::{FileType, Inode, read_inode};

/// Reading is disk-bound beyond this.
const THREADS_MAX: usize = 8;
/// Entries that a thread takes at once.
const ENTRIES_AT_ONCE: usize = 64;
/// Bytes read at once; one buffer per thread.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// Attributes that the running system adds by itself to what it makes.
const ADDED_BY_SYSTEM: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];

/// A tree that is equal to its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Names compared.
    pub entries: u64,
    /// Bytes of file data read back and hashed.
    pub bytes: u64,
}

/// A tree that is not equal to its image, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The root directory itself.
    #[error("opening the root directory of the tree")]
    Root(#[source] io::Error),
    /// An entry is not what the image says.
    #[error("/{path} differs from the image: {what}")]
    Different {
        /// Which entry.
        path: String,
        /// In what.
        what: String,
    },
    /// An entry cannot be read.
    #[error("reading back /{path}")]
    Unreadable {
        /// Which entry.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Compares the tree beneath `root` with `toc`: every name, contents by hash, owners, modes, times, attributes, links.
/// Caches are dropped first, so what is read comes from the disk. `progress` gets the bytes of each file when it is done.
/// Names that the image does not have are not looked for.
///
/// # Errors
/// See [`VerifyError`]; the first difference that any thread meets.
pub fn verify_tree(
    root: &Path,
    toc: &Toc,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<VerifyReport, VerifyError> {
    let root = beneath::open_root(root).map_err(VerifyError::Root)?;
    verify_tree_at(root.as_fd(), toc, progress)
}

/// As [`verify_tree`], for a directory that is open already.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify_tree_at(
    root: BorrowedFd<'_>,
    toc: &Toc,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<VerifyReport, VerifyError> {
    // Pages that are not written yet cannot be dropped.
    rustix::fs::syncfs(root).map_err(|error| VerifyError::Root(error.into()))?;
    let world = World {
        root,
        toc,
        progress,
        entries: toc.entries().collect(),
        next: AtomicUsize::new(0),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| world.work());
        }
    });
    match world.failure.into_inner() {
        Ok(Some(failure)) => Err(failure),
        // A poisoned lock means that a thread panicked, and then the scope has panicked already.
        Ok(None) | Err(_) => {
            Ok(VerifyReport { entries: world.entries.len() as u64, bytes: world.bytes.into_inner() })
        }
    }
}

/// What the threads share.
struct World<'a> {
    root: BorrowedFd<'a>,
    toc: &'a Toc,
    progress: &'a (dyn Fn(u64) + Sync),
    entries: Vec<(EntryIndex, &'a Entry)>,
    next: AtomicUsize,
    bytes: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<VerifyError>>,
}

/// Why an entry is not equal.
pub(crate) enum Mismatch {
    Different(String),
    Unreadable(io::Error),
}

impl Mismatch {
    pub(crate) fn of(self, path: String) -> VerifyError {
        match self {
            Self::Different(what) => VerifyError::Different { path, what },
            Self::Unreadable(source) if source.kind() == io::ErrorKind::NotFound => {
                VerifyError::Different { path, what: "it is not there".to_owned() }
            }
            Self::Unreadable(source) => VerifyError::Unreadable { path, source },
        }
    }
}

impl From<io::Error> for Mismatch {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

impl From<Errno> for Mismatch {
    fn from(error: Errno) -> Self {
        Self::Unreadable(error.into())
    }
}

impl From<Unlike> for Mismatch {
    fn from(unlike: Unlike) -> Self {
        match unlike {
            Unlike::Unreadable(error) => Self::Unreadable(error),
            unlike => Self::Different(unlike.to_string()),
        }
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), Mismatch> {
    if found == expected {
        Ok(())
    } else {
        Err(Mismatch::Different(format!("{what} is {found:?}, not {expected:?}")))
    }
}

impl World<'_> {
    fn work(&self) {
        let mut parents = Parents::new(self.root, self.toc);
        let mut buffer = vec![0; READ_BYTES];
        while !self.stop.load(Ordering::Relaxed) {
            let from = self.next.fetch_add(ENTRIES_AT_ONCE, Ordering::Relaxed);
            let until = self.entries.len().min(from.saturating_add(ENTRIES_AT_ONCE));
            let Some(batch) = self.entries.get(from..until).filter(|batch| !batch.is_empty()) else { return };
            for &(index, entry) in batch {
                if let Err(mismatch) = self.compare(&mut parents, index, entry, &mut buffer) {
                    self.fail(index, mismatch);
                    return;
                }
            }
        }
    }

    fn fail(&self, index: EntryIndex, mismatch: Mismatch) {
        let path = String::from_utf8_lossy(&self.toc.path(index)).into_owned();
        let failure = mismatch.of(path);
        self.stop.store(true, Ordering::Relaxed);
        if let Ok(mut first) = self.failure.lock() {
            first.get_or_insert(failure);
        }
    }

    fn compare(
        &self,
        parents: &mut Parents<'_>,
        index: EntryIndex,
        entry: &Entry,
        buffer: &mut [u8],
    ) -> Result<(), Mismatch> {
        let parent = parents.of(entry)?;
        let inode = read_inode(parent, if index == EntryIndex::ROOT { &[] } else { self.toc.name(entry) })?;
        if let EntryKind::HardLink { to } = entry.kind {
            return self.compare_hard_link(&inode, to);
        }
        compare_kind(&inode, &entry.kind)?;
        // Owners, modes and exact times do not exist on an EFI system partition; contents do.
        let plain =
            inode.fd.as_ref().is_some_and(|fd| beneath::is_plain_file_system(fd.as_fd()).unwrap_or(false));
        if !plain {
            compare_metadata(&inode, entry, self.toc.xattrs(entry))?;
        }
        match (&entry.kind, &inode.fd) {
            (EntryKind::Symlink, _) => {
                let target = rustix::fs::readlinkat(parent, self.toc.name(entry), Vec::new())?;
                expect("where it points", &target.as_bytes(), &self.toc.link_target(entry))
            }
            (EntryKind::File { size, hash, .. }, Some(file)) => {
                expect("its length", &inode.size, size)?;
                let data = self.toc.extents(entry).iter().map(Extent::file_range);
                rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
                let bytes = compare(file, *size, data, *hash, buffer)?;
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                (self.progress)(bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn compare_hard_link(&self, inode: &Inode, to: EntryIndex) -> Result<(), Mismatch> {
        let target = self.toc.entry(to).ok_or(Errno::NOENT)?;
        let directory = beneath::open_directory(self.root, &self.toc.path(target.parent()))?;
        let other = read_inode(directory.as_fd(), self.toc.name(target))?;
        if (inode.file_system, inode.number) == (other.file_system, other.number) {
            return Ok(());
        }
        let path = self.toc.path(to);
        Err(Mismatch::Different(format!("it is not a hard link to /{}", String::from_utf8_lossy(&path))))
    }
}

fn compare_kind(inode: &Inode, kind: &EntryKind) -> Result<(), Mismatch> {
    let (file_type, device) = match *kind {
        EntryKind::Directory => (FileType::Directory, None),
        EntryKind::File { .. } | EntryKind::HardLink { .. } => (FileType::File, None),
        EntryKind::Symlink => (FileType::Symlink, None),
        EntryKind::CharDevice { major, minor } => (FileType::CharDevice, Some((major, minor))),
        EntryKind::BlockDevice { major, minor } => (FileType::BlockDevice, Some((major, minor))),
        EntryKind::Fifo => (FileType::Fifo, None),
        EntryKind::Socket => (FileType::Socket, None),
    };
    expect("its kind", &inode.file_type, &file_type)?;
    device.map_or(Ok(()), |device| expect("its device number", &inode.device, &device))
}

fn compare_metadata(inode: &Inode, entry: &Entry, xattrs: &[Xattr]) -> Result<(), Mismatch> {
    let (found, expected) = (&inode.metadata, &entry.metadata);
    expect("its owner", &found.uid, &expected.uid)?;
    expect("its group", &found.gid, &expected.gid)?;
    if entry.kind != EntryKind::Symlink && found.mode != expected.mode {
        return Err(Mismatch::Different(format!("its mode is {:o}, not {:o}", found.mode, expected.mode)));
    }
    expect("its modification time", &found.mtime, &expected.mtime)?;
    expect("its file flags", &found.flags, &expected.flags)?;
    let added = |xattr: &&Xattr| {
        ADDED_BY_SYSTEM.contains(&xattr.name.as_slice())
            && !xattrs.iter().any(|other| other.name == xattr.name)
    };
    let names = |xattrs: &[&Xattr]| -> Vec<String> {
        xattrs.iter().map(|xattr| String::from_utf8_lossy(&xattr.name).into_owned()).collect()
    };
    let found: Vec<&Xattr> = inode.xattrs.iter().filter(|xattr| !added(xattr)).collect();
    let expected: Vec<&Xattr> = xattrs.iter().collect();
    expect("its list of extended attributes", &names(&found), &names(&expected))?;
    for (found, expected) in found.iter().zip(&expected) {
        if found.value != expected.value {
            let name = String::from_utf8_lossy(&found.name);
            return Err(Mismatch::Different(format!("the value of its extended attribute {name}")));
        }
    }
    Ok(())
}
