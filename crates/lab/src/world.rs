//! A swarm in virtual time: one seed and many nodes, each running the real engine.
//!
//! The engine's actions become events of the queue: connections take a round trip, bytes take the links' time,
//! a piece's hash takes the node's time. Every event that reaches an engine goes into the trace hash, so two
//! runs can be compared by one number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use swarm::wire::{HANDSHAKE_BYTES, Handshake, Message, RawBlock};
use swarm::{
    Action, BlockVerdict, Chance, CheckOutcome, Event, Geometry, HavePolicy, InfoHash, Limits, Moment,
    PeerKey, PieceIndex, PieceSet, Side, Swarm, SwarmConfig,
};

use crate::network::{Arrival, ConnectionId, LinkRates, Network, NodeId, Wake};
use crate::queue::Queue;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Nodes besides the seed.
    pub nodes: usize,
    /// Image, bytes.
    pub image_bytes: u64,
    /// Piece, bytes.
    pub piece_bytes: u32,
    /// Rates of every link: what TCP can carry over it, without the headers of Ethernet, IP and TCP.
    pub rates: LinkRates,
    /// Nodes per rack and the rate of a rack's uplink; `None` for one switch.
    pub racks: Option<(usize, u64)>,
    /// Neighbours that each node is given.
    pub degree: usize,
    /// One way, besides the message's own length.
    pub latency: Duration,
    /// Bytes hashed per second.
    pub hash_bytes_s: u64,
    /// When to announce.
    pub have_policy: HavePolicy,
    /// Where all chance comes from.
    pub seed: u64,
}

impl Scenario {
    /// 100 Mbit/s links, 512 KiB pieces, degree 10: the shape of the published test.
    #[must_use]
    pub fn new(nodes: usize, image_bytes: u64) -> Self {
        // 1448 bytes of payload in frames of 1514, as the shaper of the test bed counts them.
        let rate = 12_500_000 * 1448 / 1514;
        Self {
            nodes,
            image_bytes,
            piece_bytes: 512 << 10,
            rates: LinkRates { egress_bytes_s: rate, ingress_bytes_s: rate },
            racks: None,
            degree: 10,
            latency: Duration::from_micros(100),
            hash_bytes_s: 1_000_000_000,
            have_policy: HavePolicy::Adaptive,
            seed: 1,
        }
    }

