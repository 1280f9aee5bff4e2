//! Ours and the others: what each fetches, and how it makes the newer tree.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::command;
use qemu_tests::programs::Programs;

use super::super::device::{LoopDevice, MountedDevice, sync};
use super::{LEVEL, Older};

/// What a node fetches of an image; the signed manifest leads to the rest.
const FETCHED: [&str; 2] = ["manifest", "pieces"];
/// Stands for ssh: leaves out the host and runs the rest here.
const NO_SSH: &str = "#!/bin/sh\nshift\nexec \"$@\"\n";

/// A way from an older tree to a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Delta,
    Full,
    Casync,
    Rsync,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::Delta, Self::Full, Self::Casync, Self::Rsync];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Delta => "delta image",
            Self::Full => "image in full",
            Self::Casync => "casync",
            Self::Rsync => "rsync -z",
        }
    }
}

/// What the newer tree is made from.
pub(super) struct Sources {
    dir: PathBuf,
    older_image: PathBuf,
    image: PathBuf,
    tree: PathBuf,
    delta: PathBuf,
    store: PathBuf,
    index: PathBuf,
    /// Chunks that the older tree has not, and the index.
    casync_bytes: u64,
    no_ssh: PathBuf,
}

impl Sources {
    pub(super) fn make(
        programs: &Programs,
        older: &Older,
        image: PathBuf,
        tree: PathBuf,
        dir: &Path,
    ) -> Result<Self> {
        let at = |name: &str| dir.join(name);
        let (delta, store, index, no_ssh) = (at("delta.esir"), at("store"), at("newer.caidx"), at("no-ssh"));
        let mut make = Command::new(&programs.image_tools);
        command::run(
            make.arg("delta").arg(&older.image).arg(&image).args(["--level", LEVEL, "-o"]).arg(&delta),
        )?;
        casync_make(&store, &at("older.caidx"), &older.tree)?;
        let before = bytes_below(&store)?;
        casync_make(&store, &index, &tree)?;
        let casync_bytes = bytes_below(&store)? - before + bytes_of(&index)?;
        fs::write(&no_ssh, NO_SSH)?;
        fs::set_permissions(&no_ssh, fs::Permissions::from_mode(0o755))?;
        let (dir, older_image) = (dir.to_owned(), older.image.clone());
        Ok(Self { dir, older_image, image, tree, delta, store, index, casync_bytes, no_ssh })
    }

    /// Where all of it is, but for images of the cache.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A file system with what this way begins with, none of it in memory.
pub(super) fn prepare(
    way: Way,
    programs: &Programs,
    older: &Older,
    device: &LoopDevice,
) -> Result<MountedDevice> {
    let made = device.make_file_system()?;
    if way == Way::Full {
        return Ok(made);
    }
    extract(programs, &older.image, &made.path().join("tree"))?;
    sync(made.path())?;
    drop(made);
    device.mount()
}

/// What was fetched, in bytes, and the seconds until the newer tree was on the disk.
pub(super) fn run(
    way: Way,
    programs: &Programs,
    sources: &Sources,
    mounted: &MountedDevice,
) -> Result<(u64, f64)> {
    let place = mounted.path();
    let tree = place.join(if way == Way::Casync { "newer" } else { "tree" });
    let begun = Instant::now();
    let bytes = match way {
        Way::Delta => {
            let mut update = Command::new(&programs.image_tools);
            update.arg("update").arg(&tree).arg("--delta").arg(&sources.delta);
            command::run(update.arg("--base").arg(&sources.older_image).arg("--no-read-back"))?;
            fetched_bytes(&sources.delta)?
        }
        Way::Full => {
            extract(programs, &sources.image, &tree)?;
            fetched_bytes(&sources.image)?
        }
        Way::Casync => {
            fs::create_dir(&tree)?;
            let mut extract = Command::new("casync");
            extract.arg("extract").arg(option("--store", &sources.store));
            extract.arg(option("--seed", &place.join("tree")));
            command::run(extract.arg(&sources.index).arg(&tree))?;
            sources.casync_bytes
        }
        Way::Rsync => {
            let mut rsync = Command::new("rsync");
            rsync.args(["-aHAX", "--delete", "--numeric-ids", "--compress", "--stats"]);
            rsync.arg(option("--rsh", &sources.no_ssh));
            rsync.arg(format!("here:{}/", sources.tree.display())).arg(format!("{}/", tree.display()));
            received_bytes(&command::output(&mut rsync)?)?
        }
    };
    sync(place)?;
    let seconds = begun.elapsed().as_secs_f64();
    let name = tree.join("etc/os-release");
    ensure!(fs::symlink_metadata(&name).is_ok(), "it made no {}", name.display());
    Ok((bytes, seconds))
}

/// A whole image into a directory.
pub(super) fn extract(programs: &Programs, image: &Path, tree: &Path) -> Result<()> {
    let mut extract = Command::new(&programs.image_tools);
    command::run(extract.args(["extract", "--no-read-back"]).arg(image).arg("-C").arg(tree))
}

/// What lies beside an image under this ending.
fn companion(image: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}.{ending}", image.display()))
}

fn casync_make(store: &Path, index: &Path, tree: &Path) -> Result<()> {
    let mut make = Command::new("casync");
    command::run(make.arg("make").arg(option("--store", store)).arg(index).arg(tree))
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn fetched_bytes(image: &Path) -> Result<u64> {
    FETCHED.iter().try_fold(bytes_of(image)?, |sum, ending| Ok(sum + bytes_of(&companion(image, ending))?))
}

fn bytes_of(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.len())
}

/// Sizes of all files, as they would be sent.
fn bytes_below(folder: &Path) -> Result<u64> {
    let files = super::contents::files_below(folder)?;
    files.iter().try_fold(0, |sum, file| Ok(sum + bytes_of(&folder.join(file))?))
}

/// `Total bytes received: 1,234,567`
fn received_bytes(stats: &str) -> Result<u64> {
    let line = stats.lines().find_map(|line| line.strip_prefix("Total bytes received: "));
    let digits = line.context("rsync says not what it received")?.replace(',', "");
    digits.trim().parse().with_context(|| format!("rsync received {digits:?}"))
}

#[cfg(test)]
mod tests {
    use super::received_bytes;

    #[test]
    fn rsync_says_what_it_received() {
        let stats =
            "Literal data: 241 bytes\nTotal bytes sent: 147\nTotal bytes received: 1,005,726\n\nsent 147";
        assert_eq!(received_bytes(stats).unwrap(), 1_005_726);
        assert!(received_bytes("Total bytes sent: 147\n").is_err());
    }
}
