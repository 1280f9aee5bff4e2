//! Strangers and broken machines against a real peer: each is dropped with a reason that is counted, and a good
//! peer gets the image all the same.
//!
//! Memory is measured over the whole process, so these stories run one after the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate

#[allow(dead_code)] // shared with other test crates, which use other parts of it
mod common;

use common::{Image, Leecher, image, leecher_config, seed_config, start};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use swarm::wire::{Handshake, Message, RawBlock};
use swarm::{CloseReason, Limits, Refusal};
use swarm_net::{Peer, PeerConfig, PeerEvent, WebSeed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};

const MIB: usize = 1024 * 1024;

/// How much a flood may cost: the bounds of the driver's queues are some 20 MiB, the rest is the allocator's.
const FLOOD_MEMORY_MAX: usize = 96 * MIB;

/// Longest time that a flood goes on if nobody ends it.
const FLOOD_TIME: Duration = Duration::from_secs(3);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// What this process keeps in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A seed under attack, with its image.
struct Victim {
    image: Image,
    seed: Peer,
    open: bool,
    memory_before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Victim {
    async fn start(open: bool) -> Victim {
        Victim::with(open, |config| config).await
    }

    async fn with(open: bool, change: impl FnOnce(PeerConfig) -> PeerConfig) -> Victim {
        let alone = ONE_AT_A_TIME.lock().await;
        let image = image(8 * MIB + 99, 64 * 1024, None);
        let seed = Peer::start(change(PeerConfig { open, ..seed_config(&image) })).await.unwrap();
        Victim { image, seed, open, memory_before: resident(), _alone: alone }
    }

    /// Opens a connection from this address of the loopback network and says who is there.
    async fn greet(&self, from: [u8; 4]) -> TcpStream {
        let mut stream = connect(from, self.seed.local_addr()).await.unwrap();
        stream.write_all(&handshake(&self.image)).await.unwrap();
        stream
    }

    /// A good peer gets the whole image in spite of all.
    async fn still_serves(&self) {
        let (config, store) = leecher_config(&self.image, &[self.seed.local_addr()]);
        let mut good: Leecher = start(PeerConfig { open: self.open, ..config }, store).await;
        good.completes(&self.image).await;
    }

    async fn closed(&self, reason: CloseReason) {
        let counted = timeout(common::PATIENCE, async {
            while !self.seed.stats().counts.closed.contains_key(&reason) {
                sleep(Duration::from_millis(50)).await;
            }
        });
        counted.await.unwrap_or_else(|_| panic!("never {reason}: {:?}", self.seed.stats().counts));
    }

    fn memory_is_bounded(&self) {
        let grown = resident().saturating_sub(self.memory_before);
        println!("memory grew by {} KiB", grown / 1024);
        assert!(grown < FLOOD_MEMORY_MAX, "{} MiB for a flood", grown / MIB);
    }
}

async fn connect(from: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(from)), 0))?;
    socket.connect(to).await
}

fn handshake(image: &Image) -> [u8; 68] {
    let mut peer_id = [b'x'; 20];
    getrandom::fill(&mut peer_id).unwrap();
    Handshake { info_hash: image.metainfo.info_hash, peer_id, fast: true, extended: true }.encode()
}

fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    bytes
}

/// Writes the bytes over and over until the peer hangs up or the time is over; gives how often.
async fn flood(stream: &mut TcpStream, bytes: &[u8]) -> u64 {
    let (end, mut times) = (Instant::now() + FLOOD_TIME, 0);
    while Instant::now() < end {
        match timeout(Duration::from_secs(1), stream.write_all(bytes)).await {
            Ok(Ok(())) => times += 1,
            Ok(Err(_)) => break,
            // It doesn't read any more: that is a bound too.
            Err(_) => {}
        }
    }
    times
}

/// Reads until the other side hangs up.
async fn hung_up(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the connection was never closed");
}

