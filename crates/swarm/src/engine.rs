//! The engine of one torrent: all its peers, one state machine.
//!
//! The driver calls `handle_*` with what happened and then takes [`Action`]s until there are none, before the next
//! call: a discarded piece may be asked for again at once, and its new blocks must outlive the discarding. It calls
//! [`Swarm::handle_timeout`] when [`Swarm::poll_timeout`] says so. Bytes of blocks never pass through here.
//!
//! ```text
//! a connection:   handle_connected
//!                        |                                      secret set and not `open`
//!                  Greeting ---- handshake of this torrent ----> Proving ----+
//!                        |                                          | proof  |
//!                        +--- open ------------------------> Active <-+      | none, or wrong
//!                                                              |             v
//!                              every limit, timeout and lie ---+-------> closed, with a CloseReason
//! ```
//! The states of pieces are in [`crate::pieces`]. Files: `greeting` (handshakes and proof), `receive`
//! (messages), `download` (what to ask of whom), `upload` (whom to serve), `have` (what to announce when),
//! `reveal` (super-seeding), `upkeep` (timeouts, bans, dialling, web seed).

mod connection;
mod download;
mod greeting;
mod have;
mod inspect;
mod receive;
mod reveal;
mod types;
mod upkeep;
mod upload;

#[cfg(test)]
mod tests;

pub use have::HavePolicy;
pub use types::{
    Action, AnnounceEvent, BlockVerdict, CheckOutcome, CloseReason, ConfigError, Counts, Event, Limits,
    PeerKey, PeerView, Refusal, SwarmConfig,
};

use crate::addresses::AddressBook;
use crate::chance::Chance;
use crate::geometry::PieceIndex;
use crate::moment::Moment;
use crate::picker::Picker;
use crate::piece_set::PieceSet;
use crate::pieces::PieceMap;
use crate::secret::Side;
use crate::wire::Message;
use connection::{Active, Connection, Standing};
use download::Intake;
use have::HaveLog;
use reveal::Reveal;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use upkeep::{Announcer, Suspicions, WebSeeding};
use upload::{Outflow, Slot};

/// Bytes handed to the driver for one peer and not yet sent, above which the peer is dropped: it doesn't read.
const UNSENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Most peers whose bytes are remembered after they left; the sums of more are not worth the memory.
const DEPARTED_MAX: usize = 4096;

/// The engine. See the module's documentation.
#[derive(Debug)]
pub struct Swarm {
    config: SwarmConfig,
    now: Moment,
    chance: Chance,
    pieces: PieceMap,
    picker: Picker,
    peers: BTreeMap<PeerKey, Connection>,
    keys_given: u64,
    addresses: AddressBook,
    dialling: BTreeSet<SocketAddr>,
    suspicions: Suspicions,
    log: HaveLog,
    intake: Intake,
    slots: Vec<Slot>,
    outflow: Outflow,
    reveal: Option<Reveal>,
    web: WebSeeding,
    announcer: Announcer,
    actions: VecDeque<Action>,
    counts: Counts,
    tick_at: Moment,
    paused_until: Moment,
    /// Bytes that peers gave us which are gone now.
    departed: BTreeMap<SocketAddr, u64>,
}

impl Swarm {
    /// An engine with no connections. Errors if the configuration contradicts itself.
    pub fn new(now: Moment, config: SwarmConfig) -> Result<Swarm, ConfigError> {
        config.check()?;
        let mut addresses = AddressBook::default();
        config.first_peers.iter().for_each(|&address| addresses.add(now, address, true));
        let complete = config.have.is_full();
        Ok(Swarm {
            now,
            chance: Chance::new(config.seed),
            pieces: PieceMap::new(config.geometry, &config.have, config.container_pieces),
            picker: Picker { first_pieces: config.first_pieces.clone() },
            peers: BTreeMap::new(),
            keys_given: 0,
            addresses,
            dialling: BTreeSet::new(),
            suspicions: Suspicions::default(),
            log: HaveLog::default(),
            intake: Intake::default(),
            slots: Vec::new(),
            outflow: Outflow::default(),
            reveal: (config.super_seed && complete).then(Reveal::default),
            web: WebSeeding::new(now),
            announcer: Announcer::new(now),
            actions: VecDeque::new(),
            counts: Counts::default(),
            tick_at: now,
            paused_until: now,
            departed: BTreeMap::new(),
            config,
        })
    }

