//! What to ask of whom.
//!
//! Each peer that gives is asked ahead for the same number of blocks: a turn's worth, and its share of what our
//! downlink takes in a round trip and 20 ms. Equal shares matter: where the share grows with the rate, whoever
//! is served first is served ever more, and the others starve. Only a peer that would need long for that much is
//! asked for less; requests that it holds are kept from others that could serve them now.
//!
//! When nothing is left to begin, a peer without work is asked for the block that will take longest elsewhere.

use super::Swarm;
use super::connection::{Active, Asked};
use super::types::{CloseReason, Event, PeerKey};
use crate::geometry::{BLOCK_BYTES, Block, PieceIndex};
use crate::moment::{Moment, RateMeter};
use crate::pieces::Arriving;
use crate::wire::Message;
use std::time::Duration;

/// How much of our downlink's time the requests to all peers take up, beyond the round trip and the turns.
const REQUEST_AHEAD: Duration = Duration::from_millis(20);

/// Blocks asked ahead of every peer: what it can send in one turn before it needs our next request. With 2, a
/// turn ends after two blocks, and at 25 Mbit/s a node can fall far behind; with 16, the first pieces of a swarm
/// spread a third more slowly.
const REQUESTS_TURN: usize = 6;

/// A peer holds no more than it gives in this time, so that a slow one doesn't keep pieces for long.
const REQUEST_HOLD: Duration = Duration::from_millis(250);

/// Of a piece that a super-seed reveals to us alone, so many blocks: nobody else has them, so nothing is kept
/// from anyone, and the seed can send the piece in one go.
const REQUESTS_REVEALED: usize = 16;

/// Longer round trips are not bridged: requests that long in advance would keep pieces from others.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(100);

const REQUESTS_MIN: usize = 2;

/// The same for stock peers. QUIRK(transmission): it serves every 500 ms what is queued by then, so with less time
/// than that its rate, and with it the queue, would never grow; libtorrent asks for 3 s.
const STOCK_REQUEST_AHEAD: Duration = Duration::from_secs(1);
const STOCK_REQUESTS_MIN: usize = 16;

/// A peer that gives nothing for this long gives its requests back. A server that serves eight of 32 nodes at
/// a time over 25 Mbit/s keeps the last one waiting for 6 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A block is asked of a second peer only if that one will be this much quicker.
const ENDGAME_GAIN: u32 = 2;

/// No block is asked twice before it is this old, nor to gain less than this time.
const ENDGAME_AGE_MIN: Duration = Duration::from_millis(50);
const ENDGAME_TIME_MIN: Duration = Duration::from_millis(10);

/// Blocks that a peer without other work is asked for a second time at once.
const ENDGAME_BLOCKS: usize = 2;

/// The peak rate of our downlink fades by this part at every tick, so that an early burst is forgotten.
const PEAK_FADE: u64 = 64;

/// How long a peer must have nothing that we want before we say so.
const UNINTERESTED_AFTER: Duration = Duration::from_secs(1);

/// What comes in, from all peers together.
#[derive(Debug, Default)]
pub(super) struct Intake {
    rate: RateMeter,
    peak: u64,
    /// Peers that owe us blocks.
    sources: usize,
}

impl Intake {
    pub(super) fn add(&mut self, now: Moment, bytes: u64) {
        self.rate.add(now, bytes);
        self.peak = self.peak.max(self.rate.per_second(now));
    }

    fn renew(&mut self, now: Moment, sources: usize) {
        self.peak = self.rate.per_second(now).max(self.peak - self.peak / PEAK_FADE);
        self.sources = sources;
    }

    /// Blocks that one of the sources brings in this time while our downlink is at its peak.
    fn share(&self, time: Duration) -> usize {
        let bytes = u128::from(self.peak) * time.as_micros() / 1_000_000;
        let blocks = usize::try_from(bytes / u128::from(BLOCK_BYTES)).unwrap_or(usize::MAX);
        blocks / self.sources.max(1)
    }

    /// How long our downlink is busy with one block.
    fn block_time(&self) -> Duration {
        let micros = u64::from(BLOCK_BYTES) * 1_000_000 / self.peak.max(1);
        Duration::from_micros(micros)
    }
}

