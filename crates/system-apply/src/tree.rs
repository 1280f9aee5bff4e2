//! Writes files into the installed system as that system itself would see their paths.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use blake3::{Hash, Hasher};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Uid};

/// Name under which a file is written before it takes its own.
const TEMPORARY: &str = ".esir-new";
/// Copied at a time.
const BUFFER_BYTES: usize = 64 << 10;
/// Files at one place of an image that are copied; a full ESP has some dozens.
const COPIED_MAX: usize = 1000;

/// The root of an installed system. Absolute symbolic links inside it stay inside it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// Everything that was written, with its fingerprint, for the read-back.
    written: Vec<(PathBuf, Hash)>,
}

/// User and group, by number.
pub(crate) type Owner = (u32, u32);
/// Of what belongs to nobody else.
pub(crate) const ROOT: Owner = (0, 0);

/// A file of the installed system that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path} of the installed system")]
pub struct TreeError {
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

    /// The first of these paths that leads to something.
    pub(crate) fn first<'p>(&self, paths: &[&'p str]) -> Option<&'p str> {
        paths.iter().find(|path| self.exists(path)).copied()
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
                let read = File::from(file).read_to_end(&mut bytes);
                read.map_err(fail("reading", path))?;
                Ok(Some(bytes))
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(error) => Err(fail("reading", path)(error)),
        }
    }

    /// The text of a file, empty where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Result<String, TreeError> {
        Ok(String::from_utf8_lossy(&self.read(path)?.unwrap_or_default()).into_owned())
    }

    /// Puts a file with these contents and this mode in the place of whatever had its name; it is root's.
    ///
    /// # Errors
    /// The old file, if any, is still there then.
    pub(crate) fn write(
        &mut self,
        path: impl AsRef<Path>,
        contents: &[u8],
        mode: u32,
    ) -> Result<(), TreeError> {
        self.put(path.as_ref(), &mut &*contents, mode, ROOT)
    }

    /// As [`Self::write`], from a stream and for any owner.
    pub(crate) fn put(
        &mut self,
        path: &Path,
        contents: &mut dyn Read,
        mode: u32,
        owner: Owner,
    ) -> Result<(), TreeError> {
        let hash = self.put_anew(path, contents, mode, owner).map_err(fail("writing", path))?;
        self.wrote(path, hash);
        Ok(())
    }

    /// Puts `tail` behind a file, at a multiple of 4 bytes, unless it ends so already; the file gets this mode and is
    /// root's.
    ///
    /// # Errors
    /// It is not there, or cannot be read or written; the old one is still there then.
    pub(crate) fn append(&mut self, path: &Path, tail: &[u8], mode: u32) -> Result<(), TreeError> {
        let file = self.resolve(path, OFlags::RDONLY).map_err(fail("reading", path))?;
        let mut whole = with_tail(file.into(), tail).map_err(fail("reading", path))?;
        self.put(path, &mut whole, mode, ROOT)
    }

    /// Puts a symbolic link in the place of whatever had its name.
    ///
    /// # Errors
    /// The old file, if any, is still there then.
    pub(crate) fn link(&mut self, path: &Path, target: &[u8], owner: Owner) -> Result<(), TreeError> {
        let linked = self.parent(path).and_then(|(parent, name)| {
            let _ = rustix::fs::unlinkat(&parent, TEMPORARY, AtFlags::empty());
            rustix::fs::symlinkat(target, &parent, TEMPORARY)?;
            let (user, group) = ids(owner);
            rustix::fs::chownat(&parent, TEMPORARY, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::renameat(&parent, TEMPORARY, &parent, name)?;
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(fingerprint(&stat, &blake3::hash(target)))
        });
        self.wrote(path, linked.map_err(fail("linking", path))?);
        Ok(())
    }

    /// Makes a directory with all that is missing above it (mode 755); one that is there stays as it is.
    ///
    /// # Errors
    /// When something else has its name.
    pub(crate) fn make_folder(&self, path: impl AsRef<Path>) -> Result<(), TreeError> {
        let path = path.as_ref();
        self.folder(path).map(drop).map_err(fail("making", path))
    }

    /// As [`Self::make_folder`] with another mode and owner, for the last directory only.
    pub(crate) fn make_folder_of(&self, path: &Path, mode: u32, owner: Owner) -> Result<(), TreeError> {
        if self.exists(path) {
            return self.make_folder(path);
        }
        let made = self.folder(path).and_then(|_| {
            let folder = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let (user, group) = ids(owner);
            rustix::fs::fchown(&folder, user, group)?;
            Ok(rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?)
        });
        made.map_err(fail("making", path))
    }

    /// Copies a file of another tree.
    ///
    /// # Errors
    /// It is not there, or cannot be read or written.
    pub(crate) fn copy(&mut self, from: &Self, source: &Path, path: &Path) -> Result<(), TreeError> {
        let file = from.resolve(source, OFlags::RDONLY).map_err(fail("reading", source))?;
        self.put(path, &mut File::from(file), 0o755, ROOT)
    }

    /// Copies every file below a directory of another tree to the directory `to`, but those whose new path `held_back`
    /// means; links are left out.
    ///
    /// # Errors
    /// One cannot be read or written.
    pub(crate) fn copy_all(
        &mut self,
        from: &Self,
        source: &Path,
        to: &Path,
        held_back: &dyn Fn(&Path) -> bool,
    ) -> Result<(), TreeError> {
        let mut left = vec![PathBuf::new()];
        let mut copied = 0;
        while let Some(relative) = left.pop() {
            for name in from.names(source.join(&relative)) {
                let relative = relative.join(name);
                let path = to.join(&relative);
                let kind =
                    from.look(&source.join(&relative)).map(|stat| FileType::from_raw_mode(stat.st_mode));
                match kind {
                    Ok(FileType::Directory) => left.push(relative),
                    Ok(FileType::RegularFile) if !held_back(&path) && copied < COPIED_MAX => {
                        copied += 1;
                        self.copy(from, &source.join(&relative), &path)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes a file; that it is not there is fine.
    ///
    /// # Errors
    /// When it is there and stays.
    pub(crate) fn remove(&mut self, path: impl AsRef<Path>) -> Result<(), TreeError> {
        let path = path.as_ref();
        self.written.retain(|(known, _)| known != path);
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

    /// Everything that was written, in the order in which it was.
    pub(crate) fn written(&self) -> impl Iterator<Item = &Path> {
        self.written.iter().map(|(path, _)| path.as_path())
    }

    /// Takes what programs of the system made of the files that were written before them, and says which those are.
    /// What they made anew is written too if it is at one of `also`.
    pub(crate) fn accept(&mut self, also: &[&str]) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        let mut kept = Vec::new();
        for (path, hash) in std::mem::take(&mut self.written) {
            let found = self.fingerprint_of(&path).ok();
            if found != Some(hash) {
                changed.push(path.clone());
            }
            kept.extend(found.map(|found| (path, found)));
        }
        self.written = kept;
        for path in also.iter().map(Path::new) {
            if let Ok(hash) = self.fingerprint_of(path) {
                self.wrote(path, hash);
            }
        }
        changed
    }

    /// Reads back everything that was written.
    ///
    /// # Errors
    /// The first file whose contents, mode or owner are not what was written.
    pub(crate) fn read_back(&self) -> Result<usize, TreeError> {
        for (path, hash) in &self.written {
            if self.fingerprint_of(path).map_err(fail("reading back", path))? != *hash {
                let source = io::Error::other("it does not hold what was written; the disk is failing");
                return Err(TreeError { doing: "reading back", path: path.clone(), source });
            }
        }
        Ok(self.written.len())
    }

    fn wrote(&mut self, path: &Path, hash: Hash) {
        self.written.retain(|(known, _)| known != path);
        self.written.push((path.to_owned(), hash));
    }

    fn put_anew(&self, path: &Path, contents: &mut dyn Read, mode: u32, owner: Owner) -> io::Result<Hash> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let _ = rustix::fs::unlinkat(&parent, TEMPORARY, AtFlags::empty());
        let file = rustix::fs::openat(&parent, TEMPORARY, flags, Mode::from_raw_mode(0o600))?;
        let (user, group) = ids(owner);
        rustix::fs::fchown(&file, user, group)?;
        // After the owner, whose change takes special bits away.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        let mut file = File::from(file);
        let hash = copy_hashed(contents, &mut file)?;
        file.sync_all()?;
        rustix::fs::renameat(&parent, TEMPORARY, &parent, name)?;
        // FAT keeps neither owner nor mode: what is read back is compared with what the file system took.
        Ok(fingerprint(&rustix::fs::fstat(&file)?, &hash))
    }

    fn fingerprint_of(&self, path: &Path) -> io::Result<Hash> {
        let stat = self.look(path)?;
        let (parent, name) = self.parent(path)?;
        let hash = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            blake3::hash(rustix::fs::readlinkat(&parent, name, Vec::new())?.as_bytes())
        } else {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
            copy_hashed(&mut File::from(file), &mut io::sink())?
        };
        Ok(fingerprint(&stat, &hash))
    }

    /// What has this name itself, be it a link.
    fn look(&self, path: &Path) -> io::Result<Stat> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The directory that a file is in, made where it is missing, and the file's name.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p std::ffi::OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        Ok((self.folder(parent)?, name))
    }

    /// Opens a directory, making what is missing of it (mode 755).
    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.resolve(path, flags) {
            Err(rustix::io::Errno::NOENT) => {
                let (parent, name) = self.parent(path)?;
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

fn ids((user, group): Owner) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
}

/// Everything of a file that is read back: kind, mode, owner, contents.
fn fingerprint(stat: &Stat, contents: &Hash) -> Hash {
    let mode: RawMode = stat.st_mode;
    let words = [mode, stat.st_uid, stat.st_gid].map(u32::to_le_bytes);
    Hasher::new().update(words.as_flattened()).update(contents.as_bytes()).finalize()
}

/// A file from its beginning with `tail` at its end, once.
fn with_tail(mut file: File, tail: &[u8]) -> io::Result<impl Read> {
    let bytes = file.metadata()?.len();
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(bytes.saturating_sub(tail.len() as u64)))?;
    file.read_to_end(&mut end)?;
    file.rewind()?;
    let (padding, tail) = if end == tail { (0, &[][..]) } else { (bytes.wrapping_neg() % 4, tail) };
    Ok(file.chain(io::repeat(0).take(padding)).chain(tail))
}

fn copy_hashed(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<Hash> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer)?;
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else {
            return Ok(hasher.finalize());
        };
        hasher.update(part);
        to.write_all(part)?;
    }
}

fn fail<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> TreeError {
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

    #[test]
    fn mode_and_owner_are_read_back_too_and_what_a_program_changed_is_taken() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        tree.write("/etc/x", b"1", 0o640).unwrap();
        tree.link(Path::new("/etc/y"), b"x", ROOT).unwrap();
        assert_eq!(tree.read_back().unwrap(), 2);
        std::fs::set_permissions(root.path().join("etc/x"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(tree.read_back().is_err());
        std::fs::remove_file(root.path().join("etc/y")).unwrap();
        std::fs::write(root.path().join("etc/z"), "made").unwrap();
        let changed = tree.accept(&["/etc/z", "/etc/none"]);
        assert_eq!(changed, [PathBuf::from("/etc/x"), PathBuf::from("/etc/y")]);
        assert_eq!(tree.read_back().unwrap(), 2, "x as it is now, and z");
    }

    #[test]
    fn what_is_appended_is_aligned_and_there_once() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("initrd");
        std::fs::write(&path, "12345").unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        for _ in 0..2 {
            tree.append(Path::new("/initrd"), b"tail", 0o600).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"12345\0\0\0tail");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(tree.read_back().unwrap(), 1);
        }
        assert!(tree.append(Path::new("/none"), b"tail", 0o600).is_err());
    }

    #[test]
    fn a_directory_that_is_there_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let mode = || std::fs::metadata(root.path().join("a/b")).unwrap().permissions().mode() & 0o7777;
        tree.make_folder_of(Path::new("/a/b"), 0o700, ROOT).unwrap();
        assert_eq!(mode(), 0o700);
        tree.make_folder_of(Path::new("/a/b"), 0o755, ROOT).unwrap();
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn a_folder_of_an_image_is_copied_without_what_is_held_back() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("boot/efi/EFI/BOOT")).unwrap();
        for name in ["BOOT/BOOTX64.EFI", "BOOT/fbx64.efi", "top"] {
            std::fs::write(from.path().join("boot/efi/EFI").join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("top", from.path().join("boot/efi/EFI/link")).unwrap();
        let mut esp = Tree::open(to.path()).unwrap();
        let held_back = |path: &Path| path.ends_with("BOOTX64.EFI");
        esp.copy_all(&Tree::open(from.path()).unwrap(), Path::new("/boot/efi"), Path::new("/"), &held_back)
            .unwrap();
        let written: Vec<&Path> = esp.written().collect();
        assert_eq!(written, [Path::new("/EFI/top"), Path::new("/EFI/BOOT/fbx64.efi")]);
    }
}
