//! A disk that an image was exported as starts as it is, under the name that it was made for.

use std::process::Command;

use anyhow::{Result, ensure};
use qemu_tests::command::run;
use qemu_tests::image::debian_12;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, gib};

/// The server sends the machine to its own disk. The disk has no EFI system partition: kernels without FAT make it too.
const SITE: &str = r#"
layout.partition = [
    { role = "bios-boot", size = "1MiB" },
    { role = "swap", size = "256MiB" },
    { role = "root" },
]
[entry.disk]
title = "Boot from the local disk"
local = "auto"
[default]
boot = "disk"
"#;
/// Who it is, what it is mounted from and swaps to, how many host keys it has, and what it remembers of its image.
const QUESTION: &str = "hostname; findmnt -no SOURCE /; swapon --show=NAME --noheadings; ls /etc/ssh/ssh_host_*.pub | wc -l; \
                        grep -c image_id /var/lib/esir/installed.json";
const ANSWER: &str = "exported\n/dev/sda3\n/dev/sda2\n3\n1";

pub(crate) async fn tell() -> Result<()> {
    let (mut options, image) = LabOptions::of(debian_12)?;
    let dir = tempfile::tempdir()?;
    let site = options.write_site(dir.path(), SITE)?;
    let program = options.programs.image_tools.clone();
    let lab = Lab::start(options).await?;
    let node = lab.node("exported").firmware(FirmwareKind::Bios).nic(Nic::E1000);
    let node = node.disk(Bus::Ahci, gib(5)).build()?;
    let mut export = Command::new(program);
    export.arg("export").arg(&image.image).args(["--as", "disk", "--size", "5GiB", "--firmware", "bios"]);
    export.args(["--hostname", "exported", "--layout"]).arg(site).arg("-o").arg(node.disk(0)?.path());
    run(&mut export)?;
    is_itself(node.power_on()?).await?;
    is_itself(node.cut_power()?.power_on()?).await
}

async fn is_itself(node: &Node) -> Result<()> {
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    let said = system.text_of(QUESTION).await?;
    ensure!(said == ANSWER, "the system says {said:?} and not {ANSWER:?}");
    Ok(())
}
