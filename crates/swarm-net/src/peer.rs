//! Starting and stopping a peer.

use crate::checker::Checker;
use crate::clock::Clock;
use crate::config::{PeerConfig, PeerEvent, PeerStats, PieceHashes, StartError};
use crate::connection::Context;
use crate::driver::{Driver, INPUTS, Parts};
use crate::http::Url;
use crate::shards::{Shards, start_thread};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use swarm::wire::{Decoder, PeerId};
use swarm::{Chance, Geometry, Swarm, SwarmConfig};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

/// Connections that wait to be accepted: a flash crowd of a thousand nodes.
const BACKLOG: i32 = 1024;

/// Room for events beside one per piece.
const EVENTS: usize = 1024;

/// A running peer. Dropping it ends its connections a moment later; [`Peer::shutdown`] also tells the tracker.
#[derive(Debug)]
pub struct Peer {
    local: SocketAddr,
    events: Option<mpsc::Receiver<PeerEvent>>,
    stats: watch::Receiver<PeerStats>,
    stop: Option<oneshot::Sender<()>>,
    /// Its sender is dropped when the driver has ended.
    ended: oneshot::Receiver<()>,
}

impl Peer {
    /// Starts a peer. Engine, connections and hashing run on threads of their own; fetches of the web seed on the
    /// current tokio runtime. When this returns, the peer listens.
    pub async fn start(config: PeerConfig) -> Result<Peer, StartError> {
        let geometry = config.metainfo.geometry()?;
        check_hashes(&config)?;
        let announce_url = config.announce_url.as_deref().map(Url::parse).transpose();
        let announce_url = announce_url.map_err(StartError::AnnounceUrl)?;
        let listener =
            listen(config.listen).map_err(|source| StartError::Listen { address: config.listen, source })?;
        let local = listener.local_addr().map_err(StartError::System)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| StartError::System(io::Error::other(error)))?;
        let peer_id = peer_id(&mut Chance::new(seed));
        let clock = Clock::start();
        let engine = Swarm::new(clock.now(), engine_config(&config, geometry, local, peer_id, seed))?;
        let (input, inputs) = mpsc::channel(INPUTS);
        let checker = Checker::start(&config.metainfo, config.hashes, &config.store, &input);
        let checker = checker.map_err(StartError::System)?;
        let (events_in, events) = mpsc::channel(geometry.pieces() as usize + EVENTS);
        let (stats_in, stats) = watch::channel(PeerStats::default());
        let (stop, stopped) = oneshot::channel();
        let (running, ended) = oneshot::channel::<()>();
        let parts = Parts {
            engine,
            clock,
            geometry,
            info_hash: config.metainfo.info_hash,
            peer_id,
            local,
            context: Context::new(
                Decoder::new(geometry.pieces()),
                config.store,
                config.limits.buffer_bytes_max,
                input,
            ),
            inputs,
            checker,
            shards: Shards::start(config.network_threads).map_err(StartError::System)?,
            outside: Handle::current(),
            announce_url,
            web_seed: config.web_seed,
            events: events_in,
            stats: stats_in,
        };
        let body = move |runtime: &Runtime| {
            runtime.block_on(Driver::new(parts).run(stopped, listener));
            drop(running);
        };
        start_thread(0, body).map_err(StartError::System)?;
        Ok(Peer { local, events: Some(events), stats, stop: Some(stop), ended })
    }

    /// Where this peer accepts others.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What the peer tells. It keeps room for one event per piece and some; a second call gives a channel that
    /// is closed.
    pub fn events(&mut self) -> mpsc::Receiver<PeerEvent> {
        self.events.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// What it has done, at most 0.3 s ago.
    pub fn stats(&self) -> PeerStats {
        self.stats.borrow().clone()
    }

    /// Stops the peer: tells the tracker (for a second at most), ends all connections. What it did in all.
    pub async fn shutdown(mut self) -> PeerStats {
        if let Some(stop) = self.stop.take() {
            // An error means that the driver has ended already.
            let _ = stop.send(());
        }
        let _ = (&mut self.ended).await;
        self.stats()
    }
}

fn check_hashes(config: &PeerConfig) -> Result<(), StartError> {
    let pieces = config.metainfo.pieces.len();
    match &config.hashes {
        PieceHashes::Blake3(hashes) if hashes.len() != pieces => {
            Err(StartError::Hashes { hashes: hashes.len(), pieces })
        }
        PieceHashes::Blake3(_) | PieceHashes::Sha1 => Ok(()),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A server that was killed must get its port back at once.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn peer_id(chance: &mut Chance) -> PeerId {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut id = *b"-ES0100-............";
    for letter in id.iter_mut().skip(8) {
        *letter = LETTERS.get(chance.below(LETTERS.len())).copied().unwrap_or(b'0');
    }
    id
}

fn engine_config(
    config: &PeerConfig,
    geometry: Geometry,
    local: SocketAddr,
    peer_id: PeerId,
    seed: [u8; 32],
) -> SwarmConfig {
    SwarmConfig {
        info_hash: config.metainfo.info_hash,
        geometry,
        peer_id,
        seed,
        have: config.have.clone(),
        secret: config.secret(),
        open: config.open,
        super_seed: config.super_seed,
        first_pieces: config.first_pieces.clone(),
        container_pieces: config.container_pieces,
        have_policy: config.have_policy,
        listen_port: Some(local.port()),
        first_peers: config.first_peers.clone(),
        has_tracker: config.announce_url.is_some(),
        has_web_seed: config.web_seed.is_some(),
        limits: config.limits.clone(),
    }
}