    /// A connection exists: ours to `address` (after [`Action::Connect`]) or a peer's from there. Refused over
    /// a limit or after a ban; the driver then closes it.
    pub fn handle_connected(
        &mut self,
        now: Moment,
        address: SocketAddr,
        side: Side,
    ) -> Result<PeerKey, Refusal> {
        self.advance(now);
        self.dialling.remove(&address);
        let admitted = self.admit(address);
        if let Err(refusal) = admitted {
            *self.counts.refused.entry(refusal).or_default() += 1;
            if side == Side::Outbound {
                self.addresses.lost(now, address, &mut self.chance);
            }
            return Err(refusal);
        }
        self.keys_given += 1;
        let key = PeerKey::from_number(self.keys_given);
        self.peers.insert(key, Connection::new(now, address, side));
        if side == Side::Outbound {
            let handshake = self.handshake();
            self.actions.push_back(Action::Handshake { to: key, handshake });
        }
        Ok(key)
    }

    /// The connection to `address` could not be made.
    pub fn handle_connect_failed(&mut self, now: Moment, address: SocketAddr) {
        self.advance(now);
        self.dialling.remove(&address);
        self.addresses.lost(now, address, &mut self.chance);
    }

    /// The connection is gone; also the answer to [`Action::Close`] is not needed, closing forgets the peer.
    pub fn handle_disconnected(&mut self, now: Moment, peer: PeerKey) {
        self.advance(now);
        if self.peers.contains_key(&peer) {
            self.forget(peer, CloseReason::Lost);
        }
    }

    /// More waits to be sent to the peer than the driver keeps; drops it as a slow reader.
    pub fn handle_overrun(&mut self, now: Moment, peer: PeerKey) {
        self.advance(now);
        self.close(peer, CloseReason::SlowReader);
    }

    /// What the peer sent is no BitTorrent; drops it.
    pub fn handle_malformed(&mut self, now: Moment, peer: PeerKey) {
        self.advance(now);
        self.close(peer, CloseReason::Malformed);
    }

