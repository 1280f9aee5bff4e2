//! Measures one transfer over unshaped loopback: `loopback_transfer [MIB] [LEECHERS] [plain] [memory]`.
//!
//! Every peer is a process of its own with an address of its own and its file in `/dev/shm`, so that what is
//! counted is what a machine would spend; with `memory` all are in one process and in memory, for profiling.
//! With `plain` the seed doesn't super-seed. Prints seconds, bytes per second, and CPU seconds of all peers
//! together (hashing and storing included).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a measuring tool

use sha1::{Digest, Sha1};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use swarm_net::{FileStore, MemoryStore, Metainfo, Peer, PeerConfig, PeerEvent, PieceSet, PieceStore};

const PIECE_BYTES: u32 = 512 * 1024;

const PORT: u16 = 7881;

/// Clock ticks per second in `/proc`, fixed at 100 on every Linux architecture.
const TICKS: f64 = 100.0;

/// User and system seconds of a process.
fn cpu_seconds(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
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

fn torrent(bytes: &[u8]) -> Vec<u8> {
    let hashes: Vec<[u8; 20]> =
        bytes.chunks(PIECE_BYTES as usize).map(|piece| Sha1::digest(piece).into()).collect();
    Metainfo::encode_single_file("a", bytes.len() as u64, PIECE_BYTES, &hashes, None).unwrap()
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 0, 9, u8::try_from(number + 1).unwrap()]), PORT)
}

fn config(metainfo: &Metainfo, store: Arc<dyn PieceStore>, seeds: bool, number: usize) -> PeerConfig {
    let pieces = u32::try_from(metainfo.pieces.len()).unwrap();
    let have = if seeds { PieceSet::full(pieces) } else { PieceSet::empty(pieces) };
    PeerConfig {
        secret: Some([1; 32]),
        super_seed: seeds && !std::env::args().any(|argument| argument == "plain"),
        first_peers: (0..number).map(address).collect(),
        ..PeerConfig::new(metainfo.clone(), store, have, address(number))
    }
}

async fn completes(peer: &mut Peer) {
    let mut events = peer.events();
    while events.recv().await.expect("the peer ended") != PeerEvent::Complete {}
}

fn print(mib: usize, leechers: usize, took: f64, cpu: f64) {
    let moved = (mib * 1024 * 1024 * leechers) as f64 / 1e6;
    println!(
        "{mib} MiB to {leechers}: {took:.3} s, {:.0} MB/s in all, {cpu:.2} CPU s, {:.0} MB per CPU s",
        moved / took,
        moved / cpu
    );
}

async fn in_one_process(mib: usize, leechers: usize) {
    let bytes = image(mib * 1024 * 1024);
    let metainfo = Metainfo::parse(&torrent(&bytes)).unwrap();
    let store = Arc::new(MemoryStore::holding(&bytes, PIECE_BYTES));
    let _seed = Peer::start(config(&metainfo, store, true, 0)).await.unwrap();
    let (cpu, start) = (cpu_seconds("self"), Instant::now());
    let mut running = Vec::new();
    for number in 1..=leechers {
        let store = Arc::new(MemoryStore::new());
        running.push(Peer::start(config(&metainfo, store, false, number)).await.unwrap());
    }
    for peer in &mut running {
        completes(peer).await;
    }
    print(mib, leechers, start.elapsed().as_secs_f64(), cpu_seconds("self") - cpu);
}

/// One peer: says that it is ready, waits for a line, says that it is complete, seeds until its input ends.
async fn one_peer(folder: &Path, number: usize) {
    let metainfo = Metainfo::parse(&std::fs::read(folder.join("torrent")).unwrap()).unwrap();
    let path = folder.join(number.to_string());
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let store = Arc::new(FileStore::new(file, PIECE_BYTES));
    let mut lines = std::io::stdin().lines();
    let config = config(&metainfo, store, number == 0, number);
    let mut peer = if number == 0 { Some(Peer::start(config.clone()).await.unwrap()) } else { None };
    println!("ready");
    lines.next();
    let started = Instant::now();
    if peer.is_none() {
        let mut leecher = Peer::start(config).await.unwrap();
        completes(&mut leecher).await;
        peer = Some(leecher);
    }
    println!("{}", started.elapsed().as_secs_f64());
    lines.next();
    if let Some(peer) = peer {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        let stats = peer.stats();
        eprintln!(
            "{number}: down {} up {} redundant {} have messages {} closed {:?}",
            stats.downloaded,
            stats.uploaded,
            stats.counts.redundant_bytes,
            stats.have_messages,
            stats.counts.closed
        );
    }
}

/// Writes and removes as much as the leechers will write: on a virtual machine the first use of a page costs more
/// than everything that is measured here.
fn touch_memory(folder: &Path, bytes: &[u8], leechers: usize) {
    for number in 0..leechers {
        std::fs::write(folder.join(format!("touch-{number}")), bytes).unwrap();
    }
    for number in 0..leechers {
        std::fs::remove_file(folder.join(format!("touch-{number}"))).unwrap();
    }
}

struct Remote {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

fn in_processes(mib: usize, leechers: usize) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let bytes = image(mib * 1024 * 1024);
    std::fs::write(folder.path().join("torrent"), torrent(&bytes)).unwrap();
    std::fs::write(folder.path().join("0"), &bytes).unwrap();
    let plain = std::env::args().filter(|argument| argument == "plain");
    let plain: Vec<String> = plain.collect();
    let mut remotes: Vec<Remote> = Vec::new();
    for number in 0..=leechers {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("peer")
            .arg(folder.path())
            .arg(number.to_string())
            .args(&plain)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        remotes.push(Remote { child, lines });
    }
    touch_memory(folder.path(), &bytes, leechers);
    let cpu = |remotes: &[Remote]| -> Vec<f64> {
        remotes.iter().map(|remote| cpu_seconds(&remote.child.id().to_string())).collect()
    };
    let (before, start) = (cpu(&remotes), Instant::now());
    for remote in &mut remotes {
        writeln!(remote.child.stdin.as_mut().unwrap()).unwrap();
    }
    for remote in &mut remotes {
        remote.lines.next().unwrap().unwrap();
    }
    let (took, after) = (start.elapsed().as_secs_f64(), cpu(&remotes));
    let each: Vec<f64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    print(mib, leechers, took, each.iter().sum());
    println!("CPU s of each: {each:.2?}");
    for (number, mut remote) in remotes.into_iter().enumerate() {
        drop(remote.child.stdin.take());
        remote.child.wait().unwrap();
        let same = std::fs::read(folder.path().join(number.to_string())).unwrap() == bytes;
        assert!(same, "peer {number} has another file");
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder, number, ..] = arguments.as_slice()
        && mode == "peer"
    {
        return one_peer(Path::new(folder), number.parse().unwrap()).await;
    }
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<usize>().ok());
    let (mib, leechers) = (numbers.next().unwrap_or(512), numbers.next().unwrap_or(1));
    if arguments.iter().any(|argument| argument == "memory") {
        in_one_process(mib, leechers).await;
    } else {
        in_processes(mib, leechers);
    }
}
