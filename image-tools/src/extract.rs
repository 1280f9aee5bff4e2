//! An image -> a directory, by the same writer that nodes use; or a partition.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use image_apply::{Applier, remove_all, verify_tree};
use image_format::FrameIndex;
use rustix::fs::FlockOperation;

use crate::image_file::ImageFile;
use crate::partition;
use crate::pending::directory_of;
use crate::processors::on_all_processors;
use crate::progress;
use crate::text;

/// What to extract and where to.
#[derive(Debug, Args)]
pub(crate) struct ExtractArguments {
    /// The image.
    image: PathBuf,
    /// The directory to make; an empty one may be there.
    #[arg(short = 'C', long, value_name = "DIR", required_unless_present = "partition")]
    directory: Option<PathBuf>,
    /// Where to write an image of a partition to.
    #[arg(long, value_name = "DEVICE|FILE", conflicts_with = "directory")]
    partition: Option<PathBuf>,
    /// What is on that device, or in that file, may go.
    #[arg(long, requires = "partition")]
    overwrite: bool,
    /// A minisign public key that may have signed the image. May be repeated.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
    /// Do not read back what was written; it is then on the disk, but not known to be right.
    #[arg(long)]
    no_read_back: bool,
}

/// Writes the tree and reads it back.
pub(crate) fn run(arguments: &ExtractArguments) -> Result<()> {
    if let Some(target) = &arguments.partition {
        let image = ImageFile::open(&arguments.image, &arguments.trust)?;
        return partition::restore(&image, target, arguments.overwrite);
    }
    ensure!(rustix::process::geteuid().is_root(), "extract sets owners and makes devices: run it as root");
    let image = ImageFile::open(&arguments.image, &arguments.trust)?;
    let target = arguments.directory.as_deref().context("name a directory")?;
    let place = Place::prepare(target)?;
    let result = write_tree(&image, place.directory(), !arguments.no_read_back);
    match result {
        Ok(()) => place.keep(target)?,
        Err(error) => {
            place.discard();
            return Err(error);
        }
    }
    let bytes = image
        .manifest
        .as_ref()
        .map_or_else(String::new, |m| format!(" with {}", text::bytes(m.content_bytes)));
    let proved = if arguments.no_read_back { "not read back" } else { "read back and equal" };
    println!("{}: {} entries{bytes}, {proved}", target.display(), image.toc.entries().len());
    Ok(())
}

/// Where the tree is made: beside its name until it is complete, unless the name is a mount point.
enum Place {
    /// Held locked, so that another run knows that somebody still works there.
    Beside {
        path: PathBuf,
        _lock: File,
    },
    MountPoint(PathBuf),
}

impl Place {
    fn prepare(target: &Path) -> Result<Self> {
        let shown = target.display();
        let parent = directory_of(target);
        match std::fs::read_dir(target) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("opening {shown}")),
            Ok(mut entries) => {
                let is_lost_and_found = |name: &std::ffi::OsStr| name.as_bytes() == b"lost+found";
                let foreign =
                    entries.any(|entry| !entry.is_ok_and(|entry| is_lost_and_found(&entry.file_name())));
                ensure!(!foreign, "{shown} is not empty; name a directory that is not there");
                let device =
                    |path: &Path| std::fs::metadata(path).map(|it| std::os::unix::fs::MetadataExt::dev(&it));
                if device(target)? != device(&parent)? {
                    return Ok(Self::MountPoint(target.to_owned()));
                }
            }
        }
        let name = target.file_name().with_context(|| format!("{shown} is no name for a new directory"))?;
        let name = name.to_string_lossy();
        remove_leftovers(&parent, &name);
        let path = parent.join(format!(".{name}.{}.tmp", std::process::id()));
        let creating = || format!("creating {}", path.display());
        std::fs::create_dir(&path).with_context(creating)?;
        let lock = File::open(&path).with_context(creating)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(std::io::Error::from)
            .with_context(creating)?;
        Ok(Self::Beside { path, _lock: lock })
    }

    fn directory(&self) -> &Path {
        match self {
            Self::Beside { path, .. } | Self::MountPoint(path) => path,
        }
    }

    fn keep(self, target: &Path) -> Result<()> {
        match self {
            Self::Beside { path, .. } => {
                std::fs::rename(&path, target).with_context(|| format!("naming {}", target.display()))
            }
            Self::MountPoint(_) => Ok(()),
        }
    }

    /// Nothing half written stays, except in a file system that was mounted for it.
    fn discard(self) {
        if let Self::Beside { path, .. } = self
            && let Err(error) = remove_tree(&path)
        {
            eprintln!("image-tools: removing the incomplete {}: {error}", path.display());
        }
    }
}

/// Removes what earlier extracts to the same name left that were killed: nobody holds their lock.
fn remove_leftovers(parent: &Path, name: &str) {
    let is_ours = |found: &str| {
        let number = found.strip_prefix(&format!(".{name}.")).and_then(|rest| rest.strip_suffix(".tmp"));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if !is_ours(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        let Ok(directory) = image_apply::open_root(&path) else { continue };
        if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let shown = path.display();
        match remove_tree(&path) {
            Ok(()) => eprintln!("image-tools: removed {shown}, which an extract that was killed has left"),
            Err(error) => {
                eprintln!("image-tools: removing {shown}, which an extract that was killed has left: {error}")
            }
        }
    }
}

/// Removes a tree, with files in it that are marked immutable or append-only.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    let parent = image_apply::open_root(&directory_of(path))?;
    remove_all(parent.as_fd(), path.file_name().unwrap_or_default().as_bytes())
}

/// Writes these frames with all processors.
pub(crate) fn write_frames(applier: &Applier, image: &ImageFile, frames: &[FrameIndex]) -> Result<()> {
    let bytes = |index: &FrameIndex| image.toc.frame(*index).map_or(0, |frame| u64::from(frame.len));
    let bar = progress::bytes("extracting", frames.iter().map(bytes).sum());
    on_all_processors(frames, |&index| {
        let Some(frame) = image.toc.frame(index) else { bail!("frame {} is not there", index.get()) };
        applier.write_frame(index, &image.read_frame(frame)?)?;
        bar.inc(u64::from(frame.len));
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// Writes the whole tree, with all processors.
pub(crate) fn write_tree(image: &ImageFile, directory: &Path, read_back: bool) -> Result<()> {
    let applier = Applier::begin(directory, Arc::clone(&image.toc))?;
    write_frames(&applier, image, &applier.unwritten())?;
    let tree = applier.finish()?;
    if read_back {
        let bar = progress::bytes("reading back", tree.bytes);
        verify_tree(directory, &image.toc, &|bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
    }
    Ok(())
}
