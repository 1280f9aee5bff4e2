//! The server's one directory: who holds it, and files in it that are whole or absent.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The state directory, held against a second server for as long as this lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    _held: File,
}

impl StateDir {
    /// Makes the directory if it is absent, readable by its owner only, and takes hold of it.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let opening = || format!("opening the state directory {}", root.display());
        DirBuilder::new().recursive(true).mode(0o700).create(root).with_context(opening)?;
        let lock = root.join("lock");
        let held =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock).with_context(opening)?;
        match held.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _held: held }),
            Err(TryLockError::WouldBlock) => bail!(
                "another pxe-server uses {}; stop it or give this one another --state directory",
                root.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(opening),
        }
    }

    /// Path of something in the directory.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The file's text; `None` if there is no such file.
    pub(crate) fn read(&self, relative: &str) -> Result<Option<String>> {
        let path = self.path(relative);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Writes a file that only its owner can read; after a power cut it is whole or absent.
    pub(crate) fn write_secret(&self, relative: &str, text: &str) -> Result<()> {
        let path = self.path(relative);
        write_whole(&path, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn second_server_on_one_directory_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path()).unwrap();
        let message = StateDir::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("another pxe-server uses"), "{message}");
        drop(first);
        StateDir::open(folder.path()).unwrap();
    }

    #[test]
    fn secret_is_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.write_secret("tls/key.pem", "secret").unwrap();
        let mode = fs::metadata(state.path("tls/key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(state.read("tls/key.pem").unwrap().as_deref(), Some("secret"));
        assert_eq!(state.read("absent").unwrap(), None);
    }
}
