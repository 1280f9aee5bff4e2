//! Stories of peers of ours over real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate

mod common;

use common::{image, seed_config, start_leecher};
use swarm_net::Peer;

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leecher_gets_the_image_from_the_seed() {
    let image = image(20 * MIB + 12_345, 256 * 1024, None);
    let seed = Peer::start(seed_config(&image)).await.unwrap();
    let mut leecher = start_leecher(&image, &[seed.local_addr()]).await;
    leecher.completes(&image).await;
    let stats = leecher.peer.stats();
    assert_eq!((stats.left, stats.downloaded), (0, image.bytes.len() as u64));
    assert_eq!(stats.downloaded_by_peer, [(seed.local_addr(), image.bytes.len() as u64)]);
    leecher.peer.shutdown().await;
    seed.shutdown().await;
}
