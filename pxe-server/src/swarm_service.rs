//! The server's part in the swarm: the tracker, and one seed for each image that is being deployed.
//!
//! Never serves a piece to a peer that does not prove the deployment's secret, unless the site opens its swarm.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use axum::Router;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use node_api::paths;
use serde::{Deserialize, Serialize};
use swarm::AnnounceEvent;
use swarm_net::{
    Admission, AnnounceRequest, Clock, FileStore, InfoHash, Limits, Metainfo, Peer, PeerConfig, PeerEvent,
    PieceHashes, PieceSet, Racks, Tracker, TrackerConfig,
};

use crate::api::{ApiError, blocking};
use crate::deployments::Deployment;
use crate::images::Image;
use crate::keys::random;
use crate::nodes::Nodes;

/// Every node dials the server first, so a rack that starts at once is this many connections; each holds at most
/// 256 KiB of buffer.
pub(crate) const SEED_PEERS_MAX: usize = 1024;
/// A flash crowd's handshakes; one address may have a quarter of them.
pub(crate) const SEED_HANDSHAKES_MAX: usize = 256;

/// A seed's name in its own tracker; nobody sees it.
const SEED_PEER_ID: [u8; 20] = *b"-ES0100-theseeditsel";

/// Tracker and seeds.
pub(crate) struct SwarmService {
    clock: Clock,
    tracker: Mutex<Tracker>,
    /// By image id.
    seeds: tokio::sync::Mutex<BTreeMap<String, Seed>>,
    first_port: u16,
    /// Whether peers take part that don't prove a secret.
    open: bool,
    nodes: Arc<Nodes>,
}

struct Seed {
    deployment: String,
    image: Arc<Image>,
    peer: Peer,
}

/// One seed, for the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeedView {
    /// Name of the image.
    pub(crate) image: String,
    /// Whose secret it asks for.
    pub(crate) deployment: String,
    /// Connected peers.
    pub(crate) peers: usize,
    /// Sent to peers, bytes.
    pub(crate) uploaded_bytes: u64,
    /// Members that the tracker knows to have every piece.
    pub(crate) complete: usize,
    /// Members that the tracker knows to lack pieces.
    pub(crate) incomplete: usize,
    /// Connections that were ended, by reason.
    #[serde(default)]
    pub(crate) closed: BTreeMap<String, u64>,
    /// Connections that were refused before their handshake, by reason.
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, u64>,
}

impl SwarmService {
    /// A tracker of no torrents for nodes that are approved, or, if `open`, for everybody. The seed of the image number n listens on
    /// `first_port` + n.
    pub(crate) fn new(nodes: Arc<Nodes>, first_port: u16, open: bool) -> Result<Self> {
        let known = Arc::clone(&nodes);
        let admission = if open {
            Admission::Open
        } else {
            Admission::Known(Box::new(move |address| known.is_approved_address(address)))
        };
        Ok(Self {
            clock: Clock::start(),
            tracker: Mutex::new(Tracker::new(TrackerConfig {
                racks: Racks::Known(Box::new(rack_of)),
                ..TrackerConfig::new(admission, random()?)
            })),
            seeds: tokio::sync::Mutex::default(),
            first_port,
            open,
            nodes,
        })
    }

    /// `/announce` and `/torrents/...`, for the plain HTTP port.
    pub(crate) fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route(paths::ANNOUNCE, get(announce))
            .route("/torrents/{name}", get(torrent))
            .with_state(Arc::clone(self))
    }

    /// Seeds `image` for `deployment` on `address`; the port. A seed of an earlier deployment ends.
    pub(crate) async fn seed(
        &self,
        image: &Arc<Image>,
        deployment: &Deployment,
        address: Ipv4Addr,
    ) -> Result<u16> {
        let mut seeds = self.seeds.lock().await;
        if let Some(seed) = seeds.get(&image.id).filter(|seed| seed.deployment == deployment.name) {
            return Ok(seed.peer.local_addr().port());
        }
        if let Some(old) = seeds.remove(&image.id) {
            old.peer.shutdown().await;
        }
        let port = self
            .first_port
            .checked_add(image.number)
            .context("there is no port left for the image's seed")?;
        let config = seed_config(image, deployment, SocketAddr::from((address, port)))?;
        let config = PeerConfig { open: self.open, ..config };
        let mut peer = Peer::start(config).await.map_err(anyhow::Error::new).with_context(|| {
            format!("seeding {} on port {port}; server.peer_port sets another", image.name)
        })?;
        tokio::spawn(report_broken_peers(peer.events(), Arc::clone(&self.nodes)));
        let listens = SocketAddr::from((address, port));
        self.lock_tracker().add_seed(self.clock.now(), image.metainfo.info_hash, listens);
        tracing::info!(image = image.name, deployment = deployment.name, "seeding on port {port}");
        let seed = Seed { deployment: deployment.name.clone(), image: Arc::clone(image), peer };
        seeds.insert(image.id.clone(), seed);
        Ok(port)
    }

    /// Ends the seeds of a deployment that is done: of its image and of delta images that lead to it.
    pub(crate) async fn stop_seeds(&self, deployment: &Deployment) {
        let mut seeds = self.seeds.lock().await;
        let done: Vec<String> = seeds
            .iter()
            .filter(|(_, seed)| seed.deployment == deployment.name)
            .map(|(id, _)| id.clone())
            .collect();
        for id in done {
            if let Some(seed) = seeds.remove(&id) {
                self.lock_tracker().remove_torrent(seed.image.metainfo.info_hash);
                seed.peer.shutdown().await;
            }
        }
    }

    /// Keeps the seeds of an open swarm among the tracker's members, because strangers know no other way to them.
    /// Nodes have their address in their task.
    pub(crate) async fn announce_seeds(&self) {
        if !self.open {
            return;
        }
        for seed in self.seeds.lock().await.values() {
            let request = seed_announcement(seed.image.metainfo.info_hash, seed.peer.local_addr());
            self.lock_tracker().announce(self.clock.now(), &request);
        }
    }

    /// Ends every seed.
    pub(crate) async fn shutdown(&self) {
        for (_, seed) in std::mem::take(&mut *self.seeds.lock().await) {
            seed.peer.shutdown().await;
        }
    }

    /// What the seeds do.
    pub(crate) async fn views(&self) -> Vec<SeedView> {
        let seeds = self.seeds.lock().await;
        let view = |seed: &Seed| {
            let stats = seed.peer.stats();
            let (complete, incomplete) = self.lock_tracker().members(seed.image.metainfo.info_hash);
            SeedView {
                image: seed.image.name.clone(),
                deployment: seed.deployment.clone(),
                peers: stats.peers,
                uploaded_bytes: stats.uploaded,
                complete,
                incomplete,
                closed: stats.closed_by_reason(),
                refused: stats.refused_by_reason(),
            }
        };
        seeds.values().map(view).collect()
    }

    /// A panic elsewhere leaves the tracker with a member too many or too few, which the next announce mends.
    fn lock_tracker(&self) -> std::sync::MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until the member view knows better, a rack is a network of 256 addresses, the usual size behind a relay. In a