    /// The time that one link needs to carry the image once, seconds.
    #[must_use]
    pub fn bound_s(&self) -> f64 {
        self.image_bytes as f64 / self.rates.ingress_bytes_s as f64
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When each node had everything, seconds; `None` for one that never had.
    pub complete_s: Vec<Option<f64>>,
    /// Wire bytes that the seed sent, in image sizes.
    pub seed_copies: f64,
    /// HAVE messages of all, the seed included.
    pub have_messages: u64,
    /// Blocks that arrived twice or too late, in image sizes over all nodes.
    pub redundant_copies: f64,
    /// Mean over pieces of the time from the first node's verification to the half and to all, seconds.
    pub diffusion_s: (f64, f64),
    /// Events handled.
    pub events: u64,
    /// A number that two equal runs share.
    pub trace: u64,
}

impl Outcome {
    /// When the last node was complete, seconds; infinite if one never was.
    #[must_use]
    pub fn last_s(&self) -> f64 {
        self.complete_s.iter().map(|time| time.unwrap_or(f64::INFINITY)).fold(0.0, f64::max)
    }
}

/// A message on the simulated wire.
#[derive(Clone, Debug)]
enum Wire {
    Handshake(Handshake),
    Message(Message),
    Block(RawBlock),
}

enum Happening {
    /// The engine's timeout.
    Tick(NodeId),
    /// The link has sent what it had: which connection's bytes, if any.
    Sent(NodeId, Option<(ConnectionId, u32)>),
    Arrives(Arrival<Wire>),
    Connects {
        from: NodeId,
        to: NodeId,
    },
    Checked(NodeId, PieceIndex),
    Closes(NodeId, PeerKey),
}

struct Peer {
    engine: Swarm,
    /// Each connection of this node: the outgoing direction.
    links: BTreeMap<PeerKey, ConnectionId>,
    complete_ns: Option<u64>,
    tick_ns: u64,
    hash_free_ns: u64,
}

/// A swarm in virtual time.
pub struct World {
    scenario: Scenario,
    geometry: Geometry,
    queue: Queue<Happening>,
    network: Network<Wire>,
    peers: Vec<Peer>,
    /// For each direction of a connection: whose it is at the receiving end.
    receivers: BTreeMap<ConnectionId, (NodeId, PeerKey)>,
    graph: Vec<BTreeSet<usize>>,
    incomplete: usize,
    verified_at: Vec<Vec<u64>>,
    events: u64,
    trace: u64,
}

impl World {
    /// Builds the world; nothing has happened yet. `None` if the scenario has no image.
    #[must_use]
    pub fn new(scenario: Scenario) -> Option<Self> {
        let geometry = Geometry::new(scenario.image_bytes, scenario.piece_bytes).ok()?;
        let latency_ns = u64::try_from(scenario.latency.as_nanos()).unwrap_or(u64::MAX);
        let mut network = Network::new(latency_ns, 256 << 10);
        let mut racks = Vec::new();
        let mut peers = Vec::new();
        for node in 0..=scenario.nodes {
            let rack = match scenario.racks {
                None => 0,
                // The seed stands alone, above the racks.
                Some(_) if node == 0 => 0,
                Some((size, _)) => 1 + (node - 1) / size,
            };
            while racks.len() <= rack {
                let uplink = if racks.is_empty() { None } else { scenario.racks.map(|(_, rate)| rate) };
                racks.push(network.add_rack(uplink));
            }
            network.add_node(*racks.get(rack)?, scenario.rates);
            peers.push(Peer {
                engine: Swarm::new(Moment::ZERO, engine_config(&scenario, geometry, node)).ok()?,
                links: BTreeMap::new(),
                complete_ns: (node == 0).then_some(0),
                tick_ns: u64::MAX,
                hash_free_ns: 0,
            });
        }
        let graph = neighbours(&scenario);
        let verified_at = vec![Vec::new(); usize::try_from(geometry.pieces()).ok()?];
        let incomplete = scenario.nodes;
        let (queue, receivers) = (Queue::default(), BTreeMap::new());
        let (events, trace) = (0, 0xcbf2_9ce4_8422_2325);
        Some(Self {
            scenario,
            geometry,
            queue,
            network,
            peers,
            receivers,
            graph,
            incomplete,
            verified_at,
            events,
            trace,
        })
    }

    /// Runs until every node is complete, or nothing more happens, or `limit` of virtual time is over.
    pub fn run(mut self, limit: Duration) -> Outcome {
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        for node in 0..self.peers.len() {
            let list: Vec<SocketAddr> =
                self.graph.get(node).into_iter().flatten().map(|&other| address(other)).collect();
            let now = self.now();
            if let Some(peer) = self.peers.get_mut(node) {
                peer.engine.handle_addresses(now, &list);
            }
            self.settle(NodeId(node));
        }
        while self.incomplete > 0
            && let Some(happening) = self.queue.pop()
        {
            if self.queue.now_ns() > limit_ns {
                break;
            }
            self.events += 1;
            self.happen(happening);
        }
        self.outcome()
    }

    fn now(&self) -> Moment {
        Moment::after_origin(Duration::from_nanos(self.queue.now_ns()))
    }

    fn note(&mut self, kind: u64, node: NodeId, detail: u64) {
        for word in [kind, node.0 as u64, detail, self.queue.now_ns()] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now();
        match happening {
            Happening::Tick(node) => {
                let now_ns = self.queue.now_ns();
                let Some(peer) = self.peers.get_mut(node.0) else { return };
                if peer.tick_ns > now_ns {
                    return;
                }
                peer.tick_ns = u64::MAX;
                peer.engine.handle_timeout(now);
                self.note(1, node, 0);
                self.settle(node);
            }
            Happening::Sent(node, what) => {
                if let Some((connection, bytes)) = what {
                    self.report_sent(now, node, connection, bytes);
                }
                self.pump(node);
            }
            Happening::Arrives(arrival) => self.arrive(now, arrival),
            Happening::Connects { from, to } => self.join(now, from, to),
            Happening::Checked(node, piece) => {
                let Some(peer) = self.peers.get_mut(node.0) else { return };
                peer.engine.handle_checked(now, piece, CheckOutcome::Stored);
                self.note(2, node, u64::from(piece.get()));
                self.settle(node);
            }
            Happening::Closes(node, key) => {
                let Some(peer) = self.peers.get_mut(node.0) else { return };
                if peer.links.remove(&key).is_some() {
                    peer.engine.handle_disconnected(now, key);
                    self.note(3, node, 0);
                    self.settle(node);
                }
            }
        }
    }

