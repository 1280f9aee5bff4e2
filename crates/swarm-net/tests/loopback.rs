//! Stories of peers of ours over real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate

#[allow(dead_code)] // shared with other test crates, which use other parts of it
mod common;

use common::{Image, Leecher, image, leecher_config, seed_config, start, start_leecher};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use swarm_net::{MemoryStore, Peer, PeerConfig, PeerEvent, PieceHashes, PieceSet, PieceStore, WebSeed};
use tokio::time::sleep;

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

/// A store that gives 20 MB/s: the server's link, so that the four start while most is still to come.
struct PacedStore {
    inner: MemoryStore,
    free_at: Mutex<std::time::Instant>,
}

fn paced(image: &Image) -> Arc<PacedStore> {
    let inner = MemoryStore::holding(&image.bytes, image.metainfo.piece_length);
    Arc::new(PacedStore { inner, free_at: Mutex::new(std::time::Instant::now()) })
}

impl PieceStore for PacedStore {
    fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_piece(piece, bytes)
    }

    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()> {
        let takes = Duration::from_nanos(out.len() as u64 * 50);
        let until = {
            let mut free_at = self.free_at.lock().unwrap();
            *free_at = (*free_at).max(std::time::Instant::now()) + takes;
            *free_at
        };
        std::thread::sleep(until.saturating_duration_since(std::time::Instant::now()));
        self.inner.read_block(piece, begin, out)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_leechers_exchange_and_the_seed_sends_little_more_than_one_copy() {
    let image = image(24 * MIB, 256 * 1024, None);
    let (announce, _) = common::tracker(image.metainfo.info_hash).await;
    let config =
        PeerConfig { store: paced(&image), announce_url: Some(announce.clone()), ..seed_config(&image) };
    let seed = Peer::start(config).await.unwrap();
    let mut leechers = Vec::new();
    for _ in 0..4 {
        let (config, store) = leecher_config(&image, &[seed.local_addr()]);
        leechers.push(start(PeerConfig { announce_url: Some(announce.clone()), ..config }, store).await);
    }
    for leecher in &mut leechers {
        leecher.completes(&image).await;
    }
    let uploaded = uploaded_in_the_end(&seed).await;
    let copies = uploaded as f64 / image.bytes.len() as f64;
    println!("the seed sent {copies:.3} copies to four leechers");
    assert!(copies <= 1.3, "the seed sent {copies} copies");
}

async fn uploaded_in_the_end(peer: &Peer) -> u64 {
    sleep(Duration::from_millis(500)).await;
    peer.stats().uploaded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seed_is_killed_and_comes_back_and_the_leecher_goes_on() {
    let image = image(16 * MIB, 256 * 1024, None);
    let slow = PeerConfig { store: paced(&image), ..seed_config(&image) };
    let seed = Peer::start(slow).await.unwrap();
    let address = seed.local_addr();
    let mut leecher = start_leecher(&image, &[address]).await;
    leecher.sees("a piece", |event| matches!(event, PeerEvent::PieceVerified(_))).await;
    drop(seed);
    sleep(Duration::from_millis(700)).await;
    let stats = leecher.peer.stats();
    assert!(stats.verified < stats.pieces, "too quick to be interrupted");
    let _again = Peer::start(PeerConfig { listen: address, ..seed_config(&image) }).await.unwrap();
    leecher.completes(&image).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_another_secret_gets_nothing() {
    let image = image(2 * MIB, 256 * 1024, None);
    let seed = Peer::start(seed_config(&image)).await.unwrap();
    let (config, store) = leecher_config(&image, &[seed.local_addr()]);
    let stranger = start(PeerConfig { secret: Some([8; 32]), ..config }, store).await;
    let (config, store) = leecher_config(&image, &[seed.local_addr()]);
    let without = start(PeerConfig { secret: None, open: true, ..config }, store).await;
    let mut good = start_leecher(&image, &[seed.local_addr()]).await;
    good.completes(&image).await;
    sleep(Duration::from_millis(600)).await;
    for refused in [&stranger, &without] {
        assert_eq!(refused.peer.stats().downloaded, 0);
        assert!(refused.store.contents().is_empty());
    }
    let closed = seed.stats().counts.closed;
    assert!(closed.keys().any(|reason| reason.to_string().contains("proof")), "{closed:?}");
    assert_eq!(seed.stats().uploaded, image.bytes.len() as u64);
}

/// A store whose n-th block is wrong: broken memory.
struct BrokenStore {
    inner: MemoryStore,
    every: u32,
    reads: std::sync::atomic::AtomicU32,
}

impl PieceStore for BrokenStore {
    fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_piece(piece, bytes)
    }

    fn read_block(&self, piece: u32, begin: u32, out: &mut [u8]) -> io::Result<()> {
        self.inner.read_block(piece, begin, out)?;
        let reads = self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if reads.is_multiple_of(self.every) {
            out[0] ^= 1;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_with_broken_memory_is_banned_and_named() {
    let image = image(8 * MIB, 256 * 1024, None);
    let inner = MemoryStore::holding(&image.bytes, image.metainfo.piece_length);
    let store = Arc::new(BrokenStore { inner, every: 10, reads: Default::default() });
    let broken = Peer::start(PeerConfig { store, ..seed_config(&image) }).await.unwrap();
    let mut leecher = start_leecher(&image, &[broken.local_addr()]).await;
    let banned = leecher.sees("a ban", |event| matches!(event, PeerEvent::Banned { .. })).await;
    assert_eq!(banned, PeerEvent::Banned { addr: broken.local_addr() });
    let seed = Peer::start(seed_config(&image)).await.unwrap();
    let (config, store) = leecher_config(&image, &[broken.local_addr(), seed.local_addr()]);
    let mut other = start(config, store).await;
    other.completes(&image).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_are_checked_against_blake3_when_it_is_given() {
    let image = image(3 * MIB, 256 * 1024, None);
    let seed = Peer::start(seed_config(&image)).await.unwrap();
    let hashes: Vec<[u8; 32]> =
        image.bytes.chunks(256 * 1024).map(|piece| *blake3::hash(piece).as_bytes()).collect();
    let (config, store) = leecher_config(&image, &[seed.local_addr()]);
    let mut leecher =
        start(PeerConfig { hashes: PieceHashes::Blake3(hashes.clone()), ..config }, store).await;
    leecher.completes(&image).await;
    let (config, _) = leecher_config(&image, &[]);
    let short = PieceHashes::Blake3(hashes[1..].to_vec());
    assert!(Peer::start(PeerConfig { hashes: short, ..config }).await.is_err(), "a hash is missing");
}

struct MemoryWebSeed(Vec<u8>);

impl WebSeed for MemoryWebSeed {
    fn fetch(&self, offset: u64, len: u64) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send>> {
        let from = usize::try_from(offset).unwrap();
        let bytes = self.0[from..from + usize::try_from(len).unwrap()].to_vec();
        Box::pin(async move { Ok(bytes) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reaches_no_peer_gets_all_from_the_web_seed() {
    let image = image(5 * MIB, 256 * 1024, None);
    let (config, store) = leecher_config(&image, &[SocketAddr::from(([127, 0, 0, 1], 9))]);
    let web_seed: Arc<dyn WebSeed> = Arc::new(MemoryWebSeed(image.bytes.clone()));
    let mut alone = start(PeerConfig { web_seed: Some(web_seed), ..config }, store).await;
    alone.completes(&image).await;
    assert_eq!(alone.peer.stats().web_seed_bytes, image.bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_halves_make_a_whole_without_a_seed() {
    let image = image(8 * MIB, 256 * 1024, None);
    let half = |wanted: fn(u32) -> bool| {
        let (config, _) = leecher_config(&image, &[]);
        let store = Arc::new(MemoryStore::new());
        let mut have = PieceSet::empty(32);
        for piece in (0..32).filter(|piece| wanted(*piece)) {
            let from = piece as usize * 256 * 1024;
            store.write_piece(piece, &image.bytes[from..from + 256 * 1024]).unwrap();
            have.insert(piece);
        }
        (PeerConfig { have, store: store.clone(), ..config }, store)
    };
    let (config, store) = half(|piece| piece % 2 == 0);
    let mut even: Leecher = start(config, store).await;
    let (config, store) = half(|piece| piece % 2 == 1);
    let mut odd = start(PeerConfig { first_peers: vec![even.peer.local_addr()], ..config }, store).await;
    even.completes(&image).await;
    odd.completes(&image).await;
}
