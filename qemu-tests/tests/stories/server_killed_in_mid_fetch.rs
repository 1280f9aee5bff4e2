//! The server may die at any moment: nodes hold on to what they have and go on when it is back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};

/// Slow enough that a fetch takes a minute and can be hit in its middle.
const SLOW_MBIT_S: u32 = 24;
/// How long the server stays dead: longer than a report interval and a tracker announce.
const DEAD: Duration = Duration::from_secs(15);
/// How much of the image is there when the server is killed.
const HIT_AT: f64 = 0.2;

pub(crate) async fn tell() -> Result<()> {
    let (options, image) = LabOptions::debian_12()?;
    let lab = Lab::start(options).await?;
    let node = lab.node("patient").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(8)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.network().limit_server_mbit_s(SLOW_MBIT_S)?;
    lab.approve(&[&node]).await?;

    let hit_at = node.fetches(HIT_AT).await?;
    ensure!(hit_at < 0.9, "the fetch was over before it could be hit ({hit_at:.2})");
    lab.note(&format!("the server is killed at {:.0} % of the fetch", hit_at * 100.0));
    lab.server().kill()?;
    tokio::time::sleep(DEAD).await;
    lab.start_server_again().await?;
    lab.network().unlimit_server()?;

    let view = node.is_installed().await.context("after the server was killed and started again")?;
    let image_bytes = std::fs::metadata(&image.image)?.len();
    let fetched = view.traffic.from_server_bytes;
    lab.note(&format!("{fetched} bytes came from the server for an image of {image_bytes}"));
    ensure!(
        fetched <= image_bytes + image_bytes / 20,
        "what it had was fetched again: {fetched} of {image_bytes}"
    );
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await
}