    /// So many bytes (with all overhead) of what was given for this peer left for the network.
    pub fn handle_sent(&mut self, now: Moment, peer: PeerKey, bytes: u64) {
        self.advance(now);
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        connection.unsent_bytes = connection.unsent_bytes.saturating_sub(bytes);
        connection.last_sent = now;
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.peer == peer) {
            slot.progress_at = now;
        }
        self.serve();
        self.announce_due();
    }

    /// Addresses of peers, from a tracker or another source.
    pub fn handle_addresses(&mut self, now: Moment, addresses: &[SocketAddr]) {
        self.advance(now);
        addresses.iter().for_each(|&address| self.addresses.add(now, address, false));
        self.dial();
    }

    /// The time that [`Swarm::poll_timeout`] named has come. Calling it early is harmless.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.advance(now);
        self.upkeep();
    }

    /// What the driver has to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Swarm::handle_timeout`] must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let announce = self.next_announcement();
        let slots = self.next_slot_change();
        let dial = if self.wants_to_dial() { self.addresses.next_due() } else { None };
        [Some(self.tick_at), announce, slots, dial].into_iter().flatten().min()
    }

    /// The pieces that are verified and stored.
    pub fn verified(&self) -> &PieceSet {
        self.pieces.verified()
    }

    /// Whether every piece is verified and stored.
    pub fn is_complete(&self) -> bool {
        self.pieces.is_complete()
    }

    /// What was counted since the start.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The peers that are connected now.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.peers.iter().map(|(key, connection)| connection.view(*key, self.now))
    }

    /// Bytes of blocks that each peer gave us since the start, also of those gone.
    pub fn downloaded_by_peer(&self) -> BTreeMap<SocketAddr, u64> {
        let mut by_peer = self.departed.clone();
        for view in self.peers().filter(|view| view.downloaded_bytes > 0) {
            *by_peer.entry(view.address).or_default() += view.downloaded_bytes;
        }
        by_peer
    }

    /// Whether a super-seeding pass is still under way.
    pub fn is_revealing(&self) -> bool {
        self.reveal.is_some()
    }

    fn advance(&mut self, now: Moment) {
        self.now = self.now.max(now);
    }

    fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::Tell(event));
    }

    fn send(&mut self, to: PeerKey, message: Message) {
        let Some(connection) = self.peers.get_mut(&to) else { return };
        connection.unsent_bytes += message.wire_bytes() as u64;
        connection.last_sent = self.now;
        if matches!(message, Message::Have(_)) {
            self.counts.have_messages += 1;
            self.counts.have_bytes += message.wire_bytes() as u64;
        }
        let overrun = connection.unsent_bytes > UNSENT_BYTES_MAX;
        self.actions.push_back(Action::Send { to, message });
        if overrun {
            self.close(to, CloseReason::SlowReader);
        }
    }

    fn active(&self, peer: PeerKey) -> Option<&Active> {
        match &self.peers.get(&peer)?.standing {
            Standing::Active(active) => Some(active),
            Standing::Greeting | Standing::Proving(_) => None,
        }
    }

    fn active_mut(&mut self, peer: PeerKey) -> Option<&mut Active> {
        match &mut self.peers.get_mut(&peer)?.standing {
            Standing::Active(active) => Some(active),
            Standing::Greeting | Standing::Proving(_) => None,
        }
    }

    fn active_peers(&self) -> impl Iterator<Item = (PeerKey, &Active)> {
        self.peers.iter().filter_map(|(key, connection)| match &connection.standing {
            Standing::Active(active) => Some((*key, active.as_ref())),
            Standing::Greeting | Standing::Proving(_) => None,
        })
    }

    fn active_keys(&self) -> Vec<PeerKey> {
        self.active_peers().map(|(key, _)| key).collect()
    }

    /// Drops a peer and has the driver close its connection.
    fn close(&mut self, peer: PeerKey, reason: CloseReason) {
        if self.peers.contains_key(&peer) {
            self.actions.push_back(Action::Close { peer, reason });
            self.forget(peer, reason);
        }
    }

    /// Removes every trace of a peer; what it owed is asked of others.
    fn forget(&mut self, peer: PeerKey, reason: CloseReason) {
        let Some(connection) = self.peers.remove(&peer) else { return };
        *self.counts.closed.entry(reason).or_default() += 1;
        self.suspicions.remember(peer, connection.culprit());
        self.slots.retain(|slot| slot.peer != peer);
        let view = connection.view(peer, self.now);
        if view.downloaded_bytes > 0
            && (self.departed.len() < DEPARTED_MAX || self.departed.contains_key(&view.address))
        {
            *self.departed.entry(view.address).or_default() += view.downloaded_bytes;
        }
        if let Some(address) = connection.dialled() {
            match reason {
                CloseReason::SelfConnection => self.addresses.never(address),
                // The other connection to the same peer lives on; try again only after that one is lost.
                CloseReason::Duplicate => {}
                _ => self.addresses.lost(self.now, address, &mut self.chance),
            }
        }
        if let Standing::Active(active) = connection.standing {
            let geometry = self.config.geometry;
            for piece in active.have.iter().filter_map(|raw| geometry.piece(raw)) {
                self.pieces.peer_lacks(piece);
            }
            for asked in &active.outstanding {
                self.pieces.unask(asked.block.piece(), asked.block.number(), peer);
            }
            self.free_soles_of(peer);
            if let Some(reveal) = &mut self.reveal {
                reveal.forget(peer);
            }
            self.fill_all();
            self.serve();
            self.reveal_more();
        }
    }

    /// A piece that only a vanished peer was allowed to deliver starts again.
    fn free_soles_of(&mut self, peer: PeerKey) {
        let stuck: Vec<PieceIndex> = self
            .pieces
            .arriving()
            .filter(|(_, arriving)| arriving.is_orphan() && arriving.is_sole(peer))
            .map(|(piece, _)| piece)
            .collect();
        for piece in stuck {
            self.abandon(piece);
        }
    }

    fn abandon(&mut self, piece: PieceIndex) {
        self.pieces.abandon(piece);
        self.actions.push_back(Action::Discard { piece });
    }

    /// Errors with the first invariant that doesn't hold. For tests, simulators and fuzzers: it looks at every
    /// piece of every peer.
    pub fn check_invariants(&self) -> Result<(), String> {
        if let Some(broken) = self.pieces.broken_invariant() {
            return Err(broken);
        }
        for piece in self.pieces.geometry().all() {
            let sum = self.active_peers().filter(|(_, active)| active.have.has(piece)).count();
            if sum != self.pieces.availability(piece) as usize {
                return Err(format!("availability of {} is not the sum {sum}", piece.get()));
            }
        }
        for (key, active) in self.active_peers() {
            active.check_invariants(key, &self.pieces, self.log.len())?;
        }
        let keys: BTreeSet<PeerKey> = self.slots.iter().map(|slot| slot.peer).collect();
        if self.slots.len() > upload::SLOTS_MAX || keys.len() != self.slots.len() {
            return Err(format!("{} upload slots for {} peers", self.slots.len(), keys.len()));
        }
        if self.peers.len() > self.config.limits.peers_max {
            return Err(format!("{} peers are over the limit", self.peers.len()));
        }
        if self.pieces.in_memory() > self.config.pieces_in_memory_max() {
            return Err(format!("{} pieces in memory are over the limit", self.pieces.in_memory()));
        }
        Ok(())
    }
}
