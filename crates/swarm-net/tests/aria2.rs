//! Interop with a stock client: aria2, in both roles, through our tracker, on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate

#[allow(dead_code)] // shared with other test crates, which use other parts of it
mod common;

use common::{Image, PATIENCE, image, leecher_config, seed_config, start};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use swarm_net::{HavePolicy, Peer, PeerConfig, Tracker};
use tokio::time::{Instant, sleep};

const MIB: usize = 1024 * 1024;

/// An aria2 of ours; killed by its own id when dropped.
struct Aria2(Child);

impl Drop for Aria2 {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Aria2 {
    fn start(folder: &Path, extra: &[&str]) -> Aria2 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = Command::new("aria2c")
            .current_dir(folder)
            .args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"])
            .args(["--enable-peer-exchange=false", "--interface=127.0.0.1", "--file-allocation=none"])
            .args([
                "--bt-max-peers=0",
                "--bt-tracker-interval=2",
                "--disable-ipv6=true",
                "--summary-interval=0",
            ])
            .arg(format!("--listen-port={port}"))
            .args(extra)
            .arg("image.torrent")
            .stdout(Stdio::null())
            .spawn();
        Aria2(command.unwrap())
    }

    async fn ends_well(mut self) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "aria2 ended with {status}");
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("aria2 did not finish");
    }
}

fn aria2_is_missing() -> bool {
    let missing = Command::new("aria2c").arg("--version").stdout(Stdio::null()).status().is_err();
    if missing {
        println!("skipped: aria2c is not installed");
    }
    missing
}

/// An image whose torrent names our tracker, which runs.
async fn tracked(length: usize) -> (Image, String, Arc<Mutex<Tracker>>) {
    let (url, tracker) = common::tracker(image(length, 256 * 1024, None).metainfo.info_hash).await;
    (image(length, 256 * 1024, Some(&url)), url, tracker)
}

fn open(config: PeerConfig, announce: &str) -> PeerConfig {
    PeerConfig { open: true, secret: None, announce_url: Some(announce.to_owned()), ..config }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aria2_downloads_from_our_seed() {
    if aria2_is_missing() {
        return;
    }
    for (super_seed, have_policy) in [(true, HavePolicy::Adaptive), (false, HavePolicy::Bep3)] {
        let (image, url, _tracker) = tracked(12 * MIB + 99).await;
        let config = open(seed_config(&image), &url);
        let seed = Peer::start(PeerConfig { super_seed, have_policy, ..config }).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("image.torrent"), &image.torrent).unwrap();
        Aria2::start(folder.path(), &["--seed-time=0"]).ends_well().await;
        assert!(std::fs::read(folder.path().join("image.esir")).unwrap() == image.bytes, "not byte-equal");
        drop(seed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_peer_downloads_from_aria2() {
    if aria2_is_missing() {
        return;
    }
    let (image, url, _tracker) = tracked(12 * MIB + 99).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image.torrent"), &image.torrent).unwrap();
    std::fs::write(folder.path().join("image.esir"), &image.bytes).unwrap();
    let _aria2 = Aria2::start(folder.path(), &["--bt-seed-unverified=true", "--seed-ratio=0.0"]);
    let (config, store) = leecher_config(&image, &[]);
    let mut leecher = start(open(config, &url), store).await;
    leecher.completes(&image).await;
}

/// Our seed, two aria2 and two of ours: everyone finishes, whoever they got it from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_swarm_of_five_finishes() {
    if aria2_is_missing() {
        return;
    }
    let (image, url, _tracker) = tracked(16 * MIB).await;
    let seed = Peer::start(open(seed_config(&image), &url)).await.unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let aria2s = folders.each_ref().map(|folder| {
        std::fs::write(folder.path().join("image.torrent"), &image.torrent).unwrap();
        Aria2::start(folder.path(), &["--seed-time=0"])
    });
    let mut ours = Vec::new();
    for _ in 0..2 {
        let (config, store) = leecher_config(&image, &[]);
        ours.push(start(open(config, &url), store).await);
    }
    for leecher in &mut ours {
        leecher.completes(&image).await;
    }
    for aria2 in aria2s {
        aria2.ends_well().await;
    }
    for folder in &folders {
        assert!(std::fs::read(folder.path().join("image.esir")).unwrap() == image.bytes, "not byte-equal");
    }
    drop(seed);
}
