//! The same tree on two disks: one that was just written, one that was lived in.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use qemu_tests::command::{output, run};

/// So that two runs of the benchmark make the same file systems, but for times.
const UUID: &str = "6a5cb1f2-3c0e-4c57-9d2b-6f4f8f1c0e55";

/// ext4 file systems, each in a file with holes.
pub(super) struct Disks {
    pub(super) clean: PathBuf,
    pub(super) used: PathBuf,
}

impl Disks {
    pub(super) fn make(tree: &Path, work: &Path, gib: u64) -> Result<Self> {
        let disks = Self { clean: work.join("clean.raw"), used: work.join("used.raw") };
        eprintln!("making two disks of {gib} GiB from {}", tree.display());
        make_file_system(Some(tree), &disks.clean, gib)?;
        // Not a copy of the other: the kernel writes the tree here, as an installer would.
        make_file_system(None, &disks.used, gib)?;
        let mounted = Mounted::new(&disks.used, work.join("mounted"))?;
        let before = mounted.0.join("before");
        copy(tree, &before)?;
        let data = bytes_below(tree)?;
        write_noise(&mounted.0.join("noise"), data / 2)?;
        run(Command::new("sync").arg("-f").arg(&mounted.0))?;
        copy(tree, &mounted.0)?;
        run(Command::new("rm").arg("-rf").arg(before).arg(mounted.0.join("noise")))?;
        mounted.unmount()?;
        Ok(disks)
    }
}

fn make_file_system(tree: Option<&Path>, disk: &Path, gib: u64) -> Result<()> {
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-U", UUID, "-E"]).arg(format!("hash_seed={UUID}"));
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    run(command.arg(disk).arg(format!("{gib}G")))
}

fn copy(tree: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["-a", "-T"]).arg(tree).arg(to))
}

fn bytes_below(tree: &Path) -> Result<u64> {
    let text = output(Command::new("du").args(["-s", "-B1"]).arg(tree))?;
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).context("du says no number")
}

/// Bytes that no compressor shortens, the same each time.
fn write_noise(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let noise = io::Read::take(blake3::Hasher::new().finalize_xof(), bytes);
    io::copy(&mut io::BufReader::with_capacity(1 << 20, noise), &mut file).context("writing noise")?;
    Ok(file.flush()?)
}

/// A mounted disk; unmounted with the value, whatever happens.
struct Mounted(PathBuf);

impl Mounted {
    fn new(disk: &Path, at: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(disk).arg(&at))?;
        Ok(Self(at))
    }

    fn unmount(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.0))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-q").arg(&self.0).stderr(Stdio::null()).status();
    }
}
