//! A swarm in virtual time: one seed and many nodes, each running the real engine, and the real tracker.
//!
//! The engine's actions become events of the queue: connections and announces take a round trip, bytes take the
//! links' time, a piece's hash takes the node's time. Every event that reaches an engine goes into the trace
//! hash, so two runs can be compared by one number.

mod act;
mod incidents;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use swarm::tracker::Tracker;
use swarm::wire::{Handshake, Message, RawBlock};
use swarm::{
    AnnounceEvent, BlockVerdict, CheckOutcome, Geometry, HaveBatch, InfoHash, Limits, Moment, PeerKey,
    PieceIndex, PieceSet, Swarm, SwarmConfig,
};

use crate::measure::Measuring;
use crate::network::{Arrival, ConnectionId, Network, NodeId};
use crate::oracle::Oracle;
use crate::outcome::{Measures, Outcome, Uplinks};
use crate::queue::Queue;
use crate::scenario::{Incident, Meeting, Scenario};

/// How long a world goes on after its end, if it is checked, so that what is under way arrives.
const REST_NS: u64 = 2_000_000_000;

/// Bytes that may be under way on one connection: what a socket buffers.
const WINDOW_BYTES: u64 = 256 << 10;

/// A message on the simulated wire.
#[derive(Clone, Debug)]
enum Wire {
    Handshake(Handshake),
    Message(Message),
    Block { raw: RawBlock, corrupt: bool },
}

/// Which life of which node: what belongs to an earlier one is void.
type Life = (NodeId, u32);

enum Happening {
    /// The engine's timeout.
    Tick(Life),
    /// The link has sent a block, with these bytes on this connection since the last.
    Sent(NodeId, ConnectionId, u32),
    Arrives(Arrival<Wire>),
    Connects {
        from: Life,
        to: NodeId,
    },
    Checked(Life, PieceIndex, CheckOutcome),
    /// The other end of this connection has closed it.
    Closes(ConnectionId),
    /// An announce has come to the tracker.
    Announces(Life, AnnounceEvent, u64),
    /// Its answer has come back.
    Announced(Life, AnnounceEvent, Option<(Duration, Vec<SocketAddr>)>),
    Joins(NodeId),
    Sample,
    Happens(Incident),
}

/// One direction of a connection.
#[derive(Clone, Copy)]
struct End {
    from: NodeId,
    /// The connection's name at the sender, and at the receiver.
    key: PeerKey,
    to: NodeId,
    their_key: PeerKey,
    /// Bytes of small messages that the engine has not heard of as sent.
    unreported_bytes: u32,
}

struct Peer {
    engine: Swarm,
    /// Counts its starts.
    life: u32,
    alive: bool,
    /// Each connection of this node: the outgoing direction.
    links: BTreeMap<PeerKey, ConnectionId>,
    complete_ns: Option<u64>,
    tick_ns: u64,
    hash_free_ns: u64,
    disk_free_ns: u64,
    blocks_sent: u64,
    corrupts_every: u64,
    /// What engines of earlier lives counted.
    earlier: Tally,
}

/// What is counted over all lives of a node.
#[derive(Clone, Copy, Default)]
struct Tally {
    have_messages: u64,
    have_bytes: u64,
    redundant_bytes: u64,
    corrupt_pieces: u64,
}

impl Tally {
    fn of(engine: &Swarm) -> Self {
        let counts = engine.counts();
        Self {
            have_messages: counts.have_messages,
            have_bytes: counts.have_bytes,
            redundant_bytes: counts.redundant_bytes,
            corrupt_pieces: counts.corrupt_pieces,
        }
    }

    fn add(&mut self, other: Self) {
        self.have_messages += other.have_messages;
        self.have_bytes += other.have_bytes;
        self.redundant_bytes += other.redundant_bytes;
        self.corrupt_pieces += other.corrupt_pieces;
    }
}

/// A swarm in virtual time.
pub struct World {
    scenario: Scenario,
    geometry: Geometry,
    queue: Queue<Happening>,
    network: Network<Wire>,
    peers: Vec<Peer>,
    ends: Vec<End>,
    tracker: Option<Tracker>,
    /// Nodes that lack something, and incidents to come.
    awaited: usize,
    measuring: Option<Measuring>,
    uplinks: Vec<Uplinks>,
    oracle: Option<Oracle>,
    events: u64,
    trace: u64,
}

