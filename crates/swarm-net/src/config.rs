//! What a peer is started with, and what it tells.

use crate::shards;
use crate::store::PieceStore;
use crate::web_seed::WebSeed;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use swarm::{ConfigError, Counts, GeometryError, HavePolicy, Limits, Metainfo, PieceSet, Secret};

/// Which hashes a piece is checked against.
#[derive(Clone, Debug)]
pub enum PieceHashes {
    /// The SHA-1 list of the metainfo.
    Sha1,
    /// BLAKE3-256 of each piece, from the image's signed manifest.
    Blake3(Vec<[u8; 32]>),
}

/// How to run a peer.
#[derive(Clone)]
pub struct PeerConfig {
    /// The torrent.
    pub metainfo: Metainfo,
    /// What its pieces are checked against.
    pub hashes: PieceHashes,
    /// Where its pieces lie.
    pub store: Arc<dyn PieceStore>,
    /// Pieces that lie there already and are known good.
    pub have: PieceSet,
    /// Where to accept peers; port 0 lets the system choose. Connections to others leave from this address,
    /// unless it is unspecified.
    pub listen: SocketAddr,
    /// The tracker: `http://IP:PORT/PATH`.
    pub announce_url: Option<String>,
    /// Peers to connect to without being told, for ever again: the server.
    pub first_peers: Vec<SocketAddr>,
    /// The deployment's swarm secret.
    pub secret: Option<[u8; 32]>,
    /// Whether peers that don't prove the secret take part.
    pub open: bool,
    /// Where to fetch pieces that no peer gives.
    pub web_seed: Option<Arc<dyn WebSeed>>,
    /// Pieces to get first: the image's table of contents.
    pub first_pieces: Range<u32>,
    /// Pieces of one container; 1 for files that have none.
    pub container_pieces: u32,
    /// When pieces are announced.
    pub have_policy: HavePolicy,
    /// Whether a complete peer reveals each piece to one other first. For the server.
    pub super_seed: bool,
    /// Threads that carry the network, 1 to 4. Default: half of the machine's cores.
    pub network_threads: usize,
    /// Bounds.
    pub limits: Limits,
}

impl PeerConfig {
    /// A peer with nothing yet, or, with `have` full, a seed: no tracker, no web seed, adaptive HAVE, default
    /// bounds, and super-seeding if it is a seed. Set `secret` or `open` before starting it.
    pub fn new(
        metainfo: Metainfo,
        store: Arc<dyn PieceStore>,
        have: PieceSet,
        listen: SocketAddr,
    ) -> PeerConfig {
        PeerConfig {
            super_seed: have.is_full(),
            metainfo,
            hashes: PieceHashes::Sha1,
            store,
            have,
            listen,
            announce_url: None,
            first_peers: Vec::new(),
            secret: None,
            open: false,
            web_seed: None,
            first_pieces: 0..0,
            container_pieces: 1,
            have_policy: HavePolicy::Adaptive,
            network_threads: shards::default_count(),
            limits: Limits::default(),
        }
    }

    pub(crate) fn secret(&self) -> Option<Secret> {
        self.secret.map(Secret)
    }
}

impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConfig")
            .field("torrent", &self.metainfo.info_hash)
            .field("have", &self.have.count())
            .field("listen", &self.listen)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// Why a peer can't start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address can't be listened on.
    #[error("listening for peers on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The metainfo's lengths are wrong.
    #[error("the torrent's lengths are wrong")]
    Geometry(#[from] GeometryError),
    /// The configuration contradicts itself.
    #[error("the peer's configuration is wrong")]
    Config(#[from] ConfigError),
    /// Not one hash per piece.
    #[error("{hashes} piece hashes do not fit {pieces} pieces")]
    Hashes {
        /// Hashes given.
        hashes: usize,
        /// Pieces of the torrent.
        pieces: usize,
    },
    /// The announce URL can't be used.
    #[error("the announce URL is not usable")]
    AnnounceUrl(#[source] crate::HttpError),
    /// No randomness, or no thread.
    #[error("the system refused what a peer needs")]
    System(#[source] io::Error),
}

/// What a running peer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// The piece is checked and stored.
    PieceVerified(u32),
    /// Every piece is.
    Complete,
    /// A piece was corrupt; these peers gave its blocks (none: the web seed did).
    Corrupt {
        /// Which piece.
        piece: u32,
        /// Who gave blocks of it.
        from: Vec<SocketAddr>,
    },
    /// A peer gave corrupt pieces repeatedly: raise an alarm, its node is broken.
    Banned {
        /// Its address.
        addr: SocketAddr,
    },
    /// A good piece could not be stored; it will be fetched again.
    NotStored {
        /// Which piece.
        piece: u32,
        /// What the store said.
        error: String,
    },
}

/// What a peer has done so far; a few times per second a new one is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Pieces of the torrent, and how many of them are verified.
    pub pieces: u32,
    /// See `pieces`.
    pub verified: u32,
    /// Bytes still missing.
    pub left: u64,
    /// Bytes that each peer gave us, by its address, also of those gone.
    pub downloaded_by_peer: Vec<(SocketAddr, u64)>,
    /// Bytes of blocks that peers gave us.
    pub downloaded: u64,
    /// Bytes of blocks that we gave peers.
    pub uploaded: u64,
    /// Bytes that came from the web seed.
    pub web_seed_bytes: u64,
    /// Peers whose handshake is done.
    pub peers: usize,
    /// HAVE and `es_have` messages sent.
    pub have_messages: u64,
    /// Everything that the engine counts: ended connections by reason, corrupt pieces, redundant bytes.
    pub counts: Counts,
    /// Whether this seed still reveals pieces one by one.
    pub revealing: bool,
    /// Why the last announce failed; `None` after one that was answered.
    pub tracker_error: Option<String>,
    /// Why the last fetch from the web seed failed; `None` after one that brought its piece.
    pub web_seed_error: Option<String>,
}
