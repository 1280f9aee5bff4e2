//! An image with cloud-init and netplan does what its seed says, and leaves alone what is the node's own already.

use std::fs;

use anyhow::{Result, ensure};
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};

const SITE: &str =
    "[system]\ndomain = \"lab.example\"\n[system.cloud_init]\nuser_data = \"user-data.tmpl\"\n";
const USER_DATA: &str = "#cloud-config\nwrite_files:\n  - path: /etc/from-the-seed\n    content: ${fqdn}\n";
/// Public host keys, sorted, without comments.
const HOST_KEYS: &str = "cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2 | sort";

pub(crate) async fn tell() -> Result<()> {
    let (mut options, _) = LabOptions::of(qemu_tests::image::debian_12_cloud)?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("user-data.tmpl"), USER_DATA)?;
    options.write_site(dir.path(), SITE)?;
    let lab = Lab::start(options).await?;
    let node = lab.node("cloud").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(8)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    let view = node.is_installed().await?;

    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    let name = node.name_at_server().await?;
    for (line, expected) in [
        ("cloud-init status", "status: done".to_owned()),
        (
            "cloud-init query platform; cloud-init query subplatform | cut -d' ' -f1",
            "nocloud\nseed-dir".to_owned(),
        ),
        ("cat /etc/from-the-seed", format!("{name}.lab.example")),
        ("hostname", name.clone()),
        ("ls /etc/netplan", "60-esir.yaml".to_owned()),
    ] {
        let found = system.text_of(line).await?;
        ensure!(found == expected, "`{line}` says {found:?} and not {expected:?}");
    }
    let keys = system.text_of(HOST_KEYS).await?;
    ensure!(!view.host_keys().is_empty(), "the server knows no host keys");
    for key in keys.lines() {
        ensure!(
            view.host_keys().iter().any(|told| told.starts_with(key)),
            "cloud-init made another host key: {key}"
        );
    }
    Ok(())
}
