//! The Debian image against GNU tar and rsync: what others see in it, and what comes out of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::LabOptions;

/// What `capture` leaves out of a root tree by default: contents that belong to a running system.
const LEFT_OUT: [&str; 4] = ["/dev/*", "/run/*", "/tmp/*", "/var/lib/apt/lists/*"];

pub(crate) async fn tell() -> Result<()> {
    let (options, image) = LabOptions::debian_12()?;
    let listed = output(Command::new("tar").args(["--zstd", "-tf"]).arg(&image.image))?;
    ensure!(listed.lines().count() > 10_000, "tar lists only {} entries", listed.lines().count());
    ensure!(listed.lines().any(|line| line.ends_with("etc/passwd")), "tar does not list etc/passwd");

    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    output(Command::new(&options.programs.image_tools).arg("extract").arg(&image.image).arg("-C").arg(&out))?;
    let differences = differences(&image.tree, &out)?;
    ensure!(differences.is_empty(), "the extracted tree differs from its source:\n{differences}");
    Ok(())
}

/// Names, contents, modes, owners, times, hard links, symlinks, devices, ACLs and xattrs, as rsync compares them.
fn differences(source: &Path, copy: &Path) -> Result<String> {
    let mut rsync = Command::new("rsync");
    rsync.args(["--dry-run", "--archive", "--checksum", "--hard-links", "--acls", "--xattrs", "--delete"]);
    rsync.arg("--itemize-changes").args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}")));
    output(rsync.arg(format!("{}/", source.display())).arg(format!("{}/", copy.display())))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {}", command.get_program().display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {errors}", command.get_program().display());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
