//! One image's system becomes another's by a delta image: the older system is put aside, the delta image is written
//! beside it, and both are the sources of the new tree.
//!
//! ```text
//! Redeployment::begin --> files of the delta image written to delta_directory --> assemble --> Applier
//!                                                                                   \-> remove --> Applier::finish
//! ```
//! Never leaves a root that could be taken for a system in the middle: a record that says what the root holds is put
//! aside with everything else, and the directory in which things are made stays until the end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_format::{DELTA_FILES, DELTA_TABLE, MANIFEST_BYTES_MAX, Manifest, Toc, TocError, parse_manifest};
use rustix::fs::Mode;

use crate::applier::{Applier, ApplyError};
use crate::beneath;
use crate::reuse::{self, Reused, Source, WORK_DIRECTORY};

/// Where an installed system keeps the manifest of its image, beneath its root.
pub const RECORD_MANIFEST: &str = "var/lib/esir/manifest";
/// Where an installed system keeps the compressed table of contents of its image, beneath its root.
pub const RECORD_TABLE: &str = "var/lib/esir/toc";
/// Below the directory in which things are made: the delta image's tree.
const DELTA: &str = "delta";

/// An older system that was put aside.
#[derive(Debug)]
pub struct Redeployment {
    path: PathBuf,
    root: OwnedFd,
    old: OwnedFd,
}

/// Why nothing came of it. The root holds no system then.
#[derive(Debug, thiserror::Error)]
pub enum RedeployError {
    /// The older system cannot be put aside.
    #[error("putting the older system aside")]
    Aside(#[source] io::Error),
    /// The delta image's files.
    #[error("reading what the delta image brought")]
    Read(#[source] io::Error),
    /// The table of contents in it.
    #[error("the table of contents in the delta image")]
    Table(#[from] TocError),
    /// The new tree.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// What the system beneath `root` says it was made from; nothing of it is more than a hint.
///
/// # Errors
/// It says nothing, or what cannot be read.
pub fn read_record(root: BorrowedFd<'_>) -> io::Result<Toc> {
    let manifest = read_small(root, RECORD_MANIFEST, MANIFEST_BYTES_MAX as u64)?;
    let manifest = parse_manifest(&manifest).map_err(io::Error::other)?;
    let table = read_small(root, RECORD_TABLE, manifest.toc.len)?;
    Toc::from_compressed(&table, &manifest).map_err(io::Error::other)
}

impl Redeployment {
    /// Puts the system in `root` aside and makes room for a delta image's files.
    ///
    /// # Errors
    /// [`RedeployError::Aside`].
    pub fn begin(root: &Path) -> Result<Self, RedeployError> {
        let aside = || {
            let fd = beneath::open_root(root)?;
            let old = reuse::set_aside(fd.as_fd())?;
            let work = beneath::open_directory(fd.as_fd(), WORK_DIRECTORY.as_bytes())?;
            rustix::fs::mkdirat(work, DELTA, Mode::RWXU)?;
            Ok(Self { path: root.to_owned(), root: fd, old })
        };
        aside().map_err(RedeployError::Aside)
    }

    /// Where the delta image has to be written to, as any image is.
    #[must_use]
    pub fn delta_directory(&self) -> PathBuf {
        self.path.join(WORK_DIRECTORY).join(DELTA)
    }

    /// Takes files from both sources into the new tree, that of `manifest`. `delta` is the delta image's own table,
    /// `old` that of the older system, if it is known.
    ///
    /// # Errors
    /// See [`RedeployError`].
    pub fn assemble(
        &self,
        manifest: &Manifest,
        delta: &Toc,
        old: Option<&Toc>,
    ) -> Result<(Applier, Arc<Toc>, Reused), RedeployError> {
        let read = || {
            let staged =
                beneath::open_directory(self.root.as_fd(), format!("{WORK_DIRECTORY}/{DELTA}").as_bytes())?;
            let table = read_small(staged.as_fd(), DELTA_TABLE, manifest.toc.len)?;
            let files = beneath::open_directory(staged.as_fd(), DELTA_FILES.as_bytes())?;
            Ok((table, files))
        };
        let (table, files) = read().map_err(RedeployError::Read)?;
        let toc = Arc::new(Toc::from_compressed(&table, manifest)?);
        let sources = [Source::staged(files.as_fd(), delta), Source::installed(self.old.as_fd(), old)];
        let root = self.root.try_clone().map_err(RedeployError::Read)?;
        let (applier, reused) = Applier::begin_reusing(root, Arc::clone(&toc), &sources)?;
        Ok((applier, toc, reused))
    }

    /// Removes all that nobody took. Before [`Applier::finish`], which gives the root directory its time.
    ///
    /// # Errors
    /// [`RedeployError::Aside`].
    pub fn remove(self) -> Result<(), RedeployError> {
        reuse::remove_aside(self.root.as_fd()).map_err(RedeployError::Aside)
    }
}

/// A whole file of at most `limit` bytes.
fn read_small(root: BorrowedFd<'_>, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::from(beneath::open_file(root, path.as_bytes())?);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}