    /// Tells the sending engine that bytes have left, so that it hands over more.
    fn report_sent(&mut self, now: Moment, node: NodeId, connection: ConnectionId, bytes: u32) {
        let Some(peer) = self.peers.get_mut(node.0) else { return };
        let Some(key) = peer.links.iter().find(|(_, link)| **link == connection).map(|(key, _)| *key) else {
            return;
        };
        peer.engine.handle_sent(now, key, u64::from(bytes));
        self.settle(node);
    }

    fn arrive(&mut self, now: Moment, arrival: Arrival<Wire>) {
        if let Some(sender) = self.network.arrived(arrival.connection, arrival.bytes) {
            self.pump(sender);
        }
        let Some(&(node, key)) = self.receivers.get(&arrival.connection) else { return };
        if !self.network.is_open(arrival.connection) {
            return;
        }
        let Some(peer) = self.peers.get_mut(node.0) else { return };
        let detail = match arrival.message {
            Wire::Handshake(handshake) => {
                peer.engine.handle_handshake(now, key, handshake);
                0
            }
            Wire::Message(message) => {
                peer.engine.handle_message(now, key, message);
                1
            }
            Wire::Block(raw) => {
                let verdict = peer.engine.handle_block(now, key, raw);
                u64::from(raw.piece) << 8 | u64::from(verdict != BlockVerdict::Drop)
            }
        };
        self.note(4, node, detail);
        self.settle(node);
    }

    /// A connection comes about at both ends, or not.
    fn join(&mut self, now: Moment, from: NodeId, to: NodeId) {
        let accepted = self
            .peers
            .get_mut(to.0)
            .map(|peer| peer.engine.handle_connected(now, address(from.0), Side::Inbound));
        let Some(dialling) = self.peers.get_mut(from.0) else { return };
        match accepted {
            Some(Ok(theirs)) => match dialling.engine.handle_connected(now, address(to.0), Side::Outbound) {
                Ok(ours) => {
                    let (out, back) = (self.network.connect(from, to), self.network.connect(to, from));
                    dialling.links.insert(ours, out);
                    if let Some(peer) = self.peers.get_mut(to.0) {
                        peer.links.insert(theirs, back);
                    }
                    self.receivers.insert(out, (to, theirs));
                    self.receivers.insert(back, (from, ours));
                }
                Err(_) => {
                    if let Some(peer) = self.peers.get_mut(to.0) {
                        peer.engine.handle_disconnected(now, theirs);
                    }
                }
            },
            Some(Err(_)) | None => dialling.engine.handle_connect_failed(now, address(to.0)),
        }
        self.note(5, from, to.0 as u64);
        self.settle(from);
        self.settle(to);
    }

    /// Does what the engine of `node` wants done, and looks when it wants to be asked again.
    fn settle(&mut self, node: NodeId) {
        while let Some(action) = self.peers.get_mut(node.0).and_then(|peer| peer.engine.poll_action()) {
            self.act(node, action);
        }
        self.pump(node);
        let Some(peer) = self.peers.get_mut(node.0) else { return };
        if let Some(at) = peer.engine.poll_timeout() {
            let at_ns = u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX);
            if at_ns < peer.tick_ns {
                peer.tick_ns = at_ns;
                self.queue.push(at_ns, Happening::Tick(node));
            }
        }
    }

