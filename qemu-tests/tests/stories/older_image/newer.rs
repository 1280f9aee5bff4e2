//! An image a little newer than another: as a security update and a few edits would leave the tree.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use qemu_tests::command::{output, run};
use qemu_tests::image::{TestImage, capture, read_manifest};
use qemu_tests::lab::InstalledSystem;
use qemu_tests::programs::Programs;

/// The large one; ssh and systemd run with it, and bytes behind its last section don't disturb them.
const LIBRARY: &str = "usr/lib/x86_64-linux-gnu/libcrypto.so.3";
/// Files that are others than before, at the same paths.
const CHANGED: [&str; 3] = [LIBRARY, "etc/issue", "usr/share/doc/bash/copyright"];
/// New ones.
const ADDED: [&str; 2] = ["usr/local/share/newer/one", "usr/local/share/newer/two"];
/// Gone.
const REMOVED: [&str; 2] = ["usr/share/common-licenses/GFDL-1.2", "usr/share/doc/grep"];
/// Elsewhere, with what they hold.
const MOVED: [(&str, &str); 2] = [
    ("usr/share/common-licenses/Artistic", "usr/local/share/newer/Artistic"),
    ("usr/share/doc/sed", "usr/local/share/newer/doc-of-sed"),
];
/// A second name of a file.
const LINKED: (&str, &str) = ("usr/bin/env", "usr/local/bin/env-too");
/// What changed files end with.
const CHANGE: &[u8] = b"newer\n";
/// Over the changed contents compressed in one stream.
const PERCENT_MAX: u64 = 110;

/// The newer image.
#[derive(Debug)]
pub(super) struct Newer {
    pub(super) image: PathBuf,
    /// What it was made from.
    pub(super) tree: PathBuf,
    /// Hex.
    pub(super) id: String,
    table_bytes: u64,
    /// Contents that the older one has nowhere, by `zstd -3`.
    changed_bytes: u64,
}

impl Newer {
    pub(super) fn make(programs: &Programs, older: &TestImage, dir: &Path) -> Result<Self> {
        let (tree, image) = (dir.join("tree"), dir.join("newer.esir"));
        run(Command::new("cp").arg("-aT").arg(&older.tree).arg(&tree))?;
        change(&tree).context("making the newer tree")?;
        capture(programs, &tree, &image, &older.secret_key)?;
        let manifest = read_manifest(&image)?;
        let (id, table_bytes) = (manifest.image_id.to_string(), manifest.toc.len);
        Ok(Self { changed_bytes: changed_bytes(&tree)?, image, tree, id, table_bytes })
    }

    /// The most that a node with the older image may fetch.
    pub(super) fn fetched_bytes_max(&self) -> u64 {
        self.table_bytes + self.changed_bytes * PERCENT_MAX / 100
    }
}

fn change(tree: &Path) -> Result<()> {
    let at = |path: &str| tree.join(path);
    for path in CHANGED {
        OpenOptions::new().append(true).open(at(path)).context(path)?.write_all(CHANGE)?;
    }
    fs::create_dir_all(at("usr/local/share/newer"))?;
    for path in ADDED {
        fs::write(at(path), path)?;
    }
    for (from, to) in MOVED {
        fs::rename(at(from), at(to)).context(from)?;
    }
    for path in REMOVED {
        let gone = at(path);
        let removed = if gone.is_dir() { fs::remove_dir_all(gone) } else { fs::remove_file(gone) };
        removed.context(path)?;
    }
    fs::hard_link(at(LINKED.0), at(LINKED.1)).context(LINKED.0)
}

fn changed_bytes(tree: &Path) -> Result<u64> {
    let mut compress = Command::new("bash");
    compress.args(["-c", "set -o pipefail; cd \"$0\"; cat -- \"$@\" | zstd -3 | wc -c"]);
    let counted = output(compress.arg(tree).args(CHANGED).args(ADDED))?;
    counted.trim().parse().with_context(|| format!("wc says {counted:?}"))
}

/// The system that runs has what is new.
pub(super) async fn is_what_runs(system: &mut InstalledSystem) -> Result<()> {
    for path in CHANGED {
        system.text_of(&format!("tail -c {} /{path} | grep -qx newer", CHANGE.len())).await?;
    }
    for path in ADDED.iter().chain(MOVED.iter().map(|(_, to)| to)) {
        system.text_of(&format!("test -e /{path}")).await?;
    }
    for path in REMOVED.iter().chain(MOVED.iter().map(|(from, _)| from)) {
        system.text_of(&format!("test ! -e /{path}")).await?;
    }
    system.text_of(&format!("test /{} -ef /{}", LINKED.0, LINKED.1)).await.map(drop)
}
