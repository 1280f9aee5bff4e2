//! What to announce, to whom, and when.
//!
//! A HAVE is of use only if it starts a transfer that would otherwise not start. So one is urgent when our
//! uplink is about to idle, or when hardly anybody else has the piece; otherwise it waits for a bounded time
//! and travels in a batch. New pieces go to one log; each connection has a cursor into it, so nothing is ever
//! lost or queued per peer. Cursors only move forward.

use super::Swarm;
use super::connection::Active;
use super::types::PeerKey;
use crate::extension::HaveBatch;
use crate::geometry::{BLOCK_BYTES, PieceIndex};
use crate::moment::{Moment, RateMeter};
use crate::piece_set::PieceSet;
use crate::wire::Message;
use std::time::Duration;

/// When pieces are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HavePolicy {
    /// At once, to everyone (BEP 3).
    Bep3,
    /// At once, to everyone who lacks the piece.
    Suppress,
    /// In batches, after this time.
    Fixed(Duration),
    /// At once where it starts a transfer, else in batches within the time of a dozen pieces.
    Adaptive,
}

/// Longest deadline of `fixed`: beyond it peers take each other for dead.
const FIXED_MAX_MS: u64 = 10_000;

impl std::str::FromStr for HavePolicy {
    type Err = &'static str;

    /// `bep3`, `suppress`, `fixed:MS` or `adaptive`.
    fn from_str(text: &str) -> Result<HavePolicy, Self::Err> {
        let fixed = |ms: &str| ms.parse().ok().filter(|ms| *ms <= FIXED_MAX_MS).map(Duration::from_millis);
        match (text, text.strip_prefix("fixed:").and_then(fixed)) {
            ("bep3", _) => Ok(HavePolicy::Bep3),
            ("suppress", _) => Ok(HavePolicy::Suppress),
            ("adaptive", _) => Ok(HavePolicy::Adaptive),
            (_, Some(deadline)) => Ok(HavePolicy::Fixed(deadline)),
            _ => Err("write bep3, suppress, fixed:MS (up to 10000) or adaptive"),
        }
    }
}

/// Bounds of the adaptive deadline: the time of a few pieces within these. What is urgent doesn't wait for it. Longer, the
/// last nodes hear of a piece late and choose worse; shorter, a batch has hardly more than one piece (decision 14).
const DEADLINE_PIECES: u64 = 4;
const DEADLINE_MIN: Duration = Duration::from_millis(10);
const DEADLINE_MAX: Duration = Duration::from_millis(500);

/// A stock peer can't say that it is hungry; it is never kept waiting for longer than this.
const DEADLINE_STOCK: Duration = Duration::from_millis(50);

/// So many entries are sent without waiting for the deadline.
const BATCH_ENTRIES: usize = 64;

/// A piece that at most this many others have is told to [`RARE_PEERS`] peers at once, since the sooner it spreads the
/// better; the others hear of it soon enough from these (decisions 14, 15).
const RARE_AVAILABILITY: u32 = 1;
const RARE_PEERS: usize = 5;

/// A peer that knows of more pieces than this which it could ask us for is kept from asking by something else than what
/// it knows, so telling it of another fills no uplink (decision 15).
const STOCKED_PIECES: usize = 8;

/// When our uplink has work for less than this, one peer is told: time enough to learn of a piece, ask and be heard.
const LOW_UPLOAD: Duration = Duration::from_micros(2500);

/// With less than this to upload, our uplink is idle before the next request can be here: everyone who waits
/// is told.
const IDLE_BYTES: u64 = BLOCK_BYTES as u64 + 1024;

/// A connection with this much unsent gets no HAVE; its cursor waits.
const CONGESTED_BYTES: u64 = 2 * 1024 * 1024;

/// All pieces verified since the start, in order.
#[derive(Debug, Default)]
pub(super) struct HaveLog {
    entries: Vec<PieceIndex>,
    rate: RateMeter,
    hungry: bool,
}

impl HaveLog {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn since(&self, cursor: usize) -> &[PieceIndex] {
        self.entries.get(cursor..).unwrap_or_default()
    }
}

impl Active {
    fn deadline(&self, [ours, stock]: [Duration; 2]) -> Duration {
        if self.es_have.is_some() { ours } else { stock }
    }

    /// Whether telling this peer of the piece is worth a message of its own.
    fn should_know(&self, piece: PieceIndex) -> bool {
        self.redundant_have || (!self.upload_only && !self.have.has(piece))
    }
}

