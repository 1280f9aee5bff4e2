//! Files that appear under their name only when they are complete.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// A file without a name. Dropped, or with its process killed, it never was.
#[derive(Debug)]
pub(crate) struct Pending {
    file: File,
    directory: PathBuf,
    /// The name to remove again: of [`Self::named`], or where files without one do not exist (some network file systems).
    named: Option<PathBuf>,
}

impl Pending {
    /// Opens one in the directory where `output` will be.
    pub(crate) fn beside(output: &Path) -> Result<Self> {
        let directory = directory_of(output);
        Self::open(&directory, output)
            .with_context(|| format!("creating a file in {}", directory.display()))
            .map(|(file, named)| Self { file, directory, named })
    }

    fn open(directory: &Path, output: &Path) -> io::Result<(File, Option<PathBuf>)> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o644)) {
            Ok(fd) => Ok((File::from(fd), None)),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let name = temporary_name(output);
                let file = File::options().read(true).write(true).create_new(true).open(&name)?;
                Ok((file, Some(name)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The file, to write and read.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Hands the data to the disk and gives the file its name, over an older file of that name if there is one.
    pub(crate) fn appear_as(mut self, output: &Path) -> Result<()> {
        let doing = || format!("writing {}", output.display());
        self.file.sync_all().with_context(doing)?;
        let temporary = match self.named.take() {
            Some(name) => name,
            None => self.give_temporary_name(output).with_context(doing)?,
        };
        std::fs::rename(&temporary, output).with_context(doing)?;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).with_context(doing)
    }

    /// Gives the file a name for as long as `work` runs: for other programs that take names only. Once: a file that lost
    /// its last name never gets another.
    pub(crate) fn with_name<T>(&self, output: &Path, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let name = self.name(output)?;
        let result = work(&name);
        if self.named.is_none() {
            std::fs::remove_file(&name).with_context(|| format!("removing {}", name.display()))?;
        }
        result
    }

    /// Gives the file a name until it is complete or dropped, for other programs that take names only. Who kills this
    /// process leaves it there.
    pub(crate) fn named(&mut self, output: &Path) -> Result<PathBuf> {
        let name = self.name(output)?;
        self.named = Some(name.clone());
        Ok(name)
    }

    /// The name that it has, or a new one.
    fn name(&self, output: &Path) -> Result<PathBuf> {
        match &self.named {
            Some(name) => Ok(name.clone()),
            None => self
                .give_temporary_name(output)
                .with_context(|| format!("creating a file in {}", self.directory.display())),
        }
    }

    /// linkat(2) cannot replace a file, rename(2) can: so first a name that nobody has.
    fn give_temporary_name(&self, output: &Path) -> io::Result<PathBuf> {
        let name = temporary_name(output);
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match rustix::fs::linkat(CWD, path.as_str(), CWD, &name, AtFlags::SYMLINK_FOLLOW) {
            Err(rustix::io::Errno::EXIST) => {
                // Left by a process of our number that was killed between link and rename.
                std::fs::remove_file(&name)?;
                rustix::fs::linkat(CWD, path.as_str(), CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
            }
            result => result?,
        }
        Ok(name)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(name) = &self.named {
            // The error that brought us here is the one to tell.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// A small output in one go.
pub(crate) fn write_whole(output: &Path, bytes: &[u8]) -> Result<()> {
    let pending = Pending::beside(output)?;
    io::Write::write_all(&mut pending.file(), bytes)
        .with_context(|| format!("writing {}", output.display()))?;
    pending.appear_as(output)
}

/// `X.esir` and `manifest` -> `X.esir.manifest`.
pub(crate) fn companion(image: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(image);
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Where a file of that name lies.
pub(crate) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn temporary_name(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    directory_of(output).join(format!(".{name}.{}.tmp", std::process::id()))
}
