//! Super-seeding: each piece is revealed to one peer first, so that a server sends about one copy and the
//! peers exchange the rest.
//!
//! A peer sees one piece that nobody has; as soon as it has asked for the last block it sees the next. Nothing
//! waits for the piece to spread (BEP 16's rule, which throttles). When every piece is out, everything is
//! revealed to everyone and the server is a seed like any other.

use super::Swarm;
use super::types::PeerKey;
use crate::geometry::{Block, PieceIndex};
use crate::moment::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// A piece that was revealed and then neither asked for nor seen for this long is revealed to another peer.
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);

/// To a peer that is alone, what it takes in this time is revealed ahead: enough to keep the link busy, little
/// enough that those who come a moment later still share the work.
const ALONE_AHEAD: Duration = Duration::from_millis(50);
const ALONE_PIECES_MIN: usize = 2;

/// One piece on its way to the first peer that sees it.
#[derive(Clone, Copy, Debug)]
struct Offer {
    to: PeerKey,
    /// Last time that it was revealed or asked for.
    at: Moment,
    asked_bytes: u32,
}

/// A super-seeding pass.
#[derive(Debug, Default)]
pub(super) struct Reveal {
    offers: BTreeMap<PieceIndex, Offer>,
}

impl Reveal {
    pub(super) fn forget(&mut self, peer: PeerKey) {
        self.offers.retain(|_, offer| offer.to != peer);
    }
}

impl Swarm {
    /// Reveals the next piece to each peer that has asked for all it sees; ends the pass when all are out.
    pub(super) fn reveal_more(&mut self) {
        if self.reveal.is_none() {
            return;
        }
        let mut leechers: Vec<PeerKey> =
            self.active_peers().filter(|(_, active)| !active.is_complete()).map(|(key, _)| key).collect();
        self.chance.shuffle(&mut leechers);
        let alone = leechers.len() == 1;
        for peer in leechers {
            let ahead = if alone { self.reveal_ahead(peer) } else { 1 };
            while self.open_offers(peer) < ahead {
                let Some(piece) = self.next_offer(peer) else { break };
                let offer = Offer { to: peer, at: self.now, asked_bytes: 0 };
                if let Some(reveal) = &mut self.reveal {
                    reveal.offers.insert(piece, offer);
                }
                self.tell_piece(peer, piece);
            }
        }
        self.end_reveal_if_done();
    }

    fn reveal_ahead(&self, alone: PeerKey) -> usize {
        let rate = self.active(alone).map_or(0, |active| active.upload_rate.per_second(self.now));
        let bytes = u128::from(rate) * ALONE_AHEAD.as_millis() / 1000;
        let pieces = bytes / u128::from(self.config.geometry.piece_bytes());
        usize::try_from(pieces).unwrap_or(usize::MAX).saturating_add(ALONE_PIECES_MIN)
    }

    /// Pieces revealed to the peer that it has not asked for in full.
    fn open_offers(&self, peer: PeerKey) -> usize {
        let Some(reveal) = &self.reveal else { return 0 };
        let open = reveal.offers.iter().filter(|(piece, offer)| {
            offer.to == peer
                && offer.asked_bytes < self.config.geometry.bytes_of(**piece)
                && self.now.since(offer.at) < OFFER_TIMEOUT
        });
        open.count()
    }

    /// A piece that nobody has and nobody is offered: of the first pieces if there is one, else any.
    fn next_offer(&mut self, peer: PeerKey) -> Option<PieceIndex> {
        let Swarm { reveal, pieces, picker, peers, chance, .. } = self;
        let offers = &reveal.as_ref()?.offers;
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
        let Some(reveal) = &mut self.reveal else { return };
        let Some(offer) = reveal.offers.get_mut(&block.piece()).filter(|offer| offer.to == peer) else {
            return;
        };
        offer.asked_bytes = offer.asked_bytes.saturating_add(block.bytes());
        offer.at = now;
        if offer.asked_bytes >= whole {
            self.reveal_more();
        }
    }

    /// At every tick: offers that came to nothing are withdrawn, those that arrived are done with.
    pub(super) fn renew_offers(&mut self) {
        let now = self.now;
        let Swarm { reveal: Some(reveal), pieces, .. } = self else { return };
        reveal
            .offers
            .retain(|piece, offer| pieces.availability(*piece) == 0 && now.since(offer.at) < OFFER_TIMEOUT);
        self.reveal_more();
    }

    fn end_reveal_if_done(&mut self) {
        let Some(reveal) = &self.reveal else { return };
        let unseen = |piece: &PieceIndex| self.pieces.availability(*piece) == 0;
        let waiting = self.pieces.geometry().all().filter(unseen).any(|piece| {
            let whole = self.config.geometry.bytes_of(piece);
            reveal.offers.get(&piece).is_none_or(|offer| offer.asked_bytes < whole)
        });
        if !waiting {
            self.reveal = None;
            self.active_keys().into_iter().for_each(|peer| self.tell_everything(peer));
        }
    }
}
