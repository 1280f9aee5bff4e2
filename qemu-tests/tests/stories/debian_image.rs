//! The Debian image against GNU tar and rsync: what others see in it, and what comes out of it.

use std::process::Command;

use anyhow::{Result, ensure};
use qemu_tests::LabOptions;
use qemu_tests::command::{output, run};

use super::compare::differences;

pub(crate) async fn tell() -> Result<()> {
    let (options, image) = LabOptions::debian_12()?;
    let listed = output(Command::new("tar").args(["--zstd", "-tf"]).arg(&image.image))?;
    ensure!(listed.lines().count() > 10_000, "tar lists only {} entries", listed.lines().count());
    ensure!(listed.lines().any(|line| line.ends_with("etc/passwd")), "tar does not list etc/passwd");

    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    run(Command::new(&options.programs.image_tools).arg("extract").arg(&image.image).arg("-C").arg(&out))?;
    let differences = differences(&image.tree, &out)?;
    ensure!(
        differences.is_empty(),
        "the extracted tree differs from its source:\n{}",
        differences.join("\n")
    );
    Ok(())
}
