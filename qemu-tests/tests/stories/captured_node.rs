//! A node that runs from a logical volume, and writes, becomes an image that is of one moment; nothing stays behind on it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::image::debian_12_storage;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};
use tokio::process::Command;

/// More than a gibibyte of the group stays free for a snapshot.
const SITE: &str = r#"
layout.partition = [
    { role = "bios-boot", size = "1MiB" },
    { role = "boot", size = "300MiB" },
    { lvm = "system" },
]
layout.volume = [
    { group = "system", name = "root", role = "root", fs = "xfs", size = "4GiB" },
    { group = "system", name = "swap", role = "swap", size = "256MiB" },
]
"#;
/// Two files that never differ by more than one round. The first file is read long before the second one.
const WRITER: &str = "mkdir -p /etc/first /usr/zz; (n=0; while :; do n=$((n+1)); echo $n >/etc/first/n; echo $n \
                      >/usr/zz/n; sleep 0.05; done) >/dev/null 2>&1 & true";
/// What LVM and the mount table have of a snapshot.
const LEFT: &str =
    "lvs --noheadings -o lv_name | sort | xargs; grep -c esir-capture /proc/mounts; ls /run | grep esir-c";

pub(crate) async fn tell() -> Result<()> {
    let (mut options, image) = LabOptions::of(debian_12_storage)?;
    let dir = tempfile::tempdir()?;
    options.write_site(dir.path(), SITE)?;
    let program = options.programs.image_tools.clone();
    let lab = Lab::start(options).await?;
    let node = lab.node("golden").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(6)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    node.is_installed().await?;
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    system.run(WRITER).await?;

    let captured = dir.path().join("golden.esir");
    let address = system.address().await?;
    let view = node.view().await?.context("the server does not answer")?;
    let ssh = format!("ssh {}", lab.ssh_options(&image.ssh_key, address, view.host_keys())?.join(" "));
    let host = format!("root@{address}");
    let mut capture = Command::from(lab.network().command(&program));
    capture.args(["capture", "--host", &host, "--ssh", &ssh, "--name", "golden", "--level", "1"]);
    let said = says(capture.arg("--output").arg(&captured)).await?;
    ensure!(said.contains(" from a snapshot"), "no snapshot was taken: {said}");
    ensure!(!said.contains("changed every time"), "a snapshot changed: {said}");
    let first = number(&program, &captured, "/etc/first/n").await?;
    let second = number(&program, &captured, "/usr/zz/n").await?;
    lab.note(&format!("the image has round {first} of one file and round {second} of the other"));
    ensure!(first == second || first == second + 1, "the image is of two moments: {first} and {second}");
    let left = system.run(LEFT).await?.text;
    ensure!(left == "root swap\n0", "something of the snapshot is left on the node: {left}");
    Ok(())
}

async fn number(program: &Path, image: &Path, path: &str) -> Result<u64> {
    let said = says(Command::new(program).arg("cat").arg(image).arg(path)).await?;
    said.trim().parse().with_context(|| format!("{path} has {said:?}"))
}

/// What a command that must succeed says, on both its outputs.
async fn says(command: &mut Command) -> Result<String> {
    let output = command.kill_on_drop(true).output().await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(said)
}
