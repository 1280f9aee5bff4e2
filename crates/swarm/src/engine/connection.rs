//! One connection's state.

use super::types::{PeerKey, PeerView};
use super::upkeep::Culprit;
use crate::extension::{ExtensionHandshake, Nonce};
use crate::geometry::{Block, PieceIndex};
use crate::moment::{Moment, RateMeter};
use crate::piece_set::PieceSet;
use crate::secret::Side;
use crate::wire::PeerId;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Requests that we queue for one peer; told to it as `reqq`.
pub(crate) const REQUESTS_QUEUED_MAX: usize = 250;

/// Requests outstanding at a peer that doesn't tell its `reqq` (libtorrent's and rqbit's default is 250).
pub(crate) const REQUESTS_UNTOLD: usize = 250;

/// Blocks whose late arrival is forgiven after we gave them up.
pub(crate) const FORGOTTEN_MAX: usize = 1024;

/// Rejected requests of one piece after which a peer that does not choke us is taken to lack it. QUIRK(transmission):
/// it leaves a request lie now and then, rejects it 10 s later, and serves it when it is asked again.
const REJECTIONS_MAX: u32 = 3;

/// What both sides know before blocks may flow.
#[derive(Debug)]
pub(crate) enum Standing {
    /// The peer's handshake has not come.
    Greeting,
    /// The handshake was right; the peer has to prove the swarm secret.
    Proving(Proving),
    /// Messages flow.
    Active(Box<Active>),
}

#[derive(Debug)]
pub(crate) struct Proving {
    pub(crate) fast: bool,
    pub(crate) our_nonce: Nonce,
    /// The BEP 10 handshake of the peer, which brings its nonce.
    pub(crate) theirs: Option<ExtensionHandshake>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    /// The port that the peer accepts connections on, when it told us.
    pub(crate) listen_port: Option<u16>,
    pub(crate) side: Side,
    pub(crate) peer_id: Option<PeerId>,
    pub(crate) standing: Standing,
    /// Wire bytes given to the driver and not yet reported as sent.
    pub(crate) unsent_bytes: u64,
    pub(crate) since: Moment,
    pub(crate) last_heard: Moment,
    pub(crate) last_sent: Moment,
}

impl Connection {
    pub(crate) fn new(now: Moment, address: SocketAddr, side: Side) -> Connection {
        Connection {
            address,
            listen_port: None,
            side,
            peer_id: None,
            standing: Standing::Greeting,
            unsent_bytes: 0,
            since: now,
            last_heard: now,
            last_sent: now,
        }
    }

    /// Where this peer can be connected to, as far as known.
    pub(crate) fn dialled(&self) -> Option<SocketAddr> {
        match (self.side, self.listen_port) {
            (Side::Outbound, _) => Some(self.address),
            (Side::Inbound, Some(port)) => Some(SocketAddr::new(self.address.ip(), port)),
            (Side::Inbound, None) => None,
        }
    }

    pub(crate) fn culprit(&self) -> Culprit {
        Culprit::new(self.address.ip(), self.peer_id)
    }

    pub(crate) fn view(&self, key: PeerKey, now: Moment) -> PeerView {
        let active = match &self.standing {
            Standing::Active(active) => Some(active),
            Standing::Greeting | Standing::Proving(_) => None,
        };
        PeerView {
            key,
            address: self.dialled().unwrap_or(self.address),
            side: self.side,
            active: active.is_some(),
            pieces: active.map_or(0, |active| active.have.count()),
            downloaded_bytes: active.map_or(0, |active| active.downloaded_bytes),
            uploaded_bytes: active.map_or(0, |active| active.uploaded_bytes),
            download_rate: active.map_or(0, |active| active.download_rate.per_second(now)),
        }
    }
}

/// A request of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) block: Block,
    pub(crate) at: Moment,
}

