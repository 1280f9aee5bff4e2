//! Super-seeding: each piece is revealed to one peer first, so that a server sends about one copy and the
//! peers exchange the rest.
//!
//! A peer sees one piece that nobody has; as soon as it has asked for the last block it sees the next. Nothing
//! waits for the piece to spread (BEP 16's rule, which throttles). When every piece is out, the peers have a
//! 32nd of the pass's time to exchange the rest; whoever runs out of work before, and then everyone, gets to
//! see everything, and the server is a seed like any other.
//!
//! ```text
//!   Passing ---- every piece is seen or asked for ----> Draining ---- its time is over ----> none
//! ```

use super::Swarm;
use super::types::PeerKey;
use crate::geometry::{Block, PieceIndex};
use crate::moment::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A piece that was revealed and then neither asked for, sent nor seen for this long is revealed to another peer.
/// A peer whose requests wait for their turn on our uplink isn't late: it has as many out as it may, and a seed
/// with many neighbours may need longer than this for all of them.
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);

/// To a peer that is alone, what it takes in this time is revealed ahead: enough to keep the link busy, little
/// enough that those who come a moment later still share the work.
const ALONE_AHEAD: Duration = Duration::from_millis(50);
const ALONE_PIECES_MIN: usize = 2;

/// One piece on its way to the first peer that sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    to: PeerKey,
    /// Last time that it was revealed, asked for or sent.
    at: Moment,
    asked_bytes: u32,
}

/// Bounds of the time in which the peers exchange the rest among themselves, and its share of the pass.
const DRAIN_MIN: Duration = Duration::from_millis(50);
const DRAIN_MAX: Duration = Duration::from_secs(1);
const DRAIN_SHARE: u32 = 32;

/// Super-seeding: a pass over all pieces, then a time in which the server holds back.
#[derive(Debug)]
pub(super) enum Reveal {
    /// Pieces are revealed one by one.
    Passing {
        /// When the first piece was revealed.
        since: Option<Moment>,
        offers: BTreeMap<PieceIndex, Offer>,
        /// Peers that let an offer lapse: while others ask for what they see, these are offered nothing.
        idle: BTreeSet<PeerKey>,
    },
    /// Every piece is out; only those who ask see everything.
    Draining { until: Moment, told: BTreeSet<PeerKey> },
}

impl Default for Reveal {
    fn default() -> Reveal {
        Reveal::Passing { since: None, offers: BTreeMap::new(), idle: BTreeSet::new() }
    }
}

impl Reveal {
    pub(super) fn forget(&mut self, peer: PeerKey) {
        match self {
            Reveal::Passing { offers, idle, .. } => {
                offers.retain(|_, offer| offer.to != peer);
                idle.remove(&peer);
            }
            Reveal::Draining { told, .. } => {
                told.remove(&peer);
            }
        }
    }

    fn offers(&self) -> Option<&BTreeMap<PieceIndex, Offer>> {
        match self {
            Reveal::Passing { offers, .. } => Some(offers),
            Reveal::Draining { .. } => None,
        }
    }
}

impl Swarm {
    /// Reveals the next piece to each peer that has asked for all it sees; ends the pass when all are out.
    pub(super) fn reveal_more(&mut self) {
        match self.reveal {
            None => return,
            Some(Reveal::Draining { .. }) => return self.drain(),
            Some(Reveal::Passing { .. }) => {}
        }
        let mut leechers: Vec<PeerKey> =
            self.active_peers().filter(|(_, active)| !active.is_complete()).map(|(key, _)| key).collect();
        if let Some(Reveal::Passing { idle, .. }) = &self.reveal
            && leechers.iter().any(|peer| !idle.contains(peer))
        {
            leechers.retain(|peer| !idle.contains(peer));
        }
        self.chance.shuffle(&mut leechers);
        let alone = leechers.len() == 1;
        for peer in leechers {
            let ahead = if alone { self.reveal_ahead(peer) } else { 1 };
            while self.open_offers(peer) < ahead {
                let Some(piece) = self.next_offer(peer) else { break };
                self.offer(peer, piece);
            }
        }
        self.end_pass_if_done();
    }

    fn offer(&mut self, to: PeerKey, piece: PieceIndex) {
        let at = self.now;
        if let Some(Reveal::Passing { since, offers, .. }) = &mut self.reveal {
            since.get_or_insert(at);
            offers.insert(piece, Offer { to, at, asked_bytes: 0 });
            self.tell_piece(to, piece);
        }
    }

    fn reveal_ahead(&self, alone: PeerKey) -> usize {
        let rate = self.active(alone).map_or(0, |active| active.upload_rate.per_second(self.now));
        let bytes = u128::from(rate) * ALONE_AHEAD.as_millis() / 1000;
        let pieces = bytes / u128::from(self.config.geometry.piece_bytes());
        usize::try_from(pieces).unwrap_or(usize::MAX).saturating_add(ALONE_PIECES_MIN)
    }

