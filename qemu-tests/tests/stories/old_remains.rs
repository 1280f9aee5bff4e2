//! What a disk holds of an earlier life, an array's half with volumes in it, is gone after a deployment in another
//! shape: nothing finds it again, now or at the next start.

use anyhow::{Result, ensure};
use qemu_tests::image::debian_12_storage;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, Stage, gib};

use crate::mirrored;

/// The default: one disk, and a root on its last partition.
const PLAIN: &str = "";
/// What there is of arrays and volumes, by the programs that look for them.
const SEARCH: &str = "findmnt -no SOURCE /; ls -d /sys/block/md* /sys/block/dm-* 2>/dev/null; \
                      pvs --noheadings 2>&1; mdadm --examine --scan 2>&1; lsblk -nro TYPE /dev/vda | sort -u";

pub(crate) async fn tell() -> Result<()> {
    let (mut options, _) = LabOptions::of(debian_12_storage)?;
    let dir = tempfile::tempdir()?;
    let site = options.write_site(dir.path(), mirrored::SITE)?;
    let lab = Lab::start(options).await?;
    let node = lab.node("reused").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(5)).disk(Bus::VirtioBlk, gib(5)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    node.is_installed().await?;
    node.cut_power()?.pull_disk(1)?;

    lab.server().kill()?;
    std::fs::write(site, PLAIN)?;
    lab.start_server_again().await?;
    lab.admin_says(&["deploy", &node.name_at_server().await?])?;
    node.power_on()?.reaches(Stage::Prepare).await?;
    node.is_installed().await?;
    nothing_is_found_on(&node).await?;
    node.cut_power()?.power_on()?;
    nothing_is_found_on(&node).await
}

async fn nothing_is_found_on(node: &Node) -> Result<()> {
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    let found = system.text_of(SEARCH).await?;
    ensure!(found == "/dev/vda3\ndisk\npart", "something of the arrays is left: {found}");
    Ok(())
}