const ENEMY: [u8; 4] = [127, 0, 0, 66];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_requests_ends_the_connection() {
    let victim = Victim::start(true).await;
    let mut stream = victim.greet(ENEMY).await;
    let request = Message::Request(RawBlock { piece: 0, begin: 0, len: 16_384 });
    flood(&mut stream, &encoded(&vec![request; 1000])).await;
    victim.closed(CloseReason::TooManyRequests).await;
    victim.memory_is_bounded();
    victim.still_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_requests_for_nothing_ends_or_stalls_and_takes_no_memory() {
    let victim = Victim::start(true).await;
    let mut stream = victim.greet(ENEMY).await;
    // Each gets a reject, which this peer never reads.
    let request = Message::Request(RawBlock { piece: 99_999, begin: 0, len: 16_384 });
    let times = flood(&mut stream, &encoded(&vec![request; 10_000])).await;
    println!("{} requests were taken", times * 10_000);
    victim.closed(CloseReason::SlowReader).await;
    victim.memory_is_bounded();
    victim.still_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_prefix_of_four_gigabytes_is_malformed_and_reserves_nothing() {
    let victim = Victim::start(true).await;
    for length in [u32::MAX, 1 << 31, 64 * 1024 * 1024, 70 * 1024] {
        let mut stream = victim.greet(ENEMY).await;
        stream.write_all(&[&length.to_be_bytes()[..], &[20, 0]].concat()).await.unwrap();
        hung_up(&mut stream).await;
    }
    victim.closed(CloseReason::Malformed).await;
    assert_eq!(victim.seed.stats().counts.closed[&CloseReason::Malformed], 4);
    victim.memory_is_bounded();
    victim.still_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bencode_bombs_in_the_extension_handshake_are_malformed() {
    let bombs = [vec![b'l'; 60_000], b"d1:m".repeat(15_000), b"i0e".repeat(20_000), b"9".repeat(60_000)];
    for open in [true, false] {
        let victim = Victim::start(open).await;
        for bomb in &bombs {
            let mut stream = victim.greet(ENEMY).await;
            let message = Message::Extended { id: 0, payload: bomb.clone() };
            stream.write_all(&encoded(&[message])).await.unwrap();
            hung_up(&mut stream).await;
        }
        victim.closed(CloseReason::Malformed).await;
        victim.memory_is_bounded();
        victim.still_serves().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_floods_before_its_proof_takes_no_memory() {
    let victim = Victim::start(false).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(victim.greet(ENEMY).await);
    }
    let keep_alives = vec![0; 4 * 100_000];
    let floods = streams.into_iter().map(|mut stream| {
        let bytes = keep_alives.clone();
        tokio::spawn(async move { flood(&mut stream, &bytes).await })
    });
    let floods: Vec<_> = floods.collect();
    let mut most = 0;
    while !floods.iter().all(|flood| flood.is_finished()) {
        most = most.max(resident().saturating_sub(victim.memory_before));
        sleep(Duration::from_millis(20)).await;
    }
    println!("memory grew by {} KiB at most", most / 1024);
    assert!(most < FLOOD_MEMORY_MAX, "{} MiB for a flood", most / MIB);
    victim.still_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_talks_before_its_proof_is_dropped() {
    let victim = Victim::start(false).await;
    for message in [
        Message::Interested,
        Message::HaveAll,
        Message::Request(RawBlock { piece: 0, begin: 0, len: 16_384 }),
        Message::Extended { id: 1, payload: vec![0] },
        Message::Extended { id: 0, payload: b"d1:mdee".to_vec() },
    ] {
        let mut stream = victim.greet(ENEMY).await;
        stream.write_all(&encoded(&[message])).await.unwrap();
        hung_up(&mut stream).await;
    }
    victim.closed(CloseReason::NoProof).await;
    sleep(Duration::from_millis(400)).await;
    assert_eq!(victim.seed.stats().counts.closed[&CloseReason::NoProof], 5);
    assert_eq!(victim.seed.stats().uploaded, 0);
    victim.still_serves().await;
}

/// From one address: the others are not kept out at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_from_one_address_leave_room_for_others() {
    let victim = Victim::start(false).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(ENEMY, victim.seed.local_addr()).await.unwrap();
        // The first byte of a handshake, and never the second.
        let _ = stream.write_all(&[19]).await;
        idle.push(stream);
    }
    let before = Instant::now();
    victim.still_serves().await;
    println!("a good peer had the image {:?} later", before.elapsed());
    sleep(Duration::from_millis(400)).await;
    let refused = victim.seed.stats().counts.refused;
    assert!(refused.get(&Refusal::TooManyHandshakes) >= Some(&50), "{refused:?}");
    victim.memory_is_bounded();
}

/// From many addresses: the places are taken until the time for a handshake is over, and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_from_everywhere_are_timed_out() {
    let victim = Victim::start(false).await;
    let mut idle = Vec::new();
    for host in 0..200_u8 {
        let from = [127, 0, 9, host.wrapping_add(1)];
        idle.push(connect(from, victim.seed.local_addr()).await.unwrap());
    }
    victim.still_serves().await;
    victim.closed(CloseReason::HandshakeTimeout).await;
    victim.memory_is_bounded();
}

/// A leecher whose other peer chokes and unchokes it without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_chokes_neither_stops_nor_bloats_a_download() {
    let alone = ONE_AT_A_TIME.lock().await;
    let image = image(24 * MIB, 64 * 1024, None);
    let seed = Peer::start(PeerConfig { open: true, ..seed_config(&image) }).await.unwrap();
    let (config, store) = leecher_config(&image, &[seed.local_addr()]);
    let before = resident();
    let mut leecher = start(PeerConfig { open: true, ..config }, store).await;
    for (fast, from) in [(true, [127, 0, 0, 67]), (false, [127, 0, 0, 68])] {
        let mut stream = connect(from, leecher.peer.local_addr()).await.unwrap();
        let mut greeting = handshake(&image);
        greeting[27] = if fast { 4 } else { 0 };
        stream.write_all(&greeting).await.unwrap();
        let all = Message::Bitfield(vec![0xff; 48]);
        stream.write_all(&encoded(&[all])).await.unwrap();
        let chokes = encoded(&[Message::Choke, Message::Unchoke]).repeat(2000);
        tokio::spawn(async move { flood(&mut stream, &chokes).await });
    }
    leecher.completes(&image).await;
    let grown = resident().saturating_sub(before).saturating_sub(image.bytes.len());
    println!("memory grew by {} KiB beside the image", grown / 1024);
    assert!(grown < FLOOD_MEMORY_MAX, "{} MiB", grown / MIB);
    drop(alone);
}

/// Peers that ask for all they may and then read nothing: the others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_never_read_do_not_hold_up_the_others() {
    let victim = Victim::start(true).await;
    let requests: Vec<Message> = (0..200)
        .map(|number| {
            Message::Request(RawBlock { piece: number / 4, begin: number % 4 * 16_384, len: 16_384 })
        })
        .collect();
    let mut stuck = Vec::new();
    for host in 0..12 {
        let mut stream = victim.greet([127, 0, 0, 70 + host]).await;
        stream.write_all(&encoded(&requests)).await.unwrap();
        stuck.push(stream);
    }
    let before = Instant::now();
    victim.still_serves().await;
    println!("a good peer had the image {:?} later", before.elapsed());
    victim.memory_is_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_nobody_asked_for_end_the_connection() {
    let victim = Victim::start(true).await;
    let mut stream = victim.greet(ENEMY).await;
    let head = encoded(&[Message::Piece(RawBlock { piece: 0, begin: 0, len: 16_384 })]);
    flood(&mut stream, &[head, vec![0; 16_384]].concat()).await;
    victim.closed(CloseReason::UnaskedBlock).await;
    victim.still_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_the_limit_are_refused_and_counted() {
    let limits = Limits { peers_max: 8, ..Limits::default() };
    let victim = Victim::with(true, |config| PeerConfig { limits, ..config }).await;
    let mut streams = Vec::new();
    for host in 0..12 {
        streams.push(victim.greet([127, 0, 0, 80 + host]).await);
    }
    timeout(common::PATIENCE, async {
        while victim.seed.stats().counts.refused.get(&Refusal::TooManyPeers) < Some(&4) {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    drop(streams);
    victim.still_serves().await;
}

/// A server that gives every caller the same answer, for ever if it has no end.
async fn answering(answer: Vec<u8>, endless: bool) -> SocketAddr {
    let listener = TcpListener::bind(common::loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 2048];
                let _ = stream.read(&mut request).await;
                while stream.write_all(&answer).await.is_ok() && endless {}
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_from_the_tracker_stops_nothing() {
    let ok = |body: &[u8]| {
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    };
    let answers = [
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), false),
        (ok(&vec![b'l'; 100_000]), false),
        (ok(&b"d8:intervali99999999999999e5:peers6:abcdefe".repeat(2)), false),
        (ok(b"d8:intervali-1e5:peers0:e"), false),
        (ok(b"d8:intervali0e5:peersld2:ip4:evil4:porti1eeee"), false),
        (ok(&[b"d8:intervali1e5:peers60000:".to_vec(), vec![200; 60_000], b"e".to_vec()].concat()), false),
        (ok(b"d14:failure reason5:nevere"), false),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n".to_vec(), false),
        (b"HTTP/1.1 200 OK\r\nX: y".to_vec(), true),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_vec(), false),
    ];
    let victim = Victim::start(false).await;
    for (answer, endless) in answers {
        let tracker = answering(answer, endless).await;
        let (config, store) = leecher_config(&victim.image, &[victim.seed.local_addr()]);
        let announce_url = Some(format!("http://{tracker}/announce"));
        let mut leecher = start(PeerConfig { announce_url, ..config }, store).await;
        leecher.completes(&victim.image).await;
    }
    victim.memory_is_bounded();
}

/// A web seed that gives other bytes than the torrent's, too few, or none.
struct LyingWebSeed(Lie);

/// What it gives for so many bytes.
type Lie = fn(u64) -> io::Result<Vec<u8>>;

impl WebSeed for LyingWebSeed {
    fn fetch(&self, _: u64, len: u64) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send>> {
        let given = self.0(len);
        Box::pin(async move { given })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_seed_that_lies_is_found_out_and_a_peer_still_helps() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let image = image(2 * MIB, 64 * 1024, None);
    let lies: [Lie; 3] = [
        |len| Ok(vec![7; usize::try_from(len).unwrap()]),
        |len| Ok(vec![7; usize::try_from(len / 2).unwrap()]),
        |_| Err(io::ErrorKind::ConnectionRefused.into()),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let (config, store) = leecher_config(&image, &[]);
        let web_seed: Arc<dyn WebSeed> = Arc::new(LyingWebSeed(lie));
        let mut leecher = start(PeerConfig { web_seed: Some(web_seed), ..config }, store).await;
        if number == 0 {
            let corrupt = leecher.sees("a corrupt piece", |event| matches!(event, PeerEvent::Corrupt { .. }));
            let PeerEvent::Corrupt { from, .. } = corrupt.await else { unreachable!() };
            assert_eq!(from, [], "no peer is to blame");
        }
        let address = leecher.peer.local_addr();
        let seed = Peer::start(seed_config(&image)).await.unwrap();
        // A third, which knows both, passes the image on.
        let (config, store) = leecher_config(&image, &[address, seed.local_addr()]);
        let _between = start(config, store).await;
        leecher.completes(&image).await;
    }
}
