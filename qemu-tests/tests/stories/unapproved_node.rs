//! Approval is what stands between a machine's data and a deployment.

use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};

/// How long a node is watched while it waits: several long polls of its task.
const WATCHED: Duration = Duration::from_secs(60);

pub(crate) async fn tell() -> Result<()> {
    let (options, _image) = LabOptions::debian_12()?;
    let lab = Lab::start(options).await?;
    let node = lab.node("stranger").firmware(FirmwareKind::Bios).nic(Nic::E1000);
    let node = node.disk(Bus::Ahci, gib(4)).with_data("somebody's data").build()?;
    let before = node.disk(0)?.content_hash()?;

    node.power_on()?.reaches(Stage::Await).await?;
    tokio::time::sleep(WATCHED).await;

    let stage = node.view().await?.and_then(|view| view.stage);
    ensure!(stage == Some(Stage::Await), "an unapproved node is in {stage:?}");
    node.cut_power()?;
    ensure!(node.disk(0)?.content_hash()? == before, "the disk of an unapproved node changed");
    Ok(())
}
