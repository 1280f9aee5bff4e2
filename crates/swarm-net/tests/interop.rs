//! Interop with four stock clients, each in both roles, and all of them in one swarm with ours; byte-verified.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate

#[allow(dead_code)] // shared with other test crates, which use other parts of it
mod common;
mod stock;

use common::{Image, image, leecher_config, seed_config, start};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use stock::{ALL, Client, Program, Role, address, is_inside};
use swarm_net::{Peer, PeerConfig, Tracker};

const MIB: usize = 1024 * 1024;
const PIECE_BYTES: u32 = 256 * 1024;

/// Numbers of addresses; clients have the others.
const OURS: u8 = 1;
const FIRST_CLIENT: u8 = 2;

/// An image whose torrent names our tracker, which runs.
async fn tracked(length: usize) -> (Image, Arc<Mutex<Tracker>>) {
    let at = SocketAddr::from((address(OURS), 0));
    let (url, tracker) = common::tracker_at(at, image(length, PIECE_BYTES, None).metainfo.info_hash).await;
    (image(length, PIECE_BYTES, Some(&url)), tracker)
}

/// A peer that strangers may take part with.
fn open(config: PeerConfig) -> PeerConfig {
    let announce_url = config.metainfo.announce.clone();
    let listen = SocketAddr::from((address(OURS), 0));
    PeerConfig { open: true, secret: None, announce_url, listen, ..config }
}

async fn it_leeches_from_us(program: Program, test: &str) {
    if program.is_missing() || !is_inside(test) {
        return;
    }
    let (image, _tracker) = tracked(12 * MIB + 99).await;
    let seed = Peer::start(open(seed_config(&image))).await.unwrap();
    let mut client = Client::start(program, FIRST_CLIENT, &image, Role::Leech);
    client.completes(&image).await;
    let stats = seed.shutdown().await;
    assert!(stats.uploaded >= image.bytes.len() as u64, "{stats:?}");
}

async fn it_seeds_to_us(program: Program, test: &str) {
    if program.is_missing() || !is_inside(test) {
        return;
    }
    let (image, _tracker) = tracked(12 * MIB + 99).await;
    let client = Client::start(program, FIRST_CLIENT, &image, Role::Seed);
    let (config, store) = leecher_config(&image, &[]);
    let mut leecher = start(open(config), store).await;
    leecher.completes(&image).await;
    let sources = leecher.peer.stats().downloaded_by_peer;
    assert!(sources.iter().all(|(peer, _)| peer.ip() == client.peer.ip()), "{sources:?}");
}

macro_rules! both_roles {
    ($program:expr, $leeches:ident, $seeds:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $leeches() {
            it_leeches_from_us($program, stringify!($leeches)).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $seeds() {
            it_seeds_to_us($program, stringify!($seeds)).await;
        }
    };
}

both_roles!(Program::Aria2, aria2_leeches_from_us, aria2_seeds_to_us);
both_roles!(Program::Transmission, transmission_leeches_from_us, transmission_seeds_to_us);
both_roles!(Program::Libtorrent, libtorrent_leeches_from_us, libtorrent_seeds_to_us);
both_roles!(Program::Rtorrent, rtorrent_leeches_from_us, rtorrent_seeds_to_us);

/// One stock client seeds slowly to the three others and to us: nobody gets everything from it alone.
async fn five_with_a_seed(seed: Program, test: &str) {
    if ALL.into_iter().any(Program::is_missing) || !is_inside(test) {
        return;
    }
    let (image, _tracker) = tracked(12 * MIB).await;
    let role = |program| if program == seed { Role::ThrottledSeed } else { Role::Leech };
    let clients = (FIRST_CLIENT..).zip(ALL);
    let mut clients: Vec<Client> =
        clients.map(|(number, program)| Client::start(program, number, &image, role(program))).collect();
    let (config, store) = leecher_config(&image, &[]);
    let mut ours = start(open(config), store).await;
    ours.completes(&image).await;
    for client in &mut clients {
        client.completes(&image).await;
    }
    let stats = ours.peer.stats();
    let name_of = |peer: &SocketAddr| {
        clients.iter().find(|client| client.peer.ip() == peer.ip()).map(|client| client.program)
    };
    let sources: Vec<(Option<Program>, u64)> =
        stats.downloaded_by_peer.iter().map(|(peer, bytes)| (name_of(peer), *bytes)).collect();
    println!("ours got {sources:?}, gave {}", stats.uploaded);
    assert!(sources.iter().any(|(program, _)| *program != Some(seed)), "only from the seed: {sources:?}");
    assert!(stats.uploaded > 0, "nobody took anything from us");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_swarm_of_five_with_libtorrent_as_the_seed() {
    five_with_a_seed(Program::Libtorrent, "a_mixed_swarm_of_five_with_libtorrent_as_the_seed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_swarm_of_five_with_rtorrent_as_the_seed() {
    five_with_a_seed(Program::Rtorrent, "a_mixed_swarm_of_five_with_rtorrent_as_the_seed").await;
}
