//! An image of a partition becomes a node's root block by block, as large as its disk; how long that takes is said beside
//! the time of the same system file by file.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use qemu_tests::command::{output, run};
use qemu_tests::image::debian_12;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, Stage, gib};

/// Of the partition that the image is made from; the node's disk is twice as large.
const SIZE: &str = "3G";
/// What the installed system says of its root: UUID, kind, and MiB in all.
const ROOT: &str = "findmnt -no UUID,FSTYPE /; df --output=size -BM / | tail -n 1 | tr -dc 0-9";
/// The root of a disk of 6 GiB.
const GROWN_MIB: u32 = 5000;

pub(crate) async fn tell() -> Result<()> {
    let (mut options, image) = LabOptions::of(debian_12)?;
    let by_files = {
        let lab = Lab::start(options.clone()).await?;
        deploys(&lab, &node(&lab)?).await?
    };
    let dir = tempfile::tempdir_in(qemu_tests::image::cache_dir()?)?;
    let partition = dir.path().join("root.ext4");
    let uuid = make_partition(&image.tree, &partition)?;
    let captured = dir.path().join("blocks.esir");
    let mut capture = Command::new(&options.programs.image_tools);
    capture.arg("capture").arg("--partition").arg(&partition).arg("-o").arg(&captured);
    run(capture.arg("--sign").arg(&image.secret_key))?;
    options.server.image = Some(captured);
    let lab = Lab::start(options).await?;
    let node = node(&lab)?;
    let by_blocks = deploys(&lab, &node).await?;
    starts_as(&node, &uuid).await?;
    node.cut_power()?.power_on()?;
    starts_as(&node, &uuid).await?;
    lab.note(&format!(
        "from approval to installed: {} s by files, {} s by blocks",
        by_files.as_secs(),
        by_blocks.as_secs()
    ));
    Ok(())
}

fn node(lab: &Lab) -> Result<Node> {
    let node = lab.node("blocks").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    node.disk(Bus::VirtioBlk, gib(6)).power_on()
}

/// How long from the approval until the system is installed.
async fn deploys(lab: &Lab, node: &Node) -> Result<Duration> {
    node.reaches(Stage::Await).await?;
    let begun = Instant::now();
    lab.approve(&[node]).await?;
    node.is_installed().await?;
    Ok(begun.elapsed())
}

/// Waits for the system whose root is this file system, and has grown.
async fn starts_as(node: &Node, uuid: &str) -> Result<()> {
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    let found = system.text_of(ROOT).await?;
    let (root, size) = found.split_once('\n').with_context(|| format!("the root is {found:?}"))?;
    ensure!(root == format!("{uuid} ext4"), "the root is {root} and not {uuid}");
    ensure!(size.trim().parse::<u32>()? > GROWN_MIB, "the root has {size} MiB of its disk");
    Ok(())
}

/// A file with an ext4 of this tree; its UUID.
fn make_partition(tree: &Path, partition: &Path) -> Result<String> {
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(partition).arg(SIZE);
    run(&mut make)?;
    let mut ask = Command::new("blkid");
    let uuid = output(ask.args(["-p", "-s", "UUID", "-o", "value"]).arg(partition))?;
    Ok(uuid.trim().to_owned())
}