impl Active {
    /// How many blocks may be outstanding.
    fn depth(&self, now: Moment, intake: &Intake) -> usize {
        if self.snubbed {
            return 1;
        }
        let rate = self.download_rate.per_second(now);
        let blocks_in = |time: Duration| {
            let bytes = u128::from(rate) * time.as_micros() / 1_000_000;
            usize::try_from(bytes / u128::from(BLOCK_BYTES)).unwrap_or(usize::MAX)
        };
        if self.es_have.is_none() {
            return blocks_in(STOCK_REQUEST_AHEAD).saturating_add(STOCK_REQUESTS_MIN).min(self.request_limit);
        }
        let share = REQUESTS_TURN.saturating_add(intake.share(self.round_trip + REQUEST_AHEAD));
        let held = blocks_in(self.round_trip + REQUEST_HOLD).saturating_add(REQUESTS_MIN);
        // A rate of nothing says nothing yet.
        let bound = if rate == 0 { share } else { held };
        share.min(bound).min(self.request_limit)
    }

    /// How long `blocks` more blocks take from this peer.
    fn takes(&self, now: Moment, blocks: usize) -> Duration {
        let rate = self.download_rate.per_second(now).max(1);
        let micros = blocks as u128 * u128::from(BLOCK_BYTES) * 1_000_000 / u128::from(rate);
        self.round_trip + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl Swarm {
    pub(super) fn fill_all(&mut self) {
        let mut keys = self.active_keys();
        self.chance.shuffle(&mut keys);
        keys.into_iter().for_each(|key| self.fill_requests(key));
    }

    pub(super) fn fill_requests(&mut self, peer: PeerKey) {
        if self.is_complete() || self.now < self.paused_until {
            return;
        }
        let now = self.now;
        let Some(active) = self.active(peer).filter(|active| !active.chokes_us && active.useful > 0) else {
            return;
        };
        let depth = active.depth(now, &self.intake);
        while self.may_ask(peer, depth) {
            let Some(block) = self.next_block(peer).or_else(|| self.last_block(peer)) else { break };
            self.ask(peer, block);
        }
        self.update_hunger();
    }

    fn may_ask(&self, peer: PeerKey, depth: usize) -> bool {
        let Some(active) = self.active(peer) else { return false };
        let revealed = || {
            active.redundant_have
                && active.outstanding.len() < REQUESTS_REVEALED.min(active.request_limit)
                && active.working.front().is_some_and(|&piece| {
                    self.pieces.availability(piece) == 1
                        && self.pieces.arriving_at(piece).is_some_and(|arriving| arriving.free() > 0)
                })
        };
        active.outstanding.len() < depth || revealed()
    }

    /// Whether this peer would be asked for another block now, if it had one that we need.
    pub fn could_ask(&self, peer: PeerKey) -> bool {
        self.active(peer).is_some_and(|active| {
            !active.chokes_us && self.may_ask(peer, active.depth(self.now, &self.intake))
        })
    }

    /// At every tick.
    pub(super) fn renew_intake(&mut self) {
        let sources = self.active_peers().filter(|(_, active)| !active.outstanding.is_empty()).count();
        self.intake.renew(self.now, sources);
    }

    fn ask(&mut self, peer: PeerKey, block: Block) {
        let at = self.now;
        if !self.pieces.ask(block.piece(), block.number(), peer) {
            return;
        }
        if let Some(active) = self.active_mut(peer) {
            if active.outstanding.is_empty() {
                active.last_block = at;
            }
            active.outstanding.push_back(Asked { block, at });
            self.send(peer, Message::Request(block.into()));
        }
    }

    /// The next block to ask of this peer: of a piece that it began; else of the image's first pieces or of a
    /// piece that nobody brings any more; else of a new piece; else of a piece that another peer began.
    fn next_block(&mut self, peer: PeerKey) -> Option<Block> {
        if let Some(block) = self.own_block(peer) {
            return Some(block);
        }
        let urgent =
            |swarm: &Swarm, piece, arriving: &Arriving| swarm.picker.is_first(piece) || arriving.is_orphan();
        if let Some(block) = self.joined_block(peer, urgent) {
            return Some(block);
        }
        if let Some(piece) = self.new_piece(peer) {
            let sole = self.is_suspect(peer).then_some(peer);
            self.pieces.begin(piece, sole);
            self.active_mut(peer)?.working.push_back(piece);
            return self.config.geometry.block(piece, 0);
        }
        self.joined_block(peer, |_, _, _| true)
    }

    fn own_block(&mut self, peer: PeerKey) -> Option<Block> {
        loop {
            let piece = *self.active(peer)?.working.front()?;
            let suspect = self.is_suspect(peer);
            let arriving = self.pieces.arriving_at(piece).filter(|arriving| arriving.open_to(peer, suspect));
            if let Some(number) = arriving.and_then(Arriving::first_free) {
                return self.config.geometry.block(piece, number);
            }
            self.active_mut(peer)?.working.pop_front();
        }
    }

    fn joined_block(
        &self,
        peer: PeerKey,
        wanted: impl Fn(&Swarm, PieceIndex, &Arriving) -> bool,
    ) -> Option<Block> {
        let active = self.active(peer)?;
        let suspect = self.is_suspect(peer);
        let candidates = self.pieces.arriving().filter(|(piece, arriving)| {
            arriving.free() > 0
                && arriving.open_to(peer, suspect)
                && active.have.has(*piece)
                && wanted(self, *piece, arriving)
        });
        // The one with the least to do is finished, and shared, first.
        let (piece, arriving) = candidates.min_by_key(|(_, arriving)| arriving.free())?;
        self.config.geometry.block(piece, arriving.first_free()?)
    }

    fn new_piece(&mut self, peer: PeerKey) -> Option<PieceIndex> {
        if self.is_memory_full() {
            return None;
        }
        let Swarm { picker, pieces, chance, peers, .. } = self;
        let super::Standing::Active(active) = &peers.get(&peer)?.standing else { return None };
        picker.choose(pieces, &active.have, chance)
    }

    /// Whether no piece may be begun before another is verified.
    pub(super) fn is_memory_full(&self) -> bool {
        self.pieces.in_memory() >= self.config.pieces_in_memory_max()
            || self.pieces.checking() >= self.config.pieces_checking_max()
    }

    /// End-game: nothing is left to begin, so a peer with nothing to do is asked for the block whose owner will
    /// take longest, if it is sure to be quicker. The first answer cancels the other request.
    fn last_block(&self, peer: PeerKey) -> Option<Block> {
        if self.pieces.missing().count() > 0 {
            return None;
        }
        let active = self.active(peer).filter(|active| active.outstanding.len() < ENDGAME_BLOCKS)?;
        let suspect = self.is_suspect(peer);
        let before = u32::try_from(active.outstanding.len()).unwrap_or(u32::MAX);
        let ours = (active.round_trip + 2 * self.intake.block_time()).max(ENDGAME_TIME_MIN) * (before + 1);
        let mut slowest: Option<(Duration, Block)> = None;
        for (piece, arriving) in self.pieces.arriving() {
            if !active.have.has(piece) || !arriving.open_to(peer, suspect) {
                continue;
            }
            for (number, owner) in arriving.asked_once().filter(|(_, owner)| *owner != peer) {
                let Some(block) = self.config.geometry.block(piece, number) else { continue };
                let eta = self.expected(owner, block);
                if eta > ours * ENDGAME_GAIN && slowest.is_none_or(|(longest, _)| eta > longest) {
                    slowest = Some((eta, block));
                }
            }
        }
        slowest.map(|(_, block)| block)
    }

    /// How long a block asked of `owner` will still take. An owner that gives nothing is taken to go on with that
    /// for as long as it has done so; so a stalled one is found out.
    fn expected(&self, owner: PeerKey, block: Block) -> Duration {
        let Some(active) = self.active(owner) else { return Duration::MAX };
        let place = active.outstanding.iter().position(|asked| asked.block == block);
        let Some((place, asked)) = place.and_then(|at| Some((at, active.outstanding.get(at)?))) else {
            return Duration::ZERO;
        };
        if self.now.since(asked.at) < ENDGAME_AGE_MIN {
            return Duration::ZERO;
        }
        let idle = self.now.since(active.last_block.max(asked.at));
        active.takes(self.now, place + 1).max(idle)
    }

    pub(super) fn cancel(&mut self, peer: PeerKey, block: Block) {
        let Some(active) = self.active_mut(peer) else { return };
        if active.take_outstanding(block).is_some() {
            active.forget_request(block);
            self.send(peer, Message::Cancel(block.into()));
            self.fill_requests(peer);
        }
    }

    /// How long a request to this peer and the first byte of its answer are under way, queues in links included: as the
    /// network knows it, not how long the peer takes to turn to us.
    pub fn handle_round_trip(&mut self, now: Moment, peer: PeerKey, round_trip: Duration) {
        self.advance(now);
        if let Some(active) = self.active_mut(peer) {
            active.round_trip = round_trip.min(ROUND_TRIP_MAX);
        }
    }

    /// Takes all requests back from a peer; what still comes is welcome if nobody was quicker.
    pub(super) fn give_up_requests(&mut self, peer: PeerKey) {
        let Some(active) = self.active_mut(peer) else { return };
        let outstanding = std::mem::take(&mut active.outstanding);
        for asked in &outstanding {
            active.forget_request(asked.block);
        }
        let cancel = !active.chokes_us;
        for asked in outstanding {
            self.pieces.unask(asked.block.piece(), asked.block.number(), peer);
            if cancel {
                self.send(peer, Message::Cancel(asked.block.into()));
            }
        }
        self.free_soles_of(peer);
        self.fill_all();
    }

    pub(super) fn time_out_requests(&mut self) {
        for peer in self.active_keys() {
            let now = self.now;
            let Some(active) = self.active_mut(peer) else { continue };
            if !active.outstanding.is_empty() && now.since(active.last_block) > REQUEST_TIMEOUT {
                active.snubbed = true;
                active.last_block = now;
                self.give_up_requests(peer);
            }
        }
    }

    /// When the memory for arriving pieces is full of pieces that nobody brings any more, one is given up, so
    /// that others can come.
    pub(super) fn make_room(&mut self) {
        if self.pieces.in_memory() < self.config.pieces_in_memory_max() {
            return;
        }
        let stuck = self.pieces.arriving().find(|(piece, arriving)| {
            arriving.is_orphan() && arriving.free() > 0 && self.pieces.availability(*piece) == 0
        });
        if let Some((piece, _)) = stuck {
            self.abandon(piece);
            self.fill_all();
        }
    }

    /// Interest is told at once; that there is none only after a while, because the next piece is near.
    pub(super) fn update_interest(&mut self, peer: PeerKey) {
        let (now, complete) = (self.now, self.is_complete());
        let Some(active) = self.active_mut(peer) else { return };
        if active.useful > 0 && !active.told_interested {
            active.told_interested = true;
            self.send(peer, Message::Interested);
        } else if active.useful == 0
            && active.told_interested
            && (complete || now.since(active.useless_since) > UNINTERESTED_AFTER)
        {
            active.told_interested = false;
            self.send(peer, Message::NotInterested);
        }
    }

    pub(super) fn corrupt(&mut self, piece: PieceIndex) {
        let givers = self.pieces.bad(piece);
        self.counts.corrupt_pieces += 1;
        let from = givers.iter().filter_map(|giver| Some(self.peers.get(giver)?.address)).collect();
        self.tell(Event::Corrupt { piece, from });
        if givers.is_empty() {
            self.web.failed(self.now);
        }
        for banned in
            self.suspicions.corrupt(&givers, self.now, |giver| Some(self.peers.get(&giver)?.culprit()))
        {
            let connections: Vec<_> = self
                .peers
                .iter()
                .filter(|(_, c)| c.culprit() == banned)
                .map(|(key, c)| (*key, c.address))
                .collect();
            for (key, address) in connections {
                self.tell(Event::Banned { address });
                self.close(key, CloseReason::Banned);
            }
        }
        self.fill_all();
    }

    /// The answer to `Action::FetchWeb`: the whole piece is here and will be checked, or it isn't.
    pub fn handle_fetched(&mut self, now: Moment, piece: PieceIndex, arrived: bool) {
        self.advance(now);
        self.pieces.fetched(piece, arrived);
        self.web.under_way = self.web.under_way.saturating_sub(1);
        if arrived {
            self.counts.web_seed_bytes += u64::from(self.config.geometry.bytes_of(piece));
            self.actions.push_back(super::Action::Check { piece });
        } else {
            self.web.failed(now);
        }
        // At once: a tick between two pieces would be a gap on the link.
        self.ask_web_seed();
    }
}
