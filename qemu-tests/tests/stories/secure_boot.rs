//! Secure Boot with Microsoft's keys, of which nobody has told the server: iPXE is refused once, and from then on the
//! node gets shim, GRUB and a kernel that locks itself down.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::image::TestImage;
use qemu_tests::{Bus, Lab, LabOptions, Lockdown, Node, Stage, gib};

use super::firmware;

/// From power to what the firmware says of the first thing that it loaded.
const LOADED_MAX: Duration = Duration::from_secs(120);
/// From power to the agent: GRUB asks for kernel and initrd in lock step, 1 KiB at a time, which under TCG takes minutes.
const AGENT_MAX: Duration = Duration::from_secs(420);
/// The firmware's words for a program that nobody signed.
const REFUSED: &str = "Access Denied";
/// The conversation and what it is about.
const GOLDEN: (&str, &str) = (
    "secure-boot",
    "OVMF with Secure Boot: iPXE is refused; after a reset shim, GRUB, kernel and initrd by TFTP",
);
/// Shim's words as it loads GRUB.
const SHIM_RUNS: &str = "Fetching Netboot Image";

pub(crate) async fn tell() -> Result<()> {
    let (options, image) = LabOptions::debian_12()?;
    let lab = Lab::start(options).await?;
    let node = lab.node("locked").secure_boot().disk(Bus::VirtioBlk, gib(8)).build()?;

    let recorder = node.record()?;
    node.power_on()?;
    let found = finds_its_way(&node).await;
    firmware::is_as_kept(&lab, recorder, GOLDEN, &firmware::names(&node), found)?;
    is_locked_down(&lab, &node).await?;

    node.cut_power()?;
    lab.server().kill()?;
    lab.start_server_again().await?;
    node.power_on()?;
    starts_shim_at_once(&node).await?;
    node.reaches_within(Stage::Await, AGENT_MAX).await?;

    if std::env::var_os("ESIR_SKIP_SLOW").is_some() {
        lab.note("skipped, as ESIR_SKIP_SLOW is set: the deployment of a node with Secure Boot");
        return Ok(());
    }
    becomes_a_server(&lab, &node, &image).await
}

/// A refusal, a reset, and the agent.
async fn finds_its_way(node: &Node) -> Result<()> {
    node.console().wait_for(&[REFUSED], LOADED_MAX).await?;
    // OVMF tries IPv6 and HTTP for some minutes and then waits for a person, who presses this button.
    node.reset()?;
    starts_shim_at_once(node).await?;
    node.reaches_within(Stage::Await, AGENT_MAX).await.map(drop)
}

async fn starts_shim_at_once(node: &Node) -> Result<()> {
    let first = node.console().wait_for(&[REFUSED, SHIM_RUNS], LOADED_MAX).await?;
    ensure!(first == SHIM_RUNS, "the firmware was given iPXE again");
    Ok(())
}

/// The server says so, its command line says so, and the node's console does.
async fn is_locked_down(lab: &Lab, node: &Node) -> Result<()> {
    let view = node.view().await?.context("the server has forgotten the node")?;
    ensure!(view.lockdown == Some(Lockdown::Integrity), "the agent reports lockdown {:?}", view.lockdown);
    ensure!(view.refused_ipxe_unix_ms.is_some(), "the server has not noticed that iPXE was refused");
    let nodes = lab.admin_says(&["nodes"])?;
    ensure!(nodes.contains("uefi, signed loaders, lockdown integrity"), "`pxe-server nodes` says:\n{nodes}");
    let console = node.console().text_since_power_on();
    ensure!(console.contains("kernel lockdown integrity"), "the console does not say that it is locked down");
    Ok(())
}

/// Modules are loaded, the disk is written, and the firmware starts what is on it: GRUB from the network hands over to
/// the disk's own shim.
async fn becomes_a_server(lab: &Lab, node: &Node, image: &TestImage) -> Result<()> {
    lab.approve(&[node]).await?;
    let view = node.is_installed().await?;
    let id = view.installed.map(|installed| installed.image_id).unwrap_or_default();
    ensure!(!id.is_empty(), "{} was not deployed", image.image.display());
    let mut system = node.boots_into("debian-12").await?;
    let lockdown = system.text_of("cat /sys/kernel/security/lockdown").await?;
    ensure!(
        Lockdown::parse(&lockdown) == Some(Lockdown::Integrity),
        "the system runs with lockdown {lockdown}"
    );
    system.has_settled().await
}
