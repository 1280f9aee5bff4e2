//! What goes into the engine and what comes out of it.

use super::have::HavePolicy;
use crate::geometry::{Block, Geometry, PieceIndex};
use crate::metainfo::InfoHash;
use crate::piece_set::PieceSet;
use crate::secret::{Secret, Side};
use crate::wire::{Handshake, Message, PeerId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

/// Names one connection for as long as it lives; never used again after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(u64);

impl PeerKey {
    pub(crate) fn from_number(number: u64) -> PeerKey {
        PeerKey(number)
    }
}

/// Bounds of one engine. The defaults suit a node; a server raises `peers_max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at once. Default 64: graph degree 12 with room for neighbours that the tracker renews.
    pub peers_max: usize,
    /// Most connections whose handshake or proof is not done. Default 32: the accept queue of a flash crowd.
    pub handshakes_max: usize,
    /// Most connections from one address. Default 16; several peers share an address only in tests.
    pub peers_per_address_max: usize,
    /// Most bytes of pieces that are arriving or being checked. Default 64 MiB, for nodes of 512 MiB.
    pub buffer_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { peers_max: 64, handshakes_max: 32, peers_per_address_max: 16, buffer_bytes_max: 64 << 20 }
    }
}

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Its lengths.
    pub geometry: Geometry,
    /// Our name in this run.
    pub peer_id: PeerId,
    /// Where all chance and all nonces come from: of the operating system in a program.
    pub seed: [u8; 32],
    /// Pieces that are verified and stored already; all of them for a seed.
    pub have: PieceSet,
    /// The deployment's secret, if peers have to prove it.
    pub secret: Option<Secret>,
    /// Whether peers without the secret are served too.
    pub open: bool,
    /// Whether to reveal each piece to one peer at first, so that the peers exchange the rest. Seeds only.
    pub super_seed: bool,
    /// Pieces to get before all others: the image's table of contents.
    pub first_pieces: Range<u32>,
    /// Pieces of one container, which are best finished together; 1 for files that have none.
    pub container_pieces: u32,
    /// When to announce pieces.
    pub have_policy: HavePolicy,
    /// The port that we accept peers on, if any.
    pub listen_port: Option<u16>,
    /// Peers to connect to without a tracker, and again for ever: the server.
    pub first_peers: Vec<SocketAddr>,
    /// Whether the driver can announce to a tracker.
    pub has_tracker: bool,
    /// Whether the driver can fetch pieces over HTTP.
    pub has_web_seed: bool,
    /// Bounds.
    pub limits: Limits,
}

/// Why a configuration can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The set of pieces is that of another torrent.
    #[error("the set of pieces at hand is not of this torrent")]
    WrongSet,
    /// Neither secret nor open: no peer could ever be served.
    #[error("a swarm needs a secret unless it is open")]
    NoSecret,
    /// Both super-seeding and incomplete.
    #[error("only a complete peer can super-seed")]
    IncompleteSuperSeed,
}

impl SwarmConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.have.pieces() != self.geometry.pieces() {
            return Err(ConfigError::WrongSet);
        }
        if self.secret.is_none() && !self.open {
            return Err(ConfigError::NoSecret);
        }
        if self.super_seed && !self.have.is_full() {
            return Err(ConfigError::IncompleteSuperSeed);
        }
        Ok(())
    }

    /// At least two pieces, whatever their length: one arriving while one is checked.
    pub(crate) fn pieces_in_memory_max(&self) -> u32 {
        let fitting = self.limits.buffer_bytes_max / u64::from(self.geometry.piece_bytes());
        u32::try_from(fitting).unwrap_or(u32::MAX).clamp(2, 1024)
    }

    /// While so many pieces wait for their hash or to be stored, none is begun: their bytes would only wait, and
    /// what waits long has left the processor's cache.
    pub(crate) fn pieces_checking_max(&self) -> u32 {
        let fitting = CHECKING_BYTES / u64::from(self.geometry.piece_bytes());
        u32::try_from(fitting).unwrap_or(u32::MAX).max(CHECKING_PIECES_MIN)
    }
}

/// Some milliseconds of hashing. (Eight peers on two processors, links without a rate: a quarter less processor time
/// than with all of `buffer_bytes_max` waiting.)
const CHECKING_BYTES: u64 = 8 << 20;

/// One for each hashing thread.
const CHECKING_PIECES_MIN: u32 = 4;

/// What the driver has to do. The driver matches all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to this address; answer with `handle_connected` or `handle_connect_failed`.
    Connect {
        /// Where to.
        address: SocketAddr,
    },
    /// Send our 68 bytes.
    Handshake {
        /// To whom.
        to: PeerKey,
        /// What.
        handshake: Handshake,
    },
    /// Send a message that carries no block.
    Send {
        /// To whom.
        to: PeerKey,
        /// What.
        message: Message,
    },
    /// Read a block from the store and send it as a `Piece` message; `handle_unreadable` if that fails.
    SendBlock {
        /// To whom.
        to: PeerKey,
        /// Which; its piece is verified.
        block: Block,
    },
    /// Close the connection; the engine has forgotten it.
    Close {
        /// Whose.
        peer: PeerKey,
        /// Why, for the log.
        reason: CloseReason,
    },
    /// All blocks of the piece are here: check its hash, store it, answer with `handle_checked`.
    Check {
        /// Which.
        piece: PieceIndex,
    },
    /// Forget the blocks of this piece that are here.
    Discard {
        /// Which.
        piece: PieceIndex,
    },
    /// Fetch the piece over HTTP; answer with `handle_fetched`.
    FetchWeb {
        /// Which.
        piece: PieceIndex,
    },
    /// Announce to the tracker; answer with `handle_announced`.
    Announce {
        /// What the tracker must know.
        event: AnnounceEvent,
        /// Bytes still missing.
        left: u64,
    },
    /// Tell whoever runs this peer.
    Tell(Event),
}

