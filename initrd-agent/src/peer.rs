//! This node's face in the swarm: started with what the task and the image say, counted by who sent what.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use node_api::{TrafficCounts, paths};
use swarm_net::{Peer, PeerConfig, PeerEvent, PieceHashes, PieceSet, PieceStore, StartError, WebSeed};
use tokio::sync::mpsc;

use crate::api::{ImageRanges, Session};
use crate::image::Offer;
use crate::pieces::PieceCache;

/// A running peer with the pieces that it keeps.
pub(crate) struct SwarmPeer {
    peer: Peer,
    cache: Arc<PieceCache>,
    server: SocketAddr,
}

struct ServerRanges(ImageRanges);

impl WebSeed for ServerRanges {
    fn fetch(&self, offset: u64, len: u64) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<u8>>> + Send>> {
        self.0.read(offset, len)
    }
}

impl SwarmPeer {
    /// Joins the swarm of an image with no pieces yet.
    pub(crate) async fn start(
        offer: &Offer,
        session: &Session,
        cache: Arc<PieceCache>,
    ) -> Result<Self, StartError> {
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, paths::DEFAULT_PEER_PORT));
        Self::start_at(listen, offer, session, cache).await
    }

    /// As [`Self::start`], listening elsewhere.
    pub(crate) async fn start_at(
        listen: SocketAddr,
        offer: &Offer,
        session: &Session,
        cache: Arc<PieceCache>,
    ) -> Result<Self, StartError> {
        let manifest = &offer.image.manifest;
        let task = &offer.swarm;
        let ranges = ImageRanges::new(session.clone(), manifest.image_id.to_string());
        let store = Arc::clone(&cache) as Arc<dyn PieceStore>;
        let have = PieceSet::empty(manifest.piece_count);
        let config = PeerConfig {
            hashes: PieceHashes::Blake3(offer.piece_hashes.clone()),
            announce_url: Some(task.announce_url.clone()),
            first_peers: vec![task.server_peer],
            secret: Some(*task.secret.bytes()),
            open: task.open,
            web_seed: Some(Arc::new(ServerRanges(ranges))),
            first_pieces: toc_pieces(offer),
            container_pieces: container_pieces(offer),
            ..PeerConfig::new(offer.image.metainfo.clone(), store, have, listen)
        };
        let peer = Peer::start(config).await?;
        Ok(Self { peer, cache, server: task.server_peer })
    }

    /// What happens; to be taken once.
    pub(crate) fn events(&mut self) -> mpsc::Receiver<PeerEvent> {
        self.peer.events()
    }

    pub(crate) const fn cache(&self) -> &Arc<PieceCache> {
        &self.cache
    }

    /// Bytes by source, and connected peers.
    pub(crate) fn traffic(&self) -> (TrafficCounts, u32) {
        let stats = self.peer.stats();
        let (server, nodes) = split(&stats.downloaded_by_peer, self.server);
        let traffic = TrafficCounts {
            from_server_bytes: server + stats.web_seed_bytes,
            from_nodes_bytes: nodes,
            sent_bytes: stats.uploaded,
        };
        (traffic, u32::try_from(stats.peers).unwrap_or(u32::MAX))
    }

    /// Leaves the swarm and forgets the pieces.
    pub(crate) async fn leave(self) {
        self.peer.shutdown().await;
    }
}

/// Bytes from the server and from everybody else. The server is known by its address; when it connected to us
/// its port is any.
fn split(downloaded: &[(SocketAddr, u64)], server: SocketAddr) -> (u64, u64) {
    downloaded.iter().fold((0, 0), |(from_server, from_nodes), (peer, bytes)| {
        if peer.ip() == server.ip() {
            (from_server + bytes, from_nodes)
        } else {
            (from_server, from_nodes + bytes)
        }
    })
}

/// The pieces that hold the table of contents.
pub(crate) fn toc_pieces(offer: &Offer) -> Range<u32> {
    let manifest = &offer.image.manifest;
    let range = manifest.toc_range();
    let piece = |offset: u64| u32::try_from(offset / manifest.piece_size).unwrap_or(u32::MAX);
    piece(range.start)..piece(range.end.saturating_sub(1)).saturating_add(1)
}

fn container_pieces(offer: &Offer) -> u32 {
    let manifest = &offer.image.manifest;
    u32::try_from(manifest.container_bytes / manifest.piece_size).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_told_from_nodes_by_its_address() {
        let peers = [
            ("10.77.0.1:6881".parse().unwrap(), 5),
            ("10.77.0.1:40123".parse().unwrap(), 7),
            ("10.77.0.102:6881".parse().unwrap(), 11),
        ];
        assert_eq!(split(&peers, "10.77.0.1:6881".parse().unwrap()), (12, 11));
    }
}