impl World {
    /// Builds the world; nothing has happened yet. `None` if the scenario has no image.
    #[must_use]
    pub fn new(scenario: Scenario) -> Option<Self> {
        let geometry = Geometry::new(scenario.image_bytes, scenario.piece_bytes).ok()?;
        let latency_ns = u64::try_from(scenario.latency.as_nanos()).unwrap_or(u64::MAX);
        let mut network = Network::new(latency_ns, WINDOW_BYTES);
        let mut peers = Vec::new();
        // Rack 0 is the core, where the seed stands.
        let mut racks = vec![network.add_rack(None)];
        for node in 0..=scenario.nodes {
            let rack = scenario.rack(node).map_or(0, |rack| rack + 1);
            while racks.len() <= rack {
                racks.push(network.add_rack(scenario.racks.map(|(_, rate)| rate)));
            }
            let character = scenario.character(NodeId(node));
            network.add_node(*racks.get(rack)?, character.rates.unwrap_or(scenario.rates));
            let have = if node == 0 {
                PieceSet::full(geometry.pieces())
            } else {
                PieceSet::empty(geometry.pieces())
            };
            peers.push(Peer {
                engine: Swarm::new(Moment::ZERO, engine_config(&scenario, geometry, (NodeId(node), 0), have))
                    .ok()?,
                life: 0,
                alive: false,
                links: BTreeMap::new(),
                complete_ns: (node == 0).then_some(0),
                tick_ns: u64::MAX,
                hash_free_ns: 0,
                disk_free_ns: 0,
                blocks_sent: 0,
                corrupts_every: character.corrupts_every,
                earlier: Tally::default(),
            });
        }
        let corrupting = peers.iter().any(|peer| peer.corrupts_every > 0);
        Some(Self {
            measuring: scenario.measured.then(|| Measuring::new(scenario.nodes, geometry.pieces())),
            oracle: (corrupting || scenario.checked_every > 0).then(Oracle::default),
            awaited: scenario.nodes + scenario.incidents.len(),
            scenario,
            geometry,
            queue: Queue::default(),
            network,
            peers,
            ends: Vec::new(),
            tracker: None,
            uplinks: Vec::new(),
            events: 0,
            trace: 0xcbf2_9ce4_8422_2325,
        })
    }

    /// Runs until every node is complete and every incident over, or nothing more happens, or `limit` of virtual
    /// time is over.
    #[must_use]
    pub fn run(mut self, limit: Duration) -> Outcome {
        self.begin();
        self.run_until(nanos(limit));
        let ended_ns = self.queue.now_ns();
        let measures = self.measuring.take().map(|measuring| measuring.finish(ended_ns));
        if self.oracle.is_some() && self.awaited == 0 {
            self.awaited = usize::MAX;
            self.run_until(ended_ns.saturating_add(REST_NS));
            // Who lost its power answers no more, and what it was owed is owed to nobody.
            let held: BTreeSet<ConnectionId> = self
                .peers
                .iter()
                .filter(|peer| peer.alive)
                .flat_map(|peer| peer.links.values().copied())
                .collect();
            let lives = |link: ConnectionId| held.contains(&link) && held.contains(&opposite(link));
            self.oracle.iter_mut().for_each(|oracle| oracle.at_rest(lives));
        }
        self.outcome(measures)
    }

    fn begin(&mut self) {
        for (at, incident) in std::mem::take(&mut self.scenario.incidents) {
            self.queue.push(nanos(at), Happening::Happens(incident));
        }
        if self.scenario.meeting != Meeting::All {
            self.start_tracker();
        }
        if self.measuring.is_some() {
            self.queue.push(0, Happening::Sample);
        }
        for node in 0..self.peers.len() {
            let at = self.scenario.character(NodeId(node)).joins_at;
            self.queue.push(nanos(at), Happening::Joins(NodeId(node)));
        }
    }

    fn run_until(&mut self, limit_ns: u64) {
        while self.awaited > 0
            && self.oracle.as_ref().is_none_or(|oracle| oracle.broken.is_none())
            && let Some(happening) = self.queue.pop()
        {
            if self.queue.now_ns() > limit_ns {
                return;
            }
            self.events += 1;
            self.happen(happening);
            if self.scenario.checked_every > 0 && self.events.is_multiple_of(self.scenario.checked_every) {
                self.check();
            }
        }
    }

    fn now(&self) -> Moment {
        Moment::after_origin(Duration::from_nanos(self.queue.now_ns()))
    }

    fn latency_ns(&self) -> u64 {
        nanos(self.scenario.latency)
    }