impl Swarm {
    /// The piece is verified and can be served from now on.
    pub(super) fn announce(&mut self, piece: PieceIndex) {
        let now = self.now;
        self.log.entries.push(piece);
        self.log.rate.add(now, 1);
        let policy = self.config.have_policy;
        for key in self.active_keys() {
            let Some(active) = self.active_mut(key) else { continue };
            match policy {
                HavePolicy::Bep3 => self.send(key, Message::Have(piece.get())),
                HavePolicy::Suppress if active.should_know(piece) => {
                    self.send(key, Message::Have(piece.get()))
                }
                HavePolicy::Suppress => {}
                HavePolicy::Fixed(_) | HavePolicy::Adaptive => {
                    if active.should_know(piece) {
                        active.untold_since.get_or_insert(now);
                    }
                    continue;
                }
            }
            let length = self.log.len();
            if let Some(active) = self.active_mut(key) {
                active.cursor = length;
            }
        }
        if policy == HavePolicy::Adaptive && self.pieces.availability(piece) <= RARE_AVAILABILITY {
            self.announce_rare(piece);
        }
        self.announce_due();
    }

    fn announce_rare(&mut self, piece: PieceIndex) {
        let lacking =
            self.active_peers().filter(|(_, active)| active.should_know(piece) && !active.have.has(piece));
        let mut lacking: Vec<PeerKey> = lacking.map(|(key, _)| key).collect();
        self.chance.shuffle(&mut lacking);
        lacking.into_iter().take(RARE_PEERS).for_each(|key| self.flush(key));
    }

    /// Sends what is due; called whenever a piece is verified, a block is sent, or time has passed.
    pub(super) fn announce_due(&mut self) {
        let waiting: Vec<PeerKey> = self
            .active_peers()
            .filter(|(_, active)| active.untold_since.is_some())
            .map(|(key, _)| key)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let deadline = self.deadline();
        for key in &waiting {
            let due = self.active(*key).is_some_and(|active| {
                let deadline = active.deadline(deadline);
                let waited = active.untold_since.map(|since| self.now.since(since));
                waited.is_some_and(|waited| waited >= deadline)
                    || self.log.len() - active.cursor >= BATCH_ENTRIES
            });
            if !due {
                continue;
            }
            if self.active(*key).is_some_and(|active| self.is_news(active)) {
                self.flush(*key);
            } else if let Some(active) = self.active_mut(*key) {
                // It has got all of it from others meanwhile; the cursor stays, and the entries ride along later.
                active.untold_since = None;
            }
        }
        if self.config.have_policy == HavePolicy::Adaptive {
            self.announce_into_idle_uplink();
        }
    }

    /// With less than [`LOW_UPLOAD`] of work left for the uplink, one peer that waits for nothing from us gets to know
    /// what it could ask for; with less than a whole piece, every hungry peer does; with a block or less, all do. Who
    /// lacks nothing that is new, or knows of plenty already, is passed over.
    fn announce_into_idle_uplink(&mut self) {
        let piece = u64::from(self.config.geometry.piece_bytes());
        let backlog = self.upload_backlog();
        if backlog >= piece {
            return;
        }
        let waiting = self.active_peers().filter(|(_, active)| {
            active.untold_since.is_some()
                && active.queue.is_empty()
                && self.is_news(active)
                && !self.is_stocked(active)
        });
        // Hungry first, then whoever was served longest ago.
        let mut waiting: Vec<_> =
            waiting.map(|(key, active)| (!active.starves(), active.served_at, key)).collect();
        waiting.sort();
        // Not `clamp`, which panics where a piece is smaller than two blocks.
        let low = self.outflow.bytes_in(LOW_UPLOAD).max(2 * u64::from(BLOCK_BYTES)).min(piece);
        for (place, (sated, _, key)) in waiting.into_iter().enumerate() {
            if !sated || (place == 0 && backlog < low) || backlog < IDLE_BYTES {
                self.flush(key);
            }
        }
    }

    /// Whether the peer still lacks something that it hasn't been told of.
    fn is_news(&self, active: &Active) -> bool {
        self.log.since(active.cursor).iter().any(|&piece| active.should_know(piece))
    }

    /// Whether the peer knows of plenty that it could ask us for.
    fn is_stocked(&self, active: &Active) -> bool {
        let untold = self.log.since(active.cursor).iter().filter(|&piece| !active.have.has(*piece)).count();
        self.pieces.verified().without(&active.have).nth(untold + STOCKED_PIECES).is_some()
    }

    /// How long an entry may wait for a peer of ours and for a stock one.
    fn deadline(&self) -> [Duration; 2] {
        match self.config.have_policy {
            HavePolicy::Bep3 | HavePolicy::Suppress => [Duration::ZERO; 2],
            HavePolicy::Fixed(time) => [time; 2],
            HavePolicy::Adaptive => {
                let per_second = self.log.rate.per_second(self.now).max(1);
                let pieces = Duration::from_micros(DEADLINE_PIECES * 1_000_000 / per_second);
                let deadline = pieces.clamp(DEADLINE_MIN, DEADLINE_MAX);
                // Less than one piece within the deadline: nothing to batch, so nothing to wait for.
                let slow = u128::from(per_second) * deadline.as_micros() < 1_000_000;
                let deadline = if slow { Duration::ZERO } else { deadline };
                [deadline, deadline.min(DEADLINE_STOCK)]
            }
        }
    }

