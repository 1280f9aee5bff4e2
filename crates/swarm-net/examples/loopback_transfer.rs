//! Measures one transfer over unshaped loopback in one process: `loopback_transfer [MIB] [LEECHERS] [plain]`.
//! With `plain` the seed doesn't super-seed.
//!
//! Prints seconds, bytes per second, and CPU seconds of both sides together (hashing and storing included).
#![allow(clippy::unwrap_used, clippy::expect_used)] // a measuring tool

use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use swarm_net::{MemoryStore, Metainfo, Peer, PeerConfig, PeerEvent, PieceSet};

const PIECE_BYTES: u32 = 512 * 1024;

/// Clock ticks per second in `/proc`, fixed at 100 on every Linux architecture.
const TICKS: f64 = 100.0;

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / TICKS
}

fn image(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let words = (0..length / 8).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 33)).to_le_bytes()
    });
    words.collect()
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let super_seed = !std::env::args().any(|argument| argument == "plain");
    let mib = arguments.next().unwrap_or(512);
    let leechers = arguments.next().unwrap_or(1);
    let bytes = image(mib * 1024 * 1024);
    let hashes: Vec<[u8; 20]> =
        bytes.chunks(PIECE_BYTES as usize).map(|piece| Sha1::digest(piece).into()).collect();
    let torrent = Metainfo::encode_single_file("a", bytes.len() as u64, PIECE_BYTES, &hashes, None).unwrap();
    let metainfo = Metainfo::parse(&torrent).unwrap();
    let pieces = u32::try_from(hashes.len()).unwrap();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let configure = |have, store, first_peers: Vec<SocketAddr>| PeerConfig {
        secret: Some([1; 32]),
        super_seed: super_seed && PieceSet::is_full(&have),
        first_peers,
        ..PeerConfig::new(metainfo.clone(), store, have, loopback)
    };
    let store = Arc::new(MemoryStore::holding(&bytes, PIECE_BYTES));
    let seed = Peer::start(configure(PieceSet::full(pieces), store, Vec::new())).await.unwrap();
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let mut running = Vec::new();
    let mut others = vec![seed.local_addr()];
    for _ in 0..leechers {
        let store = Arc::new(MemoryStore::new());
        let mut peer = Peer::start(configure(PieceSet::empty(pieces), store, others.clone())).await.unwrap();
        others.push(peer.local_addr());
        running.push((peer.events(), peer));
    }
    for (events, _) in &mut running {
        while let Some(event) = events.recv().await {
            if event == PeerEvent::Complete {
                break;
            }
        }
    }
    let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let moved = (bytes.len() * leechers) as f64;
    println!(
        "{mib} MiB to {leechers}: {took:.3} s, {:.0} MB/s in all, {cpu:.2} CPU s, {:.0} MB per CPU s",
        moved / took / 1e6,
        moved / cpu / 1e6
    );
    for (_, peer) in running {
        let stats = peer.stats();
        println!(
            "redundant {} have messages {} closed {:?}",
            stats.counts.redundant_bytes, stats.have_messages, stats.counts.closed
        );
    }
}
