//! Writes files into the installed system as that system itself would see their paths.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

/// Name under which a file is written before it takes its own.
const TEMPORARY: &str = ".esir-new";

/// The root of an installed system. Absolute symbolic links inside it stay inside it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// Every file written, with the hash of its contents, for the read-back.
    written: Vec<(PathBuf, blake3::Hash)>,
}

/// A file of the installed system that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path} of the installed system")]
pub(crate) struct TreeError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Tree {
    /// Opens the tree below `root`.
    ///
    /// # Errors
    /// When `root` is no directory.
    pub(crate) fn open(root: &Path) -> Result<Self, TreeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(fail("opening", root))?;
        Ok(Self { root, written: Vec::new() })
    }

    /// Whether the path leads to something inside the tree.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.resolve(path.as_ref(), OFlags::PATH).is_ok()
    }

    /// The contents of a file, `None` where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>, TreeError> {
        let path = path.as_ref();
        match self.resolve(path, OFlags::RDONLY) {
            Ok(file) => {
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes)
                    .map_err(|source| TreeError { doing: "reading", path: path.to_owned(), source })?;
                Ok(Some(bytes))
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(error) => Err(fail("reading", path)(error)),
        }
    }

    /// Puts a file with these contents and this mode in the place of whatever had its name.
    ///
    /// # Errors
    /// The old file, if any, is still there then.
    pub(crate) fn write(
        &mut self,
        path: impl AsRef<Path>,
        contents: &[u8],
        mode: u32,
    ) -> Result<(), TreeError> {
        let path = path.as_ref();
        self.write_anew(path, contents, mode).map_err(|source| TreeError {
            doing: "writing",
            path: path.to_owned(),
            source,
        })?;
        self.written.retain(|(known, _)| known != path);
        self.written.push((path.to_owned(), blake3::hash(contents)));
        Ok(())
    }

    /// Makes a directory with all that is missing above it (mode 755); one that is there stays as it is.
    ///
    /// # Errors
    /// When something else has its name.
    pub(crate) fn make_folder(&self, path: impl AsRef<Path>) -> Result<(), TreeError> {
        let path = path.as_ref();
        let made = self.folder(path);
        made.map(drop).map_err(|source| TreeError { doing: "making", path: path.to_owned(), source })
    }

    /// Removes a file; that it is not there is fine.
    ///
    /// # Errors
    /// When it is there and stays.
    pub(crate) fn remove(&self, path: impl AsRef<Path>) -> Result<(), TreeError> {
        let path = path.as_ref();
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let Ok(parent) = self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY) else { return Ok(()) };
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(fail("removing", path)(error)),
        }
    }

    /// The names in a directory, sorted; none where there is no such directory.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(folder) = self.resolve(path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Vec::new();
        };
        let Ok(entries) = rustix::fs::Dir::read_from(&folder) else { return Vec::new() };
        let names =
            entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
        names.sort();
        names
    }

    /// Reads back every file that was written.
    ///
    /// # Errors
    /// The first file whose contents are not what was written.
    pub(crate) fn read_back(&self) -> Result<usize, TreeError> {
        for (path, hash) in &self.written {
            let found = self.read(path)?.map(|bytes| blake3::hash(&bytes));
            if found != Some(*hash) {
                let source = io::Error::other("it does not hold what was written; the disk is failing");
                return Err(TreeError { doing: "reading back", path: path.clone(), source });
            }
        }
        Ok(self.written.len())
    }

    fn write_anew(&self, path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let parent = self.folder(parent)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let _ = rustix::fs::unlinkat(&parent, TEMPORARY, AtFlags::empty());
        let file = rustix::fs::openat(&parent, TEMPORARY, flags, Mode::from_raw_mode(0o600))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        let mut file = std::fs::File::from(file);
        file.write_all(contents)?;
        file.sync_all()?;
        rustix::fs::renameat(&parent, TEMPORARY, &parent, name)?;
        Ok(())
    }

    /// Opens a directory, making what is missing of it (mode 755).
    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.resolve(path, flags) {
            Err(rustix::io::Errno::NOENT) => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(io::Error::from(io::ErrorKind::NotFound));
                };
                let parent = self.folder(parent)?;
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                Ok(self.resolve(path, flags)?)
            }
            found => Ok(found?),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        // IN_ROOT: an image's `/etc/x -> /usr/etc/x` means its own /usr, and `..` stops at its root.
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }
}

fn fail(doing: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> TreeError {
    let path = path.to_owned();
    move |error| TreeError { doing, path, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_links_to_the_outside_keeps_its_files_inside() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("etc/ssh")).unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        assert!(tree.write("/etc/ssh/x", b"1", 0o600).is_err(), "the link leads nowhere inside the tree");
        let inside = root.path().join(outside.path().strip_prefix("/").unwrap());
        std::fs::create_dir_all(&inside).unwrap();
        tree.write("/etc/ssh/x", b"1", 0o600).unwrap();
        assert_eq!(std::fs::read(inside.join("x")).unwrap(), b"1");
        assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none());
        assert_eq!(tree.read("/etc/ssh/x").unwrap().as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn a_file_that_is_a_link_is_replaced_and_its_target_left_alone() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("real"), "old").unwrap();
        std::os::unix::fs::symlink("/real", root.path().join("name")).unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        tree.write("/name", b"new", 0o644).unwrap();
        assert_eq!(std::fs::read(root.path().join("real")).unwrap(), b"old");
        assert_eq!(tree.read_back().unwrap(), 1);
        std::fs::write(root.path().join("name"), "torn").unwrap();
        assert!(tree.read_back().is_err());
    }
}
