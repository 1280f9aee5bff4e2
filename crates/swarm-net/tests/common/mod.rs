//! What the loopback stories share: an image, peers on 127.0.0.1, an HTTP tracker.

use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use swarm_net::{
    Admission, Clock, MemoryStore, Metainfo, Peer, PeerConfig, PeerEvent, PieceSet, PieceStore, Tracker,
    TrackerConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

pub(crate) const SECRET: [u8; 32] = [7; 32];

/// Longest time that any story may take; a slow machine must not make it fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) metainfo: Metainfo,
    pub(crate) torrent: Vec<u8>,
}

/// Bytes that no two pieces share, and their torrent.
pub(crate) fn image(length: usize, piece_bytes: u32, announce: Option<&str>) -> Image {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    let hashes: Vec<[u8; 20]> =
        bytes.chunks(piece_bytes as usize).map(|piece| Sha1::digest(piece).into()).collect();
    let torrent =
        Metainfo::encode_single_file("image.esir", length as u64, piece_bytes, &hashes, announce).unwrap();
    Image { metainfo: Metainfo::parse(&torrent).unwrap(), bytes, torrent }
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn seed_config(image: &Image) -> PeerConfig {
    let store = Arc::new(MemoryStore::holding(&image.bytes, image.metainfo.piece_length));
    let have = PieceSet::full(u32::try_from(image.metainfo.pieces.len()).unwrap());
    let config = PeerConfig::new(image.metainfo.clone(), store, have, loopback());
    PeerConfig { secret: Some(SECRET), ..config }
}

pub(crate) struct Leecher {
    pub(crate) peer: Peer,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) events: tokio::sync::mpsc::Receiver<PeerEvent>,
}

pub(crate) fn leecher_config(image: &Image, first_peers: &[SocketAddr]) -> (PeerConfig, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new());
    let have = PieceSet::empty(u32::try_from(image.metainfo.pieces.len()).unwrap());
    let config =
        PeerConfig::new(image.metainfo.clone(), store.clone() as Arc<dyn PieceStore>, have, loopback());
    (PeerConfig { secret: Some(SECRET), first_peers: first_peers.to_vec(), ..config }, store)
}

pub(crate) async fn start_leecher(image: &Image, first_peers: &[SocketAddr]) -> Leecher {
    let (config, store) = leecher_config(image, first_peers);
    start(config, store).await
}

pub(crate) async fn start(config: PeerConfig, store: Arc<MemoryStore>) -> Leecher {
    let mut peer = Peer::start(config).await.unwrap();
    let events = peer.events();
    Leecher { peer, store, events }
}

impl Leecher {
    /// Waits for the event that `wanted` picks; all others are passed over.
    pub(crate) async fn sees(&mut self, what: &str, wanted: impl Fn(&PeerEvent) -> bool) -> PeerEvent {
        let seen = timeout(PATIENCE, async {
            loop {
                let event = self.events.recv().await.expect("the peer ended");
                if wanted(&event) {
                    return event;
                }
            }
        });
        seen.await.unwrap_or_else(|_| panic!("never saw {what}: {:?}", self.peer.stats()))
    }

    pub(crate) async fn completes(&mut self, image: &Image) {
        self.sees("completion", |event| *event == PeerEvent::Complete).await;
        assert!(self.store.contents() == image.bytes, "another image came out");
    }
}

/// An HTTP tracker on loopback; gives its announce URL.
pub(crate) async fn tracker(image_hash: swarm_net::InfoHash) -> (String, Arc<Mutex<Tracker>>) {
    tracker_at(loopback(), image_hash).await
}

/// An HTTP tracker at this address.
pub(crate) async fn tracker_at(
    address: SocketAddr,
    image_hash: swarm_net::InfoHash,
) -> (String, Arc<Mutex<Tracker>>) {
    let mut tracker = Tracker::new(TrackerConfig::new(Admission::Open, [3; 32]));
    tracker.add_torrent(image_hash);
    let tracker = Arc::new(Mutex::new(tracker));
    let listener = TcpListener::bind(address).await.unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    let (clock, state) = (Clock::start(), tracker.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, from)) = listener.accept().await {
            let mut request = [0; 4096];
            let Ok(length) = stream.read(&mut request).await else { continue };
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let query = text
                .split(' ')
                .nth(1)
                .and_then(|target| target.split_once('?'))
                .map_or("", |(_, query)| query);
            let body = state.lock().unwrap().handle_query(clock.now(), from.ip(), query);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
        }
    });
    (url, tracker)
}