/// larger network of one link it is no rack, and does no harm: a third of the graph crosses its border.
fn rack_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(address) => Some(address.to_bits() >> 8),
        IpAddr::V6(_) => None,
    }
}

/// How a seed stays a member of its own tracker; over the network it would need a route to its own address.
pub(crate) fn seed_announcement(info_hash: InfoHash, address: SocketAddr) -> AnnounceRequest {
    AnnounceRequest {
        info_hash,
        peer_id: SEED_PEER_ID,
        address,
        left: 0,
        downloaded: 0,
        uploaded: 0,
        event: AnnounceEvent::None,
        wanted: 0,
    }
}

fn seed_config(image: &Image, deployment: &Deployment, listen: SocketAddr) -> Result<PeerConfig> {
    let file = File::open(&image.path).with_context(|| format!("opening {}", image.path.display()))?;
    let store = Arc::new(FileStore::new(file, image.metainfo.piece_length));
    let have = PieceSet::full(image.manifest.piece_count);
    let piece_size = image.manifest.piece_size.max(1);
    let piece_of =
        |offset: u64| u32::try_from(offset / piece_size).map_err(|_| anyhow!("the image is too large"));
    let toc = image.manifest.toc_range();
    Ok(PeerConfig {
        hashes: PieceHashes::Blake3(image.piece_hashes.clone()),
        secret: Some(*deployment.secret.bytes()),
        first_pieces: piece_of(toc.start)?
            ..piece_of(toc.end)?.saturating_add(1).min(image.manifest.piece_count),
        container_pieces: piece_of(image.manifest.container_bytes)?.max(1),
        limits: Limits {
            peers_max: SEED_PEERS_MAX,
            handshakes_max: SEED_HANDSHAKES_MAX,
            ..Limits::default()
        },
        ..PeerConfig::new(image.metainfo.clone(), store, have, listen)
    })
}

/// A node that sends damaged pieces has damaged memory or worse: somebody should know.
async fn report_broken_peers(mut events: tokio::sync::mpsc::Receiver<PeerEvent>, nodes: Arc<Nodes>) {
    while let Some(event) = events.recv().await {
        let PeerEvent::Banned { addr } = event else { continue };
        let nodes = Arc::clone(&nodes);
        let accused =
            blocking(move || nodes.accuse(addr.ip(), "the server")).await.and_then(|accused| accused);
        if let Err(error) = accused {
            tracing::warn!(peer = %addr, "recording that a peer gives damaged pieces: {error:#}");
        }
    }
}

/// `/torrents/NAME.torrent`, for stock clients; only of an open swarm.
async fn torrent(
    State(swarm): State<Arc<SwarmService>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let not_there = || ApiError::not_found("such torrent");
    let name = name.strip_suffix(".torrent").filter(|_| swarm.open).ok_or_else(not_there)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).ok_or_else(not_there)?;
    let seeds = swarm.seeds.lock().await;
    let seed = seeds.values().find(|seed| seed.image.metainfo.name == name).ok_or_else(not_there)?;
    let announce = format!("http://{host}{}", paths::ANNOUNCE);
    let torrent = Metainfo::with_sources(&seed.image.metainfo_bytes, Some(&announce), &[]);
    let torrent = torrent.map_err(|error| ApiError::internal(&error.into()))?;
    Ok(([(header::CONTENT_TYPE, "application/x-bittorrent")], torrent).into_response())
}

async fn announce(
    State(swarm): State<Arc<SwarmService>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
) -> Response {
    let now = swarm.clock.now();
    let body = swarm.lock_tracker().handle_query(now, from.ip(), &query.unwrap_or_default());
    ([(header::CONTENT_TYPE, "text/plain")], body).into_response()
}
