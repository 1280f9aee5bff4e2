//! Everything is on two disks, and either starts the system alone: under PC BIOS and under UEFI.

use anyhow::{Context as _, Result, ensure};
use qemu_tests::image::debian_12_storage;
use qemu_tests::lab::InstalledSystem;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, Stage, gib};

/// Two disks: `/boot` on an array, root and swap on volumes of another.
pub(crate) const SITE: &str = r#"
layout.disk.count = 2
layout.partition = [
    { role = "bios-boot", size = "1MiB" },
    { role = "esp", size = "300MiB" },
    { raid = "boot", size = "512MiB" },
    { raid = "system" },
]
layout.raid = [{ name = "boot", role = "boot" }, { name = "system", lvm = "vg0" }]
layout.volume = [
    { group = "vg0", name = "root", role = "root" },
    { group = "vg0", name = "swap", role = "swap", size = "512MiB" },
]
"#;
/// What lies on the disks, what of each array is missing, and which disks there are.
const DISKS: &str = "findmnt -no SOURCE /; lsblk -nro TYPE $(findmnt -no SOURCE /boot); \
                     cat /sys/block/md*/md/degraded; lsblk -dno SERIAL $(ls /dev/vd? /dev/sd? 2>/dev/null)";
/// Something that the first start leaves for the second.
const NOTE: (&str, &str) = ("echo mirrored >/root/note; sync", "cat /root/note");

pub(crate) async fn tell() -> Result<()> {
    let (mut options, _) = LabOptions::of(debian_12_storage)?;
    let dir = tempfile::tempdir()?;
    options.write_site(dir.path(), SITE)?;
    let lab = Lab::start(options).await?;
    let bios = lab.node("bios").firmware(FirmwareKind::Bios).nic(Nic::E1000);
    let bios = bios.disk(Bus::Ahci, gib(5)).disk(Bus::Ahci, gib(5)).power_on()?;
    let uefi = lab.node("uefi").firmware(FirmwareKind::Uefi).nic(Nic::Virtio);
    let uefi = uefi.disk(Bus::VirtioBlk, gib(5)).disk(Bus::VirtioBlk, gib(5)).power_on()?;
    both(bios.reaches(Stage::Await), uefi.reaches(Stage::Await)).await?;
    lab.approve(&[&bios, &uefi]).await?;
    both(bios.is_installed(), uefi.is_installed()).await?;
    both(is_whole(&bios), is_whole(&uefi)).await?;
    bios.cut_power()?;
    uefi.cut_power()?;
    // One after the other: arrays that wait for a disk take long enough already.
    for node in [&bios, &uefi] {
        node.pull_disk(0)?.power_on()?;
        goes_on(node).await?;
        node.cut_power()?;
    }
    Ok(())
}

async fn both<T>(one: impl Future<Output = Result<T>>, other: impl Future<Output = Result<T>>) -> Result<()> {
    let (one, other) = tokio::join!(one, other);
    one.and(other).map(drop)
}

/// Waits for a system that runs from both disks.
async fn is_whole(node: &Node) -> Result<()> {
    let name = node.name();
    let mut system = starts(node, &format!("0\n0\n{name}-0\n{name}-1")).await?;
    system.text_of(NOTE.0).await?;
    Ok(())
}

/// Waits for the same system on the second disk alone.
async fn goes_on(node: &Node) -> Result<()> {
    let mut system = starts(node, &format!("1\n1\n{}-1", node.name())).await?;
    let found = system.text_of(NOTE.1).await?;
    ensure!(found == "mirrored", "{} has forgotten its first start: {found:?}", node.name());
    Ok(())
}

async fn starts(node: &Node, disks: &str) -> Result<InstalledSystem> {
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await.with_context(|| format!("on {}", node.name()))?;
    let found = system.text_of(DISKS).await?;
    let expected = format!("/dev/mapper/vg0-root\nraid1\n{disks}");
    ensure!(found == expected, "{} runs from {found:?} and not from {expected:?}", node.name());
    Ok(system)
}
