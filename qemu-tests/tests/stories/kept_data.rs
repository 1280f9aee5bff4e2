//! A partition that the layout keeps has every byte after a second deployment, which replaces everything else.

use std::fs;

use anyhow::{Result, ensure};
use qemu_tests::lab::InstalledSystem;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, Stage, gib};

const SITE: &str = r#"
layout.partition = [
    { role = "bios-boot", size = "1MiB" },
    { role = "esp", size = "300MiB" },
    { role = "root", size = "4GiB" },
    { name = "data", mount = "/data", keep = true },
]
"#;
/// Leaves a file in what is kept and another one in what is not.
const WRITE: &str = "touch /root/of-the-first; \
                     dd if=/dev/urandom of=/data/file bs=1M count=16 status=none && chmod 640 /data/file && sync";
/// What has to be the same after the second deployment.
const KEPT: &str =
    "sha256sum /data/file; stat -c '%a %Y %i' /data/file; findmnt -no SOURCE,UUID,PARTUUID /data";
/// What the system says of its own disk.
const ROOT: &str = "findmnt -no SOURCE /; ls /root/of-the-first 2>/dev/null; true";

pub(crate) async fn tell() -> Result<()> {
    if std::env::var_os("ESIR_SKIP_SLOW").is_some() {
        eprintln!("  skipped, as ESIR_SKIP_SLOW is set");
        return Ok(());
    }
    let (mut options, _) = LabOptions::debian_12()?;
    let dir = tempfile::tempdir()?;
    let site = dir.path().join("site.toml");
    fs::write(&site, SITE)?;
    options.server.site = Some(site);
    let lab = Lab::start(options).await?;
    let node = lab.node("keeper").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(8)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    node.is_installed().await?;
    let mut system = starts(&node).await?;
    system.text_of(WRITE).await?;
    let before = system.text_of(KEPT).await?;
    lab.note(&format!("kept: {}", before.replace('\n', ", ")));

    lab.admin_says(&["deploy", &node.name_at_server().await?])?;
    node.cut_power()?.power_on()?;
    node.reaches(Stage::Prepare).await?;
    node.is_installed().await?;
    for start in ["first", "second"] {
        let mut system = starts(&node).await?;
        let after = system.text_of(KEPT).await?;
        ensure!(after == before, "at the {start} start /data has {after:?} and had {before:?}");
        if start == "first" {
            node.cut_power()?.power_on()?;
        }
    }
    Ok(())
}

/// Waits for the installed system; nothing of an earlier one is in it.
async fn starts(node: &Node) -> Result<InstalledSystem> {
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    let found = system.text_of(ROOT).await?;
    ensure!(found == "/dev/vda3", "the system runs from {found:?}");
    Ok(system)
}
