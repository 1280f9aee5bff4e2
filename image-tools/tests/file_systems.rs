//! A tree with everything keeps everything on its way from one kind of file system to another, and rsync agrees.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Extras, assert_equal, has, is_root, look, make_tree, run, succeed};

/// XFS wants 300 MiB; the file has holes.
const DISK_BYTES: u64 = 400 << 20;

/// An empty file system in a file, mounted; goes with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(place: &Path, kind: &str) -> Self {
        let (disk, at) = (place.join(format!("{kind}.disk")), place.join(kind));
        std::fs::File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
        run(&format!("mkfs.{kind}"), &["-q".as_ref(), disk.as_os_str()]);
        std::fs::create_dir(&at).unwrap();
        run("mount", &["-o".as_ref(), "loop".as_ref(), disk.as_os_str(), at.as_os_str()]);
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// From a file system of the one kind to one of the other.
fn check(from: &str, to: &str) {
    if !is_root() || !has("rsync") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (Mounted::new(place.path(), from), Mounted::new(place.path(), to));
    let (source, out) = (from.0.join("tree"), to.0.join("tree"));
    let image = place.path().join("tree.esir");
    make_tree(&source, Extras::OnAnyFileSystem);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    succeed(&["capture", &text(&source), "-o", &text(&image), "--no-default-excludes", "--level", "1"]);
    succeed(&["extract", &text(&image), "-C", &text(&out)]);
    assert_equal(&look(&out), &look(&source));
    let (source, out) = (format!("{}/", text(&source)), format!("{}/", text(&out)));
    // Nanoseconds too, and not what XFS lists of ACLs a second time.
    let words = [
        "-nacHAXS",
        "--modify-window=-1",
        "--filter=-x trusted.SGI_ACL_*",
        "--numeric-ids",
        "--delete",
        "--itemize-changes",
        &source,
        &out,
    ];
    let said = run("rsync", &words.map(OsStr::new));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "");
}

#[test]
fn from_ext4_to_xfs() {
    check("ext4", "xfs");
}

#[test]
fn from_xfs_to_btrfs() {
    check("xfs", "btrfs");
}

#[test]
fn from_btrfs_to_ext4() {
    check("btrfs", "ext4");
}
