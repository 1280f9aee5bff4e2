//! What time brings: timeouts, keep-alives, dialling, announcing, the web seed; and who is not to be trusted.

use super::Swarm;
use super::connection::Standing;
use super::types::{Action, AnnounceEvent, CloseReason, PeerKey};
use crate::moment::Moment;
use crate::piece_set::PieceSet;
use crate::wire::{Message, PeerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// How often slow things are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Handshake and proof must be done within this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Our own peers say at least this often that they live, and are given up after a few misses: a node whose
/// power was cut leaves no other trace.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Stock peers send a keep-alive every two minutes (BEP 3).
const STOCK_KEEP_ALIVE: Duration = Duration::from_secs(60);
const STOCK_SILENCE_MAX: Duration = Duration::from_secs(150);

/// Connection attempts under way at once.
const DIALS_MAX: usize = 16;

/// Longest and shortest time between announces, whatever the tracker says.
const ANNOUNCE_MIN: Duration = Duration::from_secs(1);
const ANNOUNCE_MAX: Duration = Duration::from_secs(1800);

/// Wait after a failed announce; doubles up to the maximum.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(1);
const ANNOUNCE_RETRY_MAX: Duration = Duration::from_secs(15);

/// No block from any peer for this long: the web seed is asked.
const STARVED_AFTER: Duration = Duration::from_secs(3);

/// The same where not even a peer is connected: a node alone must not be slower than with plain HTTP.
const ALONE_AFTER: Duration = Duration::from_millis(500);

/// Pieces asked of the web seed at once.
const WEB_PIECES_MAX: u32 = 4;

/// Wait after a failed fetch; doubles up to the maximum.
const WEB_RETRY: Duration = Duration::from_millis(500);
const WEB_RETRY_MAX: Duration = Duration::from_secs(8);

/// Corrupt pieces given alone after which a peer is banned. Two: one may be a cosmic ray.
const STRIKES_MAX: u32 = 2;

/// How long a ban lasts: long enough for the deployment, short enough for a repaired node.
const BAN: Duration = Duration::from_secs(600);

/// Most peers remembered as suspect or banned, and most connections remembered after their end.
const SUSPECTS_MAX: usize = 1024;
const GONE_MAX: usize = 256;

/// Whom a corrupt piece is charged to: a node by its address; on loopback, where many peers share one, by
/// peer id as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Culprit {
    ip: IpAddr,
    peer_id: Option<PeerId>,
}

impl Culprit {
    pub(crate) fn new(ip: IpAddr, peer_id: Option<PeerId>) -> Culprit {
        Culprit { ip, peer_id: peer_id.filter(|_| ip.is_loopback()) }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// It took part in a corrupt piece: its next piece it has to give alone.
    suspect: bool,
    strikes: u32,
    banned_until: Moment,
}

/// Who took part in corrupt pieces.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    records: BTreeMap<Culprit, Record>,
    /// A peer may be gone before the piece that it corrupted is checked.
    gone: VecDeque<(PeerKey, Culprit)>,
}

impl Suspicions {
    pub(super) fn remember(&mut self, peer: PeerKey, culprit: Culprit) {
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back((peer, culprit));
    }

    pub(super) fn is_banned(&self, culprit: Culprit, now: Moment) -> bool {
        self.records.get(&culprit).is_some_and(|record| record.banned_until > now)
    }

    /// Charges a corrupt piece to its givers: to a single one as a strike, to several as suspicion. Gives
    /// those that are banned by it.
    pub(super) fn corrupt(
        &mut self,
        givers: &BTreeSet<PeerKey>,
        now: Moment,
        culprit_of: impl Fn(PeerKey) -> Option<Culprit>,
    ) -> Vec<Culprit> {
        let alone = givers.len() == 1;
        let mut banned = Vec::new();
        for giver in givers {
            let gone = || self.gone.iter().find(|(key, _)| key == giver).map(|(_, culprit)| *culprit);
            let Some(culprit) = culprit_of(*giver).or_else(gone) else { continue };
            if self.records.len() >= SUSPECTS_MAX && !self.records.contains_key(&culprit) {
                self.records.retain(|_, record| record.banned_until > now);
            }
            let record = self.records.entry(culprit).or_default();
            record.suspect = true;
            record.strikes += u32::from(alone);
            if record.strikes >= STRIKES_MAX {
                *record = Record { suspect: true, strikes: 0, banned_until: now.plus(BAN) };
                banned.push(culprit);
            }
        }
        banned
    }
}

