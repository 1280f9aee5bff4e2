//! Doubt about the disk stops a node: nothing is worse than the wrong disk.

use anyhow::{Result, ensure};
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};

pub(crate) async fn tell() -> Result<()> {
    let (options, _image) = LabOptions::debian_12()?;
    let lab = Lab::start(options).await?;
    let node = lab.node("two-disks").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    let node =
        node.disk(Bus::Ahci, gib(4)).disk(Bus::VirtioBlk, gib(4)).with_data("somebody's data").build()?;
    let before = [node.disk(0)?.content_hash()?, node.disk(1)?.content_hash()?];

    node.power_on()?.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    let failure = node.stops().await?;

    ensure!(failure.stage == Stage::Prepare, "it stopped in {}: {failure}", failure.stage);
    for disk in ["sda", "vda"] {
        ensure!(failure.message.contains(disk), "the message does not name {disk}: {failure}");
    }
    node.cut_power()?;
    let after = [node.disk(0)?.content_hash()?, node.disk(1)?.content_hash()?];
    ensure!(after == before, "a disk changed although the node stopped");
    Ok(())
}