    fn act(&mut self, node: NodeId, action: Action) {
        let now_ns = self.queue.now_ns();
        match action {
            Action::Connect { address } => {
                let latency_ns = u64::try_from(self.scenario.latency.as_nanos()).unwrap_or(u64::MAX);
                if let Some(to) = number(address).filter(|to| *to < self.peers.len()) {
                    self.queue
                        .push(now_ns + 2 * latency_ns, Happening::Connects { from: node, to: NodeId(to) });
                }
            }
            Action::Handshake { to, handshake } => {
                self.transmit(node, to, Wire::Handshake(handshake), HANDSHAKE_BYTES);
            }
            Action::Send { to, message } => {
                let bytes = message.wire_bytes();
                self.transmit(node, to, Wire::Message(message), bytes);
            }
            Action::SendBlock { to, block } => {
                let raw = RawBlock::from(block);
                self.transmit(node, to, Wire::Block(raw), Message::Piece(raw).wire_bytes());
            }
            Action::Close { peer, .. } => self.hang_up(node, peer),
            Action::Check { piece } => {
                let bytes = u64::from(self.geometry.bytes_of(piece));
                let Some(peer) = self.peers.get_mut(node.0) else { return };
                peer.hash_free_ns =
                    peer.hash_free_ns.max(now_ns) + bytes * 1_000_000_000 / self.scenario.hash_bytes_s;
                self.queue.push(peer.hash_free_ns, Happening::Checked(node, piece));
            }
            Action::Tell(Event::PieceVerified(piece)) => {
                if let Some(times) =
                    usize::try_from(piece.get()).ok().and_then(|at| self.verified_at.get_mut(at))
                {
                    times.push(now_ns);
                }
            }
            Action::Tell(Event::Complete) => {
                let Some(peer) = self.peers.get_mut(node.0) else { return };
                if peer.complete_ns.is_none() {
                    peer.complete_ns = Some(now_ns);
                    self.incomplete -= 1;
                }
            }
            // No tracker and no web seed in this world; nobody corrupts anything.
            Action::Announce { .. } | Action::FetchWeb { .. } | Action::Discard { .. } | Action::Tell(_) => {}
        }
    }