/// When and what to tell the tracker.
#[derive(Debug)]
pub(super) struct Announcer {
    next: Moment,
    started: bool,
    /// Completion is still to be told.
    completed: bool,
    under_way: bool,
    failures: u32,
}

impl Announcer {
    pub(super) fn new(now: Moment) -> Announcer {
        Announcer { next: now, started: false, completed: false, under_way: false, failures: 0 }
    }

    pub(super) fn complete(&mut self, now: Moment) {
        self.completed = true;
        self.next = now;
    }
}

/// When to turn to the web seed.
#[derive(Debug)]
pub(super) struct WebSeeding {
    /// Last useful block from a peer.
    pub(super) progress_at: Moment,
    /// Last time that a peer was connected, seen at a tick.
    company_at: Moment,
    pub(super) under_way: u32,
    retry_at: Moment,
    failures: u32,
}

impl WebSeeding {
    pub(super) fn new(now: Moment) -> WebSeeding {
        WebSeeding { progress_at: now, company_at: now, under_way: 0, retry_at: now, failures: 0 }
    }

    pub(super) fn failed(&mut self, now: Moment) {
        self.failures = (self.failures + 1).min(8);
        self.retry_at = now.plus((WEB_RETRY * (1 << (self.failures - 1))).min(WEB_RETRY_MAX));
    }

    pub(super) fn worked(&mut self) {
        self.failures = 0;
    }
}

impl Swarm {
    pub(super) fn upkeep(&mut self) {
        if self.now >= self.tick_at {
            self.tick_at = self.now.plus(TICK);
            self.tick();
        }
        self.dial();
        self.announce_to_tracker();
        self.serve();
        self.announce_due();
    }

    fn tick(&mut self) {
        self.drop_the_silent();
        self.renew_intake();
        self.renew_outflow();
        self.time_out_requests();
        self.make_room();
        for peer in self.active_keys() {
            self.update_interest(peer);
        }
        self.fill_all();
        self.renew_offers();
        if self.active_peers().next().is_some() {
            self.web.company_at = self.now;
        }
        self.ask_web_seed();
        self.tell_hunger();
    }

    fn drop_the_silent(&mut self) {
        let now = self.now;
        let mut drop = Vec::new();
        let mut greet = Vec::new();
        for (key, connection) in &self.peers {
            let (keep_alive, silence) = match &connection.standing {
                Standing::Greeting | Standing::Proving(_) => {
                    if now.since(connection.since) > HANDSHAKE_TIMEOUT {
                        drop.push((*key, CloseReason::HandshakeTimeout));
                    }
                    continue;
                }
                Standing::Active(active) if active.es_have.is_some() => (KEEP_ALIVE, SILENCE_MAX),
                Standing::Active(_) => (STOCK_KEEP_ALIVE, STOCK_SILENCE_MAX),
            };
            if now.since(connection.last_heard) > silence {
                drop.push((*key, CloseReason::Silent));
            } else if now.since(connection.last_sent) > keep_alive {
                greet.push(*key);
            }
        }
        drop.into_iter().for_each(|(key, reason)| self.close(key, reason));
        greet.into_iter().for_each(|key| self.send(key, Message::KeepAlive));
    }

    /// Complete peers don't dial: whoever lacks something comes by itself.
    pub(super) fn wants_to_dial(&self) -> bool {
        !self.is_complete()
            && self.dialling.len() < DIALS_MAX
            && self.peers.len() < self.config.limits.peers_max
    }

    pub(super) fn dial(&mut self) {
        while self.wants_to_dial() {
            let Some(address) = self.addresses.take_due(self.now, &mut self.chance) else { return };
            // Known already by a connection that the peer opened: the address stays busy.
            if self.peers.values().any(|connection| connection.dialled() == Some(address)) {
                continue;
            }
            self.dialling.insert(address);
            self.actions.push_back(Action::Connect { address });
        }
    }

