//! A snapshot of a root, where its file system or the volume beneath it has that: of btrfs and of LVM, thin or not.
//!
//! The kernel freezes a file system for the moment in which LVM takes one, so what is read is what a power cut at that
//! moment would leave, with the journal played back.

use std::fmt::{self, Display};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// linux/magic.h
const BTRFS_SUPER_MAGIC: i64 = 0x9123_683E;
const XFS_SUPER_MAGIC: i64 = 0x5846_5342;
/// Inode number of a subvolume's root.
const SUBVOLUME_INODE: u64 = 256;
/// What changes while the node is read has to fit into a snapshot of LVM: so much must be free in the group.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// Where a snapshot of LVM is mounted.
const MOUNTED_BELOW: &str = "/run";

/// A snapshot that is only read; dropped, it is removed.
#[derive(Debug)]
pub(super) struct Snapshot {
    path: PathBuf,
    undo: Vec<Undo>,
}

/// A command that takes something back.
#[derive(Debug)]
struct Undo(Vec<String>);

/// What LVM says of a volume.
#[derive(Debug, PartialEq, Eq)]
struct Volume {
    group: String,
    name: String,
    is_thin: bool,
    free_bytes: u64,
}

impl Snapshot {
    /// `None` where there is none to be had. If one that should be there cannot be taken, that is said too.
    pub(super) fn take(root: &Path) -> Option<Self> {
        let taken = match logical_volume(root) {
            Some(device) => Self::of_volume(root, &device),
            None if is_subvolume(root) => Self::of_subvolume(root),
            None => return None,
        };
        taken.map_err(|error| eprintln!("no snapshot: {error:#}")).ok()
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn of_subvolume(root: &Path) -> Result<Self> {
        let path = root.join(format!(".esir-capture.{}", std::process::id()));
        run(&command("btrfs -q subvolume snapshot -r", &[root, &path]))?;
        let undo = vec![Undo(command("btrfs -q subvolume delete", &[&path]))];
        Ok(Self { path, undo })
    }

    fn of_volume(root: &Path, device: &Path) -> Result<Self> {
        let volume = Volume::ask(device)?;
        ensure!(
            volume.is_thin || volume.free_bytes >= FREE_BYTES_MIN,
            "LVM group {} has {} MiB free, and {} MiB are needed for what changes meanwhile",
            volume.group,
            volume.free_bytes >> 20,
            FREE_BYTES_MIN >> 20
        );
        let name = format!("esir-capture-{}", std::process::id());
        let path = Path::new(MOUNTED_BELOW).join(&name);
        let mut snapshot = Self { path, undo: Vec::new() };
        let device = Path::new("/dev").join(&volume.group).join(&name);
        run(&command(&volume.create(&name), &[]))?;
        snapshot.undo.push(Undo(command("lvremove --quiet --yes", &[&device])));
        let made = fs::DirBuilder::new().mode(0o700).create(&snapshot.path);
        made.with_context(|| format!("making {}", snapshot.path.display()))?;
        snapshot.undo.push(Undo(command("rmdir", &[&snapshot.path])));
        // XFS refuses a second file system with the same UUID.
        let mount = if is_of_kind(root, XFS_SUPER_MAGIC) { "mount -o ro,nouuid" } else { "mount -o ro" };
        run(&command(mount, &[&device, &snapshot.path]))?;
        snapshot.undo.push(Undo(command("umount", &[&snapshot.path])));
        Ok(snapshot)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        for undo in self.undo.iter().rev() {
            if let Err(error) = run(&undo.0) {
                eprintln!("something is left on the node; run `{undo}`: {error:#}");
            }
        }
    }
}

impl Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl Volume {
    fn ask(device: &Path) -> Result<Self> {
        let asked = "lvs --noheadings --nosuffix --units b --separator : -o vg_name,lv_name,segtype,vg_free";
        let said = run(&command(asked, &[device]))?;
        Self::parse(&said).with_context(|| format!("lvs says of {}: {said:?}", device.display()))
    }

    /// One line of lvs(8) for each segment; the first is enough.
    fn parse(said: &str) -> Option<Self> {
        let mut fields = said.lines().next()?.trim().split(':');
        let mut next = || fields.next().map(str::to_owned);
        let (group, name, kind, free) = (next()?, next()?, next()?, next()?);
        Some(Self { group, name, is_thin: kind == "thin", free_bytes: free.parse().ok()? })
    }

    /// The command that takes a snapshot. LVM takes no more of the free space than the origin could ever fill.
    fn create(&self, snapshot: &str) -> String {
        let kind = if self.is_thin {
            // Snapshots of thin volumes stay inactive unless the flag that says so is ignored.
            "--setactivationskip n --activate y"
        } else {
            "--extents 100%FREE"
        };
        format!("lvcreate --quiet --yes --snapshot {kind} --name {snapshot} {}/{}", self.group, self.name)
    }
}

/// Whether a root is that of a subvolume of btrfs.
fn is_subvolume(root: &Path) -> bool {
    is_of_kind(root, BTRFS_SUPER_MAGIC)
        && rustix::fs::stat(root).is_ok_and(|about| about.st_ino == SUBVOLUME_INODE)
}

fn is_of_kind(root: &Path, magic: i64) -> bool {
    rustix::fs::statfs(root).is_ok_and(|file_system| file_system.f_type == magic)
}

/// The volume that a file system lies on, if it lies directly on one.
fn logical_volume(root: &Path) -> Option<PathBuf> {
    let device = rustix::fs::stat(root).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let of_mapper = |what: &str| fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/dm/{what}")).ok();
    of_mapper("uuid")?.starts_with("LVM-").then_some(())?;
    Some(Path::new("/dev/mapper").join(of_mapper("name")?.trim()))
}

/// The words of `line`, then paths.
fn command(line: &str, paths: &[&Path]) -> Vec<String> {
    let paths = paths.iter().map(|path| path.display().to_string());
    line.split(' ').map(str::to_owned).chain(paths).collect()
}

/// Standard output of a command that must succeed.
fn run(command: &[String]) -> Result<String> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    let output = output.with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lvs_tells_group_name_kind_and_free_bytes() {
        let volume =
            Volume::parse("  system:root:linear:788529152\n  system:root:linear:788529152\n").unwrap();
        let found = (volume.group.as_str(), volume.name.as_str(), volume.is_thin, volume.free_bytes);
        assert_eq!(found, ("system", "root", false, 788_529_152));
        assert!(Volume::parse("  vg:data:thin:0\n").unwrap().is_thin);
        assert_eq!(Volume::parse("  WARNING: something\n"), None);
        assert_eq!(Volume::parse(""), None);
    }

    #[test]
    fn thin_volumes_need_no_space_of_their_group() {
        let volume = |is_thin| Volume { group: "g".into(), name: "r".into(), is_thin, free_bytes: 0 };
        assert!(volume(false).create("s").ends_with("--snapshot --extents 100%FREE --name s g/r"));
        assert!(volume(true).create("s").ends_with("--setactivationskip n --activate y --name s g/r"));
    }

    #[test]
    fn what_was_made_is_taken_back_in_reverse() {
        let dir = tempfile::tempdir().unwrap();
        let outer = dir.path().join("outer");
        let inner = outer.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        let remove = |path: &Path| Undo(command("rmdir", &[path]));
        drop(Snapshot { path: inner.clone(), undo: vec![remove(&outer), remove(&inner)] });
        assert!(!outer.exists());
    }
}