    fn transmit(&mut self, node: NodeId, to: PeerKey, wire: Wire, bytes: usize) {
        let Some(&link) = self.peers.get(node.0).and_then(|peer| peer.links.get(&to)) else { return };
        self.network.send(link, wire, u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn hang_up(&mut self, node: NodeId, key: PeerKey) {
        let Some(link) = self.peers.get_mut(node.0).and_then(|peer| peer.links.remove(&key)) else { return };
        self.network.disconnect(link);
        if let Some((other, theirs)) = self.receivers.remove(&link) {
            let latency_ns = u64::try_from(self.scenario.latency.as_nanos()).unwrap_or(u64::MAX);
            if let Some(back) = self.peers.get(other.0).and_then(|peer| peer.links.get(&theirs)) {
                self.network.disconnect(*back);
                self.receivers.remove(back);
            }
            self.queue.push(self.queue.now_ns() + latency_ns, Happening::Closes(other, theirs));
        }
    }

    /// Lets the node's link take what it can.
    fn pump(&mut self, node: NodeId) {
        let now_ns = self.queue.now_ns();
        while let Some((arrival, Wake(left_ns))) = self.network.poll_egress(now_ns, node) {
            self.queue.push(left_ns, Happening::Sent(node, Some((arrival.connection, arrival.bytes))));
            self.queue.push(arrival.at_ns, Happening::Arrives(arrival));
        }
    }

    fn outcome(&self) -> Outcome {
        let image = self.scenario.image_bytes as f64;
        let counts = || self.peers.iter().map(|peer| peer.engine.counts());
        let seconds = |ns: u64| ns as f64 / 1e9;
        let (mut half, mut all) = (0.0, 0.0);
        for times in &self.verified_at {
            if let (Some(first), Some(middle), Some(last)) =
                (times.first(), times.get(times.len() / 2), times.last())
            {
                half += seconds(middle - first);
                all += seconds(last - first);
            }
        }
        let pieces = f64::from(self.geometry.pieces());
        Outcome {
            complete_s: self.peers.iter().skip(1).map(|peer| peer.complete_ns.map(seconds)).collect(),
            seed_copies: self.network.carried_bytes(NodeId(0)).0 as f64 / image,
            have_messages: counts().map(|counts| counts.have_messages).sum(),
            redundant_copies: counts().map(|counts| counts.redundant_bytes as f64).sum::<f64>() / image,
            diffusion_s: (half / pieces, all / pieces),
            events: self.events,
            trace: self.trace,
        }
    }
}

fn engine_config(scenario: &Scenario, geometry: Geometry, node: usize) -> SwarmConfig {
    let mut peer_id = *b"-ES0100-000000000000";
    let mut seed = [0; 32];
    for (place, byte) in (node as u64).to_be_bytes().into_iter().enumerate() {
        if let Some(to) = peer_id.get_mut(12 + place) {
            *to = byte;
        }
    }
    for (to, byte) in
        seed.iter_mut().zip(scenario.seed.to_be_bytes().into_iter().chain((node as u64).to_be_bytes()))
    {
        *to = byte;
    }
    let is_seed = node == 0;
    let pieces = geometry.pieces();
    SwarmConfig {
        info_hash: InfoHash([7; 20]),
        geometry,
        peer_id,
        seed,
        have: if is_seed { PieceSet::full(pieces) } else { PieceSet::empty(pieces) },
        secret: None,
        open: true,
        super_seed: is_seed,
        first_pieces: 0..0,
        container_pieces: 1,
        have_policy: scenario.have_policy,
        listen_port: Some(PORT),
        first_peers: Vec::new(),
        has_tracker: false,
        has_web_seed: false,
        limits: Limits {
            peers_max: 4096,
            peers_per_address_max: 4096,
            handshakes_max: 4096,
            ..Limits::default()
        },
    }
}

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

/// A random regular graph: every node, the seed included, has about `degree` neighbours; each edge is listed at
/// one end only. With racks, two thirds of a node's neighbours are of its own.
fn neighbours(scenario: &Scenario) -> Vec<BTreeSet<usize>> {
    let count = scenario.nodes + 1;
    let degree = scenario.degree.min(count - 1);
    let mut chance_seed = [0; 32];
    chance_seed.iter_mut().zip(scenario.seed.to_le_bytes()).for_each(|(to, byte)| *to = byte ^ 0x5a);
    let mut chance = Chance::new(chance_seed);
    let rack = |node: usize| scenario.racks.filter(|_| node > 0).map(|(size, _)| 1 + (node - 1) / size);
    let mut graph = vec![BTreeSet::new(); count];
    let mut degrees = vec![0; count];
    // Rounds of random matchings: in each a node gets at most one more neighbour.
    for round in 0..degree * 4 {
        let inside = scenario.racks.is_some() && round % 3 != 2;
        let mut order: Vec<usize> = (0..count).collect();
        chance.shuffle(&mut order);
        if inside {
            order.sort_by_key(|node| rack(*node));
        }
        for pair in order.chunks_exact(2) {
            // The seed is number 0 and, being complete, dials nobody: the higher number dials.
            let [a, b] = *pair else { continue };
            let (a, b) = (a.max(b), a.min(b));
            let full = [a, b].iter().any(|node| degrees.get(*node).is_none_or(|have| *have >= degree));
            let known = graph.get(a).is_some_and(|list: &BTreeSet<usize>| list.contains(&b));
            if full || known || (inside && rack(a) != rack(b)) {
                continue;
            }
            if let Some(list) = graph.get_mut(a) {
                list.insert(b);
            }
            for node in [a, b] {
                if let Some(have) = degrees.get_mut(node) {
                    *have += 1;
                }
            }
        }
    }
    graph
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(scenario: Scenario) -> Outcome {
        let limit = Duration::from_secs_f64(scenario.bound_s() * 20.0 + 60.0);
        World::new(scenario).unwrap().run(limit)
    }

    #[test]
    fn one_node_takes_the_time_of_its_link() {
        let scenario = Scenario::new(1, 32 << 20);
        let bound = scenario.bound_s();
        let ratio = run(scenario).last_s() / bound;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
        let scenario = Scenario { piece_bytes: 256 << 10, ..Scenario::new(6, 8 << 20) };
        let first = run(scenario.clone());
        assert_eq!(first.trace, run(scenario.clone()).trace);
        assert_ne!(first.trace, run(Scenario { seed: 2, ..scenario }).trace);
        assert!(first.complete_s.iter().all(Option::is_some));
    }
}
