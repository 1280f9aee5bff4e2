//! A partition that the layout keeps has every byte after a second deployment, which replaces everything else.

use anyhow::{Result, ensure};
use qemu_tests::image::{TestImage, debian_12, debian_12_storage};
use qemu_tests::lab::InstalledSystem;
use qemu_tests::programs::Programs;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, Stage, gib};

const ON_A_PARTITION: &str = r#"
layout.partition = [
    { role = "bios-boot", size = "1MiB" },
    { role = "esp", size = "300MiB" },
    { role = "root", size = "4GiB" },
    { name = "data", mount = "/data", keep = true },
]
"#;
/// GRUB reads kernels and its own files from the root's volume.
const ON_VOLUMES: &str = r#"
layout.partition = [
    { role = "bios-boot", size = "1MiB" },
    { role = "esp", size = "300MiB" },
    { lvm = "system", size = "5GiB" },
    { name = "data", mount = "/data", keep = true },
]
layout.volume = [
    { group = "system", name = "root", role = "root", size = "4GiB" },
    { group = "system", name = "swap", role = "swap" },
]
"#;
/// Leaves a file in what is kept and another one in what is not.
const WRITE: &str = "touch /root/of-the-first; \
                     dd if=/dev/urandom of=/data/file bs=1M count=16 status=none && chmod 640 /data/file && sync";
/// What has to be the same after the second deployment.
const KEPT: &str =
    "sha256sum /data/file; stat -c '%a %Y %i' /data/file; findmnt -no SOURCE,UUID,PARTUUID /data";
/// What the system says of its own disks.
const ROOT: &str =
    "findmnt -no SOURCE /; swapon --noheadings --show=TYPE; ls /root/of-the-first 2>/dev/null; true";

pub(crate) async fn tell() -> Result<()> {
    survives(debian_12, ON_A_PARTITION, "/dev/vda3").await
}

pub(crate) async fn tell_on_volumes() -> Result<()> {
    survives(debian_12_storage, ON_VOLUMES, "/dev/mapper/system-root\npartition").await
}

async fn survives(image: fn(&Programs) -> Result<TestImage>, layout: &str, root: &str) -> Result<()> {
    let (mut options, _) = LabOptions::of(image)?;
    let dir = tempfile::tempdir()?;
    options.write_site(dir.path(), layout)?;
    let lab = Lab::start(options).await?;
    let node = lab.node("keeper").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(8)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    node.is_installed().await?;
    let mut system = starts_from(&node, root).await?;
    system.text_of(WRITE).await?;
    let before = system.text_of(KEPT).await?;
    lab.note(&format!("kept: {}", before.replace('\n', ", ")));

    lab.admin_says(&["deploy", &node.name_at_server().await?])?;
    node.cut_power()?.power_on()?;
    node.reaches(Stage::Prepare).await?;
    node.is_installed().await?;
    for start in ["first", "second"] {
        let mut system = starts_from(&node, root).await?;
        let after = system.text_of(KEPT).await?;
        ensure!(after == before, "at the {start} start /data has {after:?} and had {before:?}");
        if start == "first" {
            node.cut_power()?.power_on()?;
        }
    }
    Ok(())
}

/// Waits for the installed system; nothing of an earlier one is in it.
async fn starts_from(node: &Node, root: &str) -> Result<InstalledSystem> {
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    let found = system.text_of(ROOT).await?;
    ensure!(found == root, "the system runs from {found:?} and not from {root:?}");
    Ok(system)
}