/// A peer that has passed handshake and proof.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) fast: bool,
    pub(crate) have: PieceSet,
    /// The peer's number for `es_have`, if it takes them.
    pub(crate) es_have: Option<u8>,
    /// BEP 21: it wants nothing.
    pub(crate) upload_only: bool,
    /// It wants HAVEs also of what it has.
    pub(crate) redundant_have: bool,

    // What we get from it.
    pub(crate) chokes_us: bool,
    pub(crate) told_interested: bool,
    /// How many of its pieces we have not verified.
    pub(crate) useful: u32,
    pub(crate) useless_since: Moment,
    pub(crate) outstanding: VecDeque<Asked>,
    /// Requests that we gave up; their blocks or rejects may still come.
    pub(crate) forgotten: VecDeque<Block>,
    /// Pieces that we began with this peer.
    pub(crate) working: VecDeque<PieceIndex>,
    /// Rejected requests of its pieces, while it did not choke us.
    pub(crate) rejections: BTreeMap<PieceIndex, u32>,
    pub(crate) request_limit: usize,
    pub(crate) download_rate: RateMeter,
    /// The shortest that an answer took, and when that was.
    pub(crate) round_trip: Duration,
    pub(crate) last_block: Moment,
    /// It let requests time out; it gets one at a time until it answers.
    pub(crate) snubbed: bool,
    pub(crate) downloaded_bytes: u64,

    // What it gets from us.
    pub(crate) interested_in_us: bool,
    pub(crate) queue: VecDeque<Block>,
    pub(crate) served_at: Moment,
    pub(crate) upload_rate: RateMeter,
    pub(crate) uploaded_bytes: u64,

    // What it knows of us.
    /// It has been told of the first `cursor` entries of the log.
    pub(crate) cursor: usize,
    /// When the oldest entry came that it should be told of.
    pub(crate) untold_since: Option<Moment>,
    pub(crate) hungry: bool,
    pub(crate) told_hungry: bool,
}

impl Active {
    pub(crate) fn new(now: Moment, pieces: u32, fast: bool) -> Active {
        Active {
            fast,
            have: PieceSet::empty(pieces),
            es_have: None,
            upload_only: false,
            redundant_have: false,
            chokes_us: true,
            told_interested: false,
            useful: 0,
            useless_since: now,
            outstanding: VecDeque::new(),
            forgotten: VecDeque::new(),
            working: VecDeque::new(),
            rejections: BTreeMap::new(),
            request_limit: REQUESTS_UNTOLD,
            download_rate: RateMeter::default(),
            round_trip: Duration::ZERO,
            last_block: now,
            snubbed: false,
            downloaded_bytes: 0,
            interested_in_us: false,
            queue: VecDeque::new(),
            served_at: now,
            upload_rate: RateMeter::default(),
            uploaded_bytes: 0,
            cursor: 0,
            untold_since: None,
            hungry: false,
            told_hungry: false,
        }
    }

    /// Notes a rejected request. Whether the peer won't give the piece, so that asking again would be rejected again.
    pub(crate) fn refuses(&mut self, piece: PieceIndex) -> bool {
        if self.chokes_us {
            return false;
        }
        let rejections = self.rejections.entry(piece).or_default();
        *rejections += 1;
        *rejections >= REJECTIONS_MAX
    }

    /// Whether the peer wants nothing from anyone any more.
    pub(crate) fn is_complete(&self) -> bool {
        self.upload_only || self.have.is_full()
    }

    /// Gives up a request; a late answer to it is forgiven.
    pub(crate) fn forget_request(&mut self, block: Block) {
        if self.forgotten.len() == FORGOTTEN_MAX {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(block);
    }

    /// Takes a request out of those outstanding.
    pub(crate) fn take_outstanding(&mut self, block: Block) -> Option<Asked> {
        let at = self.outstanding.iter().position(|asked| asked.block == block)?;
        self.outstanding.remove(at)
    }

    /// Takes a request out of those given up.
    pub(crate) fn take_forgotten(&mut self, block: Block) -> bool {
        let at = self.forgotten.iter().position(|&forgotten| forgotten == block);
        at.and_then(|at| self.forgotten.remove(at)).is_some()
    }

    /// Errors with the first invariant that doesn't hold.
    pub(crate) fn check_invariants(
        &self,
        key: PeerKey,
        pieces: &crate::pieces::PieceMap,
        log: usize,
    ) -> Result<(), String> {
        let useful = self.have.without(pieces.verified()).count();
        if useful != self.useful as usize {
            return Err(format!("{key:?} has {useful} useful pieces, not {}", self.useful));
        }
        if self.queue.len() > REQUESTS_QUEUED_MAX || self.outstanding.len() > self.request_limit {
            return Err(format!("{key:?} has {} queued, {} asked", self.queue.len(), self.outstanding.len()));
        }
        if self.cursor > log {
            return Err(format!("{key:?} was told of {} of {log} entries", self.cursor));
        }
        let mut asked: Vec<Block> = self.outstanding.iter().map(|asked| asked.block).collect();
        asked.sort();
        asked.dedup();
        if asked.len() != self.outstanding.len() {
            return Err(format!("{key:?} was asked twice for a block"));
        }
        Ok(())
    }
}
