//! File systems in files, mounted where nobody else sees them.
//!
//! A mount has no place in any directory: it is a descriptor, and ends with it. Never writes to a file that it was not
//! told to: loop device and mount are read-only, and journals are not replayed, but for [`LoopDevice::of_disk`].

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Messages of the kernel about one mount that are read.
const MESSAGES_MAX: usize = 16;

/// Whether a journal may be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Journal {
    /// No: the file is somebody's.
    Leave,
    /// Yes: the file is a copy of ours.
    Replay,
}

/// A part of a file as a block device.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: String,
    journal: Journal,
}

impl LoopDevice {
    /// Makes one of these bytes of `file`.
    pub(crate) fn attach(file: &Path, range: &Range<u64>, journal: Journal) -> Result<Self> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--offset", &range.start.to_string()]);
        losetup.args(["--sizelimit", &(range.end - range.start).to_string()]);
        if journal == Journal::Leave {
            losetup.arg("--read-only");
        }
        Self::made_by(losetup, file, journal)
    }

    /// Makes one of a whole disk of ours, to write: the kernel shows its partitions.
    pub(crate) fn of_disk(file: &Path) -> Result<Self> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--partscan"]);
        Self::made_by(losetup, file, Journal::Replay)
    }

    fn made_by(mut losetup: Command, file: &Path, journal: Journal) -> Result<Self> {
        let output = losetup
            .arg(file)
            .output()
            .context("running losetup, which file systems in a file need (package util-linux)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "making a loop device of {}: {} (this needs root)",
            file.display(),
            said.trim()
        );
        Ok(Self { path: String::from_utf8_lossy(&output.stdout).trim().to_owned(), journal })
    }

    /// Its name, `/dev/loop7`.
    pub(crate) fn path(&self) -> &Path {
        Path::new(&self.path)
    }

    /// Mounts the file system of `kind` in it, read-only; `subvolume` of btrfs.
    pub(crate) fn mount(&self, kind: &str, subvolume: Option<&str>) -> Result<OwnedFd> {
        // One driver for all three; it needs no journal.
        let driver = if kind.starts_with("ext") { "ext4" } else { kind };
        let context = rustix::mount::fsopen(driver, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(io::Error::from)
            .with_context(|| format!("this machine's kernel cannot mount {driver}"))?;
        self.configure(&context, driver, subvolume)
            .map_err(|error| anyhow::Error::new(io::Error::from(error)))
            .with_context(|| format!("mounting the {kind} in it{}", messages(&context)))
    }

    fn configure(
        &self,
        context: &OwnedFd,
        driver: &str,
        subvolume: Option<&str>,
    ) -> rustix::io::Result<OwnedFd> {
        use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount};
        fsconfig_set_string(context, "source", self.path.as_str())?;
        fsconfig_set_flag(context, "ro")?;
        match (driver, self.journal) {
            ("ext4", Journal::Leave) => fsconfig_set_flag(context, "noload")?,
            ("xfs", Journal::Leave) => fsconfig_set_flag(context, "norecovery")?,
            _ => {}
        }
        if driver == "xfs" {
            // The same image may be mounted twice, or be of this very machine.
            fsconfig_set_flag(context, "nouuid")?;
        }
        if let Some(subvolume) = subvolume {
            fsconfig_set_string(context, "subvol", subvolume)?;
        }
        fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }
}

impl Drop for LoopDevice {
    /// While something of it is mounted, the kernel keeps it; afterwards it goes by itself.
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

/// What the kernel says about a mount that failed.
fn messages(context: &OwnedFd) -> String {
    let mut text = String::new();
    for _ in 0..MESSAGES_MAX {
        let mut line = [0; 1024];
        let Ok(len) = rustix::io::read(context, &mut line) else { break };
        let line = String::from_utf8_lossy(line.get(..len).unwrap_or_default()).trim().to_owned();
        // Writing to a string cannot fail.
        let _ = write!(text, "; {}", line.trim_start_matches(['e', 'w', 'i', ' ']));
    }
    if text.is_empty() {
        // Older drivers write there only.
        text.push_str("; the kernel's log (dmesg) has the reason");
    }
    text
}