    fn note(&mut self, kind: u64, node: NodeId, detail: u64) {
        for word in [kind, node.0 as u64, detail, self.queue.now_ns()] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
        }
    }

    /// The node, if it is still in this life.
    fn living(&mut self, (node, life): Life) -> Option<&mut Peer> {
        self.peers.get_mut(node.0).filter(|peer| peer.alive && peer.life == life)
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now();
        match happening {
            Happening::Tick(life) => self.tick(now, life),
            Happening::Sent(node, connection, bytes) => self.sent(now, node, connection, bytes),
            Happening::Arrives(arrival) => match self.network.pass_on(arrival) {
                Ok(arrival) => self.arrive(now, arrival),
                Err(arrival) => self.queue.push(arrival.at_ns, Happening::Arrives(arrival)),
            },
            Happening::Connects { from, to } => self.connect(now, from, to),
            Happening::Checked(life, piece, outcome) => {
                let Some(peer) = self.living(life) else { return };
                peer.engine.handle_checked(now, piece, outcome);
                self.note(2, life.0, u64::from(piece.get()));
                self.settle(life.0);
            }
            Happening::Closes(connection) => self.closed(now, connection),
            Happening::Announces(life, event, left) => self.track(now, life, event, left),
            Happening::Announced(life, event, reply) => {
                let Some(peer) = self.living(life) else { return };
                let (interval, peers) = reply.unzip();
                peer.engine.handle_announced(now, event, interval);
                peer.engine.handle_addresses(now, peers.as_deref().unwrap_or_default());
                self.note(6, life.0, 0);
                self.settle(life.0);
            }
            Happening::Joins(node) => self.start_node(node),
            Happening::Sample => self.sample(),
            Happening::Happens(incident) => {
                self.awaited -= 1;
                self.incident(incident);
            }
        }
    }

    fn tick(&mut self, now: Moment, life: Life) {
        let now_ns = self.queue.now_ns();
        let Some(peer) = self.living(life).filter(|peer| peer.tick_ns <= now_ns) else { return };
        peer.tick_ns = u64::MAX;
        if peer.engine.poll_timeout().is_some_and(|at| at <= now) {
            peer.engine.handle_timeout(now);
        }
        self.note(1, life.0, 0);
        self.settle(life.0);
    }

    /// Tells the sending engine that bytes have left, so that it hands over more.
    fn sent(&mut self, now: Moment, node: NodeId, connection: ConnectionId, bytes: u32) {
        if let Some(end) = self.ends.get(connection.0).copied()
            && let Some(peer) = self.peers.get_mut(node.0)
            && peer.alive
            && peer.links.get(&end.key) == Some(&connection)
        {
            peer.engine.handle_round_trip(now, end.key, 2 * self.scenario.latency);
            peer.engine.handle_sent(now, end.key, u64::from(bytes));
        }
        self.settle(node);
    }

    fn arrive(&mut self, now: Moment, arrival: Arrival<Wire>) {
        let Some(End { from, to, their_key: key, .. }) = self.ends.get(arrival.connection.0).copied() else {
            return;
        };
        // A node without power takes nothing off the line.
        if !self.peers.get(to.0).is_some_and(|peer| peer.alive) {
            return;
        }
        if self.network.arrived(arrival.connection, arrival.bytes).is_some() {
            self.pump(from);
        }
        let back = opposite(arrival.connection);
        let Some(peer) = self.peers.get_mut(to.0).filter(|peer| peer.links.get(&key) == Some(&back)) else {
            return;
        };
        let detail = match arrival.message {
            Wire::Handshake(handshake) => {
                peer.engine.handle_handshake(now, key, handshake);
                0
            }
            Wire::Message(message) => {
                self.hear(from, to, arrival.connection, &message);
                if let Some(peer) = self.peers.get_mut(to.0) {
                    peer.engine.handle_message(now, key, message);
                }
                1
            }
            Wire::Block { raw, corrupt } => {
                let verdict = peer.engine.handle_block(now, key, raw);
                if let Some(oracle) = &mut self.oracle {
                    oracle.settled(to, back, raw);
                    if matches!(verdict, BlockVerdict::Keep(_)) {
                        oracle.keeps(to, raw, corrupt);
                    }
                }
                u64::from(raw.piece) << 8 | u64::from(verdict != BlockVerdict::Drop)
            }
        };
        self.note(4, to, detail);
        self.settle(to);
    }

    /// What those who watch make of a message that arrives.
    fn hear(&mut self, from: NodeId, to: NodeId, over: ConnectionId, message: &Message) {
        if let Some(oracle) = &mut self.oracle {
            match message {
                Message::Request(raw) => oracle.requested(opposite(over), *raw),
                Message::Reject(raw) => oracle.settled(to, opposite(over), *raw),
                _ => {}
            }
        }
        let (Some(measuring), Some(peer)) = (&mut self.measuring, self.peers.get(to.0)) else { return };
        let pieces: Vec<u32> = match message {
            Message::Have(raw) => vec![*raw],
            Message::Extended { id, payload } if *id != 0 => {
                let batch = HaveBatch::parse(payload, self.geometry.pieces());
                batch.map(|batch| batch.pieces().collect()).unwrap_or_default()
            }
            _ => return,
        };
        for piece in pieces.into_iter().filter_map(|raw| self.geometry.piece(raw)) {
            if !peer.engine.verified().contains(piece.get()) {
                measuring.learned(self.queue.now_ns(), from, piece);
            }
        }
    }

    /// Checks what must hold at every step.
    fn check(&mut self) {
        let Some(oracle) = &mut self.oracle else { return };
        for (node, peer) in self.peers.iter().enumerate().filter(|(_, peer)| peer.alive) {
            if let Err(broken) = peer.engine.check_invariants() {
                oracle.fail(|| format!("node {node}: {broken}"));
            }
            for (key, connection) in &peer.links {
                if let Some(entries) = peer.engine.told(*key) {
                    oracle.told(*connection, entries);
                }
            }
        }
    }

    fn outcome(&self, measures: Option<Measures>) -> Outcome {
        let mut sum = Tally::default();
        for peer in &self.peers {
            sum.add(peer.earlier);
            sum.add(Tally::of(&peer.engine));
        }
        let image = self.scenario.image_bytes as f64;
        let complete = self.peers.iter().skip(1).map(|peer| peer.complete_ns.map(|at| at as f64 / 1e9));
        Outcome {
            complete_s: complete.collect(),
            seed_copies: self.network.carried_bytes(NodeId(0)).0 as f64 / image,
            have_messages: sum.have_messages,
            have_bytes: sum.have_bytes,
            corrupt_pieces: sum.corrupt_pieces,
            redundant_copies: sum.redundant_bytes as f64 / image,
            measures,
            uplinks: self.uplinks.clone(),
            broken: self.oracle.as_ref().and_then(|oracle| oracle.broken.clone()),
            events: self.events,
            trace: self.trace,
        }
    }
}