    /// Pieces revealed to the peer that it has not asked for in full.
    fn open_offers(&self, peer: PeerKey) -> usize {
        let Some(offers) = self.reveal.as_ref().and_then(Reveal::offers) else { return 0 };
        let open = offers.iter().filter(|(piece, offer)| {
            offer.to == peer
                && offer.asked_bytes < self.config.geometry.bytes_of(**piece)
                && self.now.since(offer.at) < OFFER_TIMEOUT
        });
        open.count()
    }

    /// A piece that nobody has and nobody is offered: of the first pieces if there is one, else any.
    fn next_offer(&mut self, peer: PeerKey) -> Option<PieceIndex> {
        let Swarm { reveal, pieces, picker, peers, chance, .. } = self;
        let offers = reveal.as_ref()?.offers()?;
        let super::Standing::Active(active) = &peers.get(&peer)?.standing else { return None };
        let unseen = pieces.geometry().all().filter(|piece| {
            pieces.availability(*piece) == 0 && !offers.contains_key(piece) && !active.have.has(*piece)
        });
        let unseen: Vec<PieceIndex> = unseen.collect();
        let first = unseen.iter().copied().find(|piece| picker.is_first(*piece));
        first.or_else(|| unseen.get(chance.below(unseen.len())).copied())
    }

    /// A peer asked for a block: of an offered piece, that may be the last one.
    pub(super) fn reveal_requested(&mut self, peer: PeerKey, block: Block) {
        let (now, whole) = (self.now, self.config.geometry.bytes_of(block.piece()));
        let Some(Reveal::Passing { offers, idle, .. }) = &mut self.reveal else { return };
        idle.remove(&peer);
        let Some(offer) = offers.get_mut(&block.piece()).filter(|offer| offer.to == peer) else {
            return;
        };
        offer.asked_bytes = offer.asked_bytes.saturating_add(block.bytes());
        offer.at = now;
        if offer.asked_bytes >= whole {
            self.reveal_more();
        }
    }

    /// A block was sent: the peer can ask for the next one, of whatever it is offered.
    pub(super) fn reveal_sent(&mut self, peer: PeerKey) {
        let now = self.now;
        if let Some(Reveal::Passing { offers, .. }) = &mut self.reveal {
            offers.values_mut().filter(|offer| offer.to == peer).for_each(|offer| offer.at = now);
        }
    }

    /// At every tick: offers that came to nothing are withdrawn, those that arrived are done with.
    pub(super) fn renew_offers(&mut self) {
        let Swarm { now, pieces, peers, .. } = self;
        let waits = |peer: PeerKey| {
            peers.get(&peer).is_some_and(|connection| match &connection.standing {
                super::Standing::Active(active) => !active.queue.is_empty(),
                super::Standing::Greeting | super::Standing::Proving(_) => false,
            })
        };
        if let Some(Reveal::Passing { offers, idle, .. }) = &mut self.reveal {
            offers.retain(|piece, offer| {
                let unseen = pieces.availability(*piece) == 0;
                let lapsed = now.since(offer.at) >= OFFER_TIMEOUT && !waits(offer.to);
                if unseen && lapsed && offer.asked_bytes < pieces.geometry().bytes_of(*piece) {
                    idle.insert(offer.to);
                }
                unseen && !lapsed
            });
        }
        self.reveal_more();
    }

    fn end_pass_if_done(&mut self) {
        let Some(Reveal::Passing { since, offers, .. }) = &self.reveal else { return };
        let unseen = |piece: &PieceIndex| self.pieces.availability(*piece) == 0;
        let waiting = self.pieces.geometry().all().filter(unseen).any(|piece| {
            let whole = self.config.geometry.bytes_of(piece);
            offers.get(&piece).is_none_or(|offer| offer.asked_bytes < whole)
        });
        if waiting {
            return;
        }
        let took = since.map_or(Duration::ZERO, |since| self.now.since(since));
        let until = self.now.plus((took / DRAIN_SHARE).clamp(DRAIN_MIN, DRAIN_MAX));
        self.reveal = Some(Reveal::Draining { until, told: BTreeSet::new() });
        self.drain();
    }

    /// Tells everything to those who run out of work, and at the end to all. A stock peer can't say that it
    /// runs out; it is told at once.
    fn drain(&mut self) {
        let Some(Reveal::Draining { until, told }) = &self.reveal else { return };
        let over = self.now >= *until;
        let asking = |active: &super::Active| over || active.es_have.is_none() || active.hungry;
        let peers = self.active_peers().filter(|(key, active)| !told.contains(key) && asking(active));
        let peers: Vec<PeerKey> = peers.map(|(key, _)| key).collect();
        if let Some(Reveal::Draining { told, .. }) = &mut self.reveal {
            told.extend(&peers);
        }
        if over {
            self.reveal = None;
        }
        peers.into_iter().for_each(|peer| self.tell_everything(peer));
    }
}
