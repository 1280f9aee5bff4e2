//! Files of menus: the kernels, initrds and programs that a site adds to its own, in one directory.
//!
//! Never leaves that directory: names are checked, and the kernel resolves them beneath it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use axum::body::Bytes;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// An initrd above this boots nowhere: BIOS machines address 32 bits, GRUB gives up at half a GB.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Kept in memory for the next node; files in use beyond it are read again.
const KEPT_BYTES_MAX: u64 = 1 << 30;
/// Longest name.
const NAME_BYTES_MAX: usize = 255;

/// The files that were read, as long as they are what lies on disk.
#[derive(Debug, Default)]
pub(super) struct MenuFiles {
    kept: Mutex<HashMap<String, Kept>>,
}

#[derive(Clone, Debug)]
struct Kept {
    bytes: Bytes,
    modified: SystemTime,
}

impl MenuFiles {
    /// The file `name` beneath `directory`, and a tag of this version of it. Blocks while it reads; meanwhile others wait
    /// instead of reading too.
    pub(super) fn open(&self, directory: &Path, name: &str) -> io::Result<(Bytes, String)> {
        if !is_plain(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = open_beneath(directory, name)?;
        let about = file.metadata()?;
        let (len, modified) = (about.len(), about.modified()?);
        if !about.is_file() || len > FILE_BYTES_MAX {
            return Err(io::Error::other("it is no file that could be booted"));
        }
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let tag = format!("{:x}-{len:x}", since.as_nanos());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.get(name).filter(|kept| kept.bytes.len() as u64 == len && kept.modified == modified);
        if let Some(known) = known {
            return Ok((known.bytes.clone(), tag));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let bytes = Bytes::from(bytes);
        kept.remove(name);
        let held: u64 = kept.values().map(|kept| kept.bytes.len() as u64).sum();
        if held + len > KEPT_BYTES_MAX {
            kept.clear();
        }
        kept.insert(name.to_owned(), Kept { bytes: bytes.clone(), modified });
        Ok((bytes, tag))
    }
}

/// Letters, digits and `-_.+` in parts that do not begin with a dot, as the site's check lets through.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    name.len() <= NAME_BYTES_MAX
        && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain))
}

/// Links may lead elsewhere in the directory, and nowhere else.
fn open_beneath(directory: &Path, name: &str) -> io::Result<File> {
    let root = File::open(directory)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file: OwnedFd = openat2(&root, name, how)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_of_the_directory_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("files");
        std::fs::create_dir_all(root.join("debian")).unwrap();
        std::fs::write(folder.path().join("secret"), b"no").unwrap();
        std::fs::write(root.join("debian/linux"), b"kernel").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("debian/linux", root.join("inside")).unwrap();
        let files = MenuFiles::default();
        assert_eq!(files.open(&root, "debian/linux").unwrap().0, b"kernel"[..]);
        assert_eq!(files.open(&root, "inside").unwrap().0, b"kernel"[..]);
        for name in [
            "../secret",
            "out",
            "absolute",
            "/etc/hostname",
            "debian",
            "debian/../../secret",
            "",
            ".",
            "a//b",
            "a\0b",
        ] {
            assert!(files.open(&root, name).is_err(), "{name}");
        }
    }

    #[test]
    fn changed_file_is_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let files = MenuFiles::default();
        std::fs::write(folder.path().join("a"), b"one").unwrap();
        assert_eq!(files.open(folder.path(), "a").unwrap().0, b"one"[..]);
        std::fs::write(folder.path().join("a"), b"longer").unwrap();
        assert_eq!(files.open(folder.path(), "a").unwrap().0, b"longer"[..]);
    }
}