fn engine_config(scenario: &Scenario, geometry: Geometry, (node, life): Life, have: PieceSet) -> SwarmConfig {
    let number = (node.0 as u64).to_be_bytes();
    let mut peer_id = *b"-ES0100-000000000000";
    peer_id.iter_mut().skip(8).zip(life.to_be_bytes()).for_each(|(to, byte)| *to = byte);
    peer_id.iter_mut().skip(12).zip(number).for_each(|(to, byte)| *to = byte);
    let mut seed = [0; 32];
    let bytes = scenario.seed.to_be_bytes().into_iter().chain(number).chain(life.to_be_bytes());
    seed.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    let is_seed = node.0 == 0;
    let (first_peers, has_tracker) = match scenario.meeting {
        Meeting::Tracker { seed_is_known, .. } => {
            (if seed_is_known && !is_seed { vec![address(0)] } else { Vec::new() }, !is_seed)
        }
        // One end of each pair dials.
        Meeting::All => ((0..node.0).map(address).collect(), false),
    };
    SwarmConfig {
        info_hash: TORRENT,
        geometry,
        peer_id,
        seed,
        super_seed: is_seed && have.is_full(),
        have,
        secret: None,
        open: true,
        first_pieces: 0..0,
        container_pieces: 1,
        have_policy: scenario.have_policy,
        listen_port: Some(PORT),
        first_peers,
        has_tracker,
        has_web_seed: false,
        limits: Limits { peers_max: 4096, handshakes_max: 4096, ..Limits::default() },
    }
}

const TORRENT: InfoHash = InfoHash([7; 20]);

const PORT: u16 = 6881;

fn address(node: usize) -> SocketAddr {
    let number = u32::try_from(node).unwrap_or(u32::MAX >> 8);
    SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 | number), PORT))
}

fn number(address: SocketAddr) -> Option<usize> {
    match address {
        SocketAddr::V4(address) => usize::try_from(address.ip().to_bits() & 0x00ff_ffff).ok(),
        SocketAddr::V6(_) => None,
    }
}

/// The other direction of a connection: the two are made one after the other.
const fn opposite(connection: ConnectionId) -> ConnectionId {
    ConnectionId(connection.0 ^ 1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
