//! The BitTorrent half of a node: a real peer with what a task says.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use node_api::Task;
use swarm_net::{MemoryStore, Metainfo, Peer, PeerConfig, PeerEvent, PieceSet};

const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// A peer that has nothing yet; with `secret`, one that was not told the deployment's.
pub(crate) async fn start(task: &Task, secret: Option<[u8; 32]>) -> (Peer, Arc<MemoryStore>) {
    let metainfo = Metainfo::parse(&BASE64.decode(&task.image.metainfo_base64).unwrap()).unwrap();
    let store = Arc::new(MemoryStore::new());
    let have = PieceSet::empty(metainfo.pieces.len() as u32);
    let config = PeerConfig {
        announce_url: Some(task.swarm.announce_url.clone()),
        first_peers: vec![task.swarm.server_peer],
        secret: Some(secret.unwrap_or(*task.swarm.secret.bytes())),
        ..PeerConfig::new(metainfo, Arc::clone(&store) as _, have, "127.0.0.1:0".parse().unwrap())
    };
    (Peer::start(config).await.unwrap(), store)
}

/// Waits until the peer has everything; what it has.
pub(crate) async fn complete(mut peer: Peer, store: &MemoryStore) -> Vec<u8> {
    let mut events = peer.events();
    let complete = async { while !matches!(events.recv().await, Some(PeerEvent::Complete) | None) {} };
    tokio::time::timeout(FETCH_TIMEOUT, complete).await.expect("the peer completes");
    store.contents()
}