    /// When the oldest untold entry is due.
    pub(super) fn next_announcement_due(&self) -> Option<Moment> {
        let deadline = self.deadline();
        let open = self.active_peers().filter(|(key, _)| !self.is_congested(*key));
        open.filter_map(|(_, active)| Some(active.untold_since?.plus(active.deadline(deadline)))).min()
    }

    fn is_congested(&self, peer: PeerKey) -> bool {
        self.peers.get(&peer).is_some_and(|connection| connection.unsent_bytes > CONGESTED_BYTES)
    }

    /// Tells a peer of everything that it hasn't been told: one batch to a peer of ours, plain HAVEs of what it
    /// lacks to a stock one.
    fn flush(&mut self, peer: PeerKey) {
        if self.is_congested(peer) {
            return;
        }
        let (length, hungry) = (self.log.len(), self.log.hungry);
        let Some(active) = self.active_mut(peer) else { return };
        let cursor = std::mem::replace(&mut active.cursor, length);
        active.untold_since = None;
        let Some(id) = active.es_have else { return self.flush_plain(peer, cursor) };
        active.told_hungry = hungry;
        let mut pieces = PieceSet::empty(self.config.geometry.pieces());
        for piece in self.log.entries.get(cursor..).unwrap_or_default() {
            pieces.insert(piece.get());
        }
        let batch = HaveBatch { hungry, complete: self.is_complete(), ..HaveBatch::of(&pieces) };
        self.send_batch(peer, id, &batch);
    }

    fn flush_plain(&mut self, peer: PeerKey, cursor: usize) {
        let untold: Vec<PieceIndex> = self.log.entries.get(cursor..).unwrap_or_default().to_vec();
        for piece in untold {
            if self.active(peer).is_some_and(|active| active.should_know(piece)) {
                self.send(peer, Message::Have(piece.get()));
            }
        }
    }

    fn send_batch(&mut self, peer: PeerKey, id: u8, batch: &HaveBatch) {
        let message = Message::Extended { id, payload: batch.encode() };
        self.counts.have_messages += 1;
        self.counts.have_bytes += message.wire_bytes() as u64;
        self.send(peer, message);
    }

    /// Everything is here: whoever still wants something learns it now.
    pub(super) fn announce_completion(&mut self) {
        self.log.hungry = false;
        for key in self.active_keys() {
            if self
                .active(key)
                .is_some_and(|active| active.es_have.is_some() || active.untold_since.is_some())
            {
                self.flush(key);
            }
        }
    }

    /// Tells a peer of every piece, at the end of a super-seeding pass.
    pub(super) fn tell_everything(&mut self, peer: PeerKey) {
        let geometry = self.config.geometry;
        let length = self.log.len();
        let Some(active) = self.active_mut(peer) else { return };
        active.cursor = length;
        active.untold_since = None;
        if let Some(id) = active.es_have {
            let all = HaveBatch { complete: true, ..HaveBatch::of(&PieceSet::full(geometry.pieces())) };
            return self.send_batch(peer, id, &all);
        }
        let lacking: Vec<u32> = PieceSet::full(geometry.pieces()).without(&active.have).collect();
        lacking.into_iter().for_each(|piece| self.send(peer, Message::Have(piece)));
    }

    /// Tells a peer of one piece that a super-seed reveals to it.
    pub(super) fn tell_piece(&mut self, peer: PeerKey, piece: PieceIndex) {
        self.send(peer, Message::Have(piece.get()));
    }

    /// Hungry is who lacks pieces and knows of none that it could ask for.
    pub(super) fn update_hunger(&mut self) {
        self.log.hungry = !self.is_complete() && self.pieces.obtainable() == 0;
    }

    /// At every tick: who gives pieces out one by one learns that we became hungry, or are no more. To the others the
    /// flag rides along with the next batch: they tell us what they have soon enough.
    pub(super) fn tell_hunger(&mut self) {
        self.update_hunger();
        if self.config.have_policy != HavePolicy::Adaptive {
            return;
        }
        let hungry = self.log.hungry;
        let outdated = self.active_peers().filter(|(_, active)| {
            active.es_have.is_some()
                && active.redundant_have
                && !active.is_complete()
                && active.told_hungry != hungry
        });
        let outdated: Vec<PeerKey> = outdated.map(|(key, _)| key).collect();
        outdated.into_iter().for_each(|key| self.flush(key));
    }
}

impl Active {
    /// A peer of ours says that it is hungry; a stock one shows it by not being interested.
    fn starves(&self) -> bool {
        if self.es_have.is_some() { self.hungry } else { !self.interested_in_us }
    }
}
