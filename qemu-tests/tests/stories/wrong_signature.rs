//! The site's keys are in the initrd: an image signed by another key is refused by the node itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use qemu_tests::image::{TestImage, capture, signing_key};
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};

pub(crate) async fn tell() -> Result<()> {
    let (mut options, image) = LabOptions::debian_12()?;
    let dir = tempfile::tempdir()?;
    options.server.leave_signatures_to_nodes = true;
    options.server.image = Some(forged(&options, &image, dir.path())?);
    let lab = Lab::start(options).await?;
    let node = lab.node("careful").firmware(FirmwareKind::Bios).nic(Nic::E1000);
    let node = node.disk(Bus::Ahci, gib(4)).with_data("somebody's data").build()?;
    let before = node.disk(0)?.content_hash()?;

    node.power_on()?.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    let failure = node.stops().await?;

    ensure!(failure.stage < Stage::Prepare, "it stopped only in {}: {failure}", failure.stage);
    ensure!(failure.message.contains("sign"), "the message does not speak of the signature: {failure}");
    node.cut_power()?;
    ensure!(node.disk(0)?.content_hash()? == before, "the disk changed although the image was refused");
    Ok(())
}

/// A small image that is right in everything but that a stranger's key signed it.
fn forged(options: &LabOptions, image: &TestImage, dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    for folder in ["etc", "boot", "usr/bin"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    for file in ["etc/os-release", "etc/passwd", "etc/fstab"] {
        fs::copy(image.tree.join(file), tree.join(file)).with_context(|| format!("copying {file}"))?;
    }
    let (strangers_key, _public) = signing_key(&options.programs, dir, "stranger")?;
    let forged = dir.join("forged.esir");
    capture(&options.programs, &tree, &forged, &strangers_key)?;
    Ok(forged)
}