/// The `event` of an announce (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceEvent {
    /// First announce.
    Started,
    /// We have just become complete.
    Completed,
    /// We leave.
    Stopped,
    /// A regular one.
    None,
}

/// What is worth telling outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The piece is checked and stored.
    PieceVerified(PieceIndex),
    /// Every piece is.
    Complete,
    /// A piece was corrupt; these peers gave its blocks (none: the web seed did).
    Corrupt {
        /// Which piece.
        piece: PieceIndex,
        /// Who gave blocks of it.
        from: Vec<SocketAddr>,
    },
    /// A peer gave corrupt pieces alone, repeatedly: broken memory or a broken disk. It is shut out for a time.
    Banned {
        /// The peer's address.
        address: SocketAddr,
    },
    /// A good piece could not be stored; it will be tried again.
    NotStored(PieceIndex),
}

/// What became of a checked piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Its hash is right and it is stored: it can be served.
    Stored,
    /// Its hash is wrong.
    Corrupt,
    /// Its hash is right, but it could not be stored.
    NotStored,
}

/// Whether the driver keeps a block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockVerdict {
    /// Keep them until [`Action::Check`] or [`Action::Discard`] names the piece.
    Keep(Block),
    /// Drop them.
    Drop,
}

/// Why a connection was refused before its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Shut out for corrupt pieces.
    #[error("the address is banned")]
    Banned,
    /// [`Limits::peers_max`].
    #[error("too many peers")]
    TooManyPeers,
    /// [`Limits::handshakes_max`].
    #[error("too many handshakes under way")]
    TooManyHandshakes,
    /// [`Limits::peers_per_address_max`].
    #[error("too many peers from this address")]
    TooManyFromAddress,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum CloseReason {
    /// The peer or the network ended it.
    #[error("the connection was lost")]
    Lost,
    /// Not BitTorrent, or a message that breaks its rules.
    #[error("it sent a malformed message")]
    Malformed,
    /// Another torrent.
    #[error("it asked for another torrent")]
    WrongTorrent,
    /// We connected to ourselves.
    #[error("it is ourselves")]
    SelfConnection,
    /// There is a better connection to the same peer.
    #[error("it is connected already")]
    Duplicate,
    /// It doesn't prove the swarm secret.
    #[error("it did not prove the swarm secret")]
    NoProof,
    /// Its proof is wrong.
    #[error("its proof of the swarm secret is wrong")]
    WrongProof,
    /// Handshake or proof took too long.
    #[error("its handshake took too long")]
    HandshakeTimeout,
    /// Nothing came for too long.
    #[error("it was silent for too long")]
    Silent,
    /// A block that we didn't ask for.
    #[error("it sent a block that was not asked for")]
    UnaskedBlock,
    /// More requests than we said we queue.
    #[error("it sent too many requests")]
    TooManyRequests,
    /// It doesn't read what we send.
    #[error("it does not read what it is sent")]
    SlowReader,
    /// Corrupt pieces.
    #[error("it is banned for corrupt pieces")]
    Banned,
    /// Both sides have everything.
    #[error("both sides are complete")]
    BothComplete,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of blocks that peers gave us and we could use.
    pub downloaded_bytes: u64,
    /// Bytes of blocks that we asked for twice, or got too late.
    pub redundant_bytes: u64,
    /// Bytes of blocks given to the driver to send.
    pub uploaded_bytes: u64,
    /// Bytes of pieces that came from the web seed.
    pub web_seed_bytes: u64,
    /// HAVE (id 4) and `es_have` messages sent.
    pub have_messages: u64,
    /// Their bytes.
    pub have_bytes: u64,
    /// Pieces whose hash was wrong.
    pub corrupt_pieces: u64,
    /// Connections ended, by reason.
    pub closed: BTreeMap<CloseReason, u64>,
    /// Connections refused, by reason.
    pub refused: BTreeMap<Refusal, u64>,
}

/// A connected peer as others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its connection.
    pub key: PeerKey,
    /// Where it is; the port is the one it accepts peers on, if that is known.
    pub address: SocketAddr,
    /// Who opened the connection.
    pub side: Side,
    /// Whether handshake and proof are done.
    pub active: bool,
    /// How many pieces it has.
    pub pieces: u32,
    /// Bytes of blocks that it gave us.
    pub downloaded_bytes: u64,
    /// Bytes of blocks that we gave it.
    pub uploaded_bytes: u64,
    /// Bytes per second that it gives us now.
    pub download_rate: u64,
}