    pub(super) fn next_announcement(&self) -> Option<Moment> {
        let tracker = (self.config.has_tracker && !self.announcer.under_way).then_some(self.announcer.next);
        [tracker, self.next_announcement_due()].into_iter().flatten().min()
    }

    fn announce_to_tracker(&mut self) {
        if !self.config.has_tracker || self.announcer.under_way || self.announcer.next > self.now {
            return;
        }
        let event = match (self.announcer.started, self.announcer.completed) {
            (false, _) => AnnounceEvent::Started,
            (true, true) => AnnounceEvent::Completed,
            (true, false) => AnnounceEvent::None,
        };
        self.announcer.under_way = true;
        self.actions.push_back(Action::Announce { event, left: self.bytes_left() });
    }

    /// Bytes of pieces that are not verified.
    pub fn bytes_left(&self) -> u64 {
        let geometry = self.config.geometry;
        let lacking = geometry.all().filter(|piece| !self.pieces.verified().contains(piece.get()));
        lacking.map(|piece| u64::from(geometry.bytes_of(piece))).sum()
    }

    /// The answer to [`Action::Announce`]: the tracker's interval, or that it failed. The peers that it named
    /// go to `handle_addresses`.
    pub fn handle_announced(&mut self, now: Moment, event: AnnounceEvent, interval: Option<Duration>) {
        self.advance(now);
        self.announcer.under_way = false;
        let wait = match interval {
            Some(interval) => {
                self.announcer.failures = 0;
                self.announcer.started = true;
                self.announcer.completed &= event != AnnounceEvent::Completed;
                interval.clamp(ANNOUNCE_MIN, ANNOUNCE_MAX)
            }
            None => {
                self.announcer.failures = (self.announcer.failures + 1).min(8);
                (ANNOUNCE_RETRY * (1 << (self.announcer.failures - 1))).min(ANNOUNCE_RETRY_MAX)
            }
        };
        let untold = self.announcer.completed && interval.is_some();
        self.announcer.next = if untold { now } else { now.plus(wait) };
    }

    pub(super) fn ask_web_seed(&mut self) {
        let (idle, alone) = (self.now.since(self.web.progress_at), self.now.since(self.web.company_at));
        let starved = idle >= STARVED_AFTER || idle.min(alone) >= ALONE_AFTER;
        if !self.config.has_web_seed || self.is_complete() || !starved || self.now < self.paused_until {
            return;
        }
        let everything = PieceSet::full(self.config.geometry.pieces());
        while self.web.under_way < WEB_PIECES_MAX && self.web.retry_at <= self.now {
            if self.pieces.missing().count() == 0
                || self.pieces.in_memory() >= self.config.pieces_in_memory_max()
            {
                // What no peer brings any more is brought by the web seed as a whole.
                let orphan = self.pieces.arriving().find(|(_, arriving)| arriving.is_orphan());
                let Some((piece, _)) = orphan else { return };
                self.abandon(piece);
            }
            let Some(piece) = self.picker.choose(&self.pieces, &everything, &mut self.chance) else { return };
            self.pieces.fetch(piece);
            self.web.under_way += 1;
            self.actions.push_back(Action::FetchWeb { piece });
        }
    }

    pub(super) fn is_suspect(&self, peer: PeerKey) -> bool {
        let culprit = self.peers.get(&peer).map(super::Connection::culprit);
        culprit.and_then(|culprit| self.suspicions.records.get(&culprit)).is_some_and(|record| record.suspect)
    }

    /// A good piece from a single peer clears it; its strikes stay.
    pub(super) fn clear_suspicion(&mut self, givers: &BTreeSet<PeerKey>) {
        if givers.is_empty() {
            self.web.worked();
        }
        let mut givers = givers.iter();
        if let (Some(giver), None) = (givers.next(), givers.next()) {
            let culprit = self.peers.get(giver).map(super::Connection::culprit);
            if let Some(record) = culprit.and_then(|culprit| self.suspicions.records.get_mut(&culprit)) {
                record.suspect = false;
            }
        }
    }
}
