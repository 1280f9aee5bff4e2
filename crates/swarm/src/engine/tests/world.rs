//! A world of engines with a virtual clock: links with a rate and a delay, nodes that die, lie and come back.
//!
//! Everything that crosses a link is encoded and decoded. After each step the engines' invariants are checked,
//! and that each request is answered exactly once.

use super::super::*;
use crate::geometry::{Block, Geometry};
use crate::metainfo::InfoHash;
use crate::piece_set::PieceSet;
use crate::secret::{Secret, Side};
use crate::wire::{Decoder, HANDSHAKE_BYTES, Handshake, Message, RawBlock};
use std::collections::BTreeMap;
use std::time::Duration;

const DELAY: Duration = Duration::from_micros(100);
const CHECK_TIME: Duration = Duration::from_micros(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(pub(super) usize);

/// How a node of the world differs from a good one.
#[derive(Clone, Debug)]
pub(super) struct Character {
    /// Bytes per second that it can send.
    pub(super) uplink: u64,
    /// Flips a byte in every n-th block that it sends; 0 = never.
    pub(super) corrupts: u64,
    /// It takes requests and never sends a block.
    pub(super) stalls: bool,
    /// Rejects every n-th request instead of sending the block; 0 = never.
    pub(super) rejects: u64,
}

impl Default for Character {
    fn default() -> Character {
        Character { uplink: 100_000_000, corrupts: 0, stalls: false, rejects: 0 }
    }
}

pub(super) struct Node {
    pub(super) engine: Swarm,
    pub(super) config: SwarmConfig,
    pub(super) character: Character,
    pub(super) data: Vec<u8>,
    pub(super) events: Vec<Event>,
    pub(super) closed: Vec<CloseReason>,
    pub(super) finished: Option<Moment>,
    pub(super) blocks_sent: u64,
    buffers: BTreeMap<u32, BTreeMap<u32, Vec<u8>>>,
    links: BTreeMap<PeerKey, usize>,
    uplink_free: Moment,
    alive: bool,
    timer: Option<Moment>,
    cursors: BTreeMap<PeerKey, usize>,
}

struct End {
    node: NodeId,
    key: PeerKey,
    handshaken: bool,
    /// Requests that this end sent and that are not answered.
    open_requests: Vec<RawBlock>,
}

struct Link {
    ends: [Option<End>; 2],
}

enum Happening {
    Deliver { link: usize, end: usize, bytes: Vec<u8> },
    Sent { link: usize, end: usize, bytes: u64 },
    Checked { node: NodeId, piece: u32, life: u64 },
    Dial { from: NodeId, address: SocketAddr },
    Hangup { link: usize, end: usize },
    Timer { node: NodeId },
}

pub(super) struct World {
    pub(super) now: Moment,
    pub(super) nodes: Vec<Node>,
    pub(super) image: Vec<u8>,
    geometry: Geometry,
    links: Vec<Link>,
    queue: BTreeMap<(Moment, u64), Happening>,
    sequence: u64,
    lives: Vec<u64>,
    /// HAVE and `es_have` messages that crossed a link.
    pub(super) have_messages: u64,
    /// A hash over everything that happened.
    pub(super) trace: u64,
}

pub(super) const SECRET: Secret = Secret([42; 32]);

impl World {
    pub(super) fn new(image_bytes: usize, piece_bytes: u32) -> World {
        let image = (0..image_bytes).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect();
        World {
            now: Moment::ZERO,
            nodes: Vec::new(),
            image,
            geometry: Geometry::new(image_bytes as u64, piece_bytes).unwrap(),
            links: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            lives: Vec::new(),
            have_messages: 0,
            trace: 0,
        }
    }

    pub(super) fn address(node: NodeId) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, u8::try_from(node.0 + 1).unwrap()], 6881))
    }

    /// A node's configuration: closed swarm, adaptive HAVE, everyone knows everyone.
    pub(super) fn config(&self, complete: bool) -> SwarmConfig {
        let id = u8::try_from(self.nodes.len()).unwrap();
        let pieces = self.geometry.pieces();
        SwarmConfig {
            info_hash: InfoHash([1; 20]),
            geometry: self.geometry,
            peer_id: [id; 20],
            seed: [id; 32],
            have: if complete { PieceSet::full(pieces) } else { PieceSet::empty(pieces) },
            secret: Some(SECRET),
            open: false,
            super_seed: complete,
            first_pieces: 0..2,
            container_pieces: 4,
            have_policy: HavePolicy::Adaptive,
            listen_port: Some(6881),
            first_peers: (0..self.nodes.len()).map(|node| World::address(NodeId(node))).collect(),
            has_tracker: false,
            has_web_seed: false,
            limits: Limits::default(),
        }
    }

    pub(super) fn add(&mut self, config: SwarmConfig, character: Character) -> NodeId {
        let id = NodeId(self.nodes.len());
        let complete = config.have.is_full();
        let data = if complete { self.image.clone() } else { vec![0; self.image.len()] };
        self.nodes.push(Node {
            engine: Swarm::new(self.now, config.clone()).unwrap(),
            config,
            character,
            data,
            events: Vec::new(),
            closed: Vec::new(),
            finished: None,
            blocks_sent: 0,
            buffers: BTreeMap::new(),
            links: BTreeMap::new(),
            uplink_free: self.now,
            alive: true,
            timer: None,
            cursors: BTreeMap::new(),
        });
        self.lives.push(0);
        self.at(Duration::ZERO, Happening::Timer { node: id });
        id
    }

    pub(super) fn seed(&mut self) -> NodeId {
        self.add(self.config(true), Character::default())
    }

    pub(super) fn leecher(&mut self) -> NodeId {
        self.add(self.config(false), Character::default())
    }

    /// The node loses its power: its connections end, its engine forgets everything.
    pub(super) fn kill(&mut self, node: NodeId) {
        let links: Vec<usize> = self.nodes[node.0].links.values().copied().collect();
        for link in links {
            self.hang_up(link, node);
        }
        let dead = &mut self.nodes[node.0];
        dead.alive = false;
        dead.links.clear();
        dead.buffers.clear();
        dead.cursors.clear();
        self.lives[node.0] += 1;
    }

    /// It comes back with what it had stored, under a new peer id.
    pub(super) fn restart(&mut self, node: NodeId) {
        let back = &mut self.nodes[node.0];
        let mut config = back.config.clone();
        config.have = back.engine.verified().clone();
        config.peer_id[0] ^= 0x80;
        config.peer_id[1] = config.peer_id[1].wrapping_add(1);
        back.config = config.clone();
        back.engine = Swarm::new(self.now, config).unwrap();
        back.alive = true;
        back.timer = None;
        back.uplink_free = self.now;
        self.at(Duration::ZERO, Happening::Timer { node });
    }

    /// Lets the world run until `done`, at most `limit` of its time.
    pub(super) fn run_until(&mut self, limit: Duration, done: impl Fn(&World) -> bool) {
        let end = self.now.plus(limit);
        while !done(self) {
            let Some((&(at, sequence), _)) = self.queue.first_key_value() else {
                panic!("the world stands still")
            };
            assert!(at <= end, "not done after {limit:?}: {}", self.summary());
            let happening = self.queue.remove(&(at, sequence)).unwrap();
            self.now = at;
            self.happen(happening);
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now.plus(time);
        self.run_until(time * 2 + Duration::from_secs(1), |world| {
            world.queue.first_key_value().is_none_or(|((at, _), _)| *at >= end)
        });
        self.now = end;
    }

    pub(super) fn all_complete(&self) -> bool {
        self.nodes.iter().filter(|node| node.alive).all(|node| node.engine.is_complete())
    }

    pub(super) fn assert_byte_exact(&self) {
        for (id, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            assert!(node.data == self.image, "node {id} has another image");
        }
    }

    pub(super) fn summary(&self) -> String {
        let line = |(id, node): (usize, &Node)| {
            let engine = &node.engine;
            format!(
                "\n node {id}: alive {} pieces {} peers {:?} counts {:?}",
                node.alive,
                engine.verified().count(),
                engine.peers().map(|p| (p.address.ip(), p.active, p.pieces)).collect::<Vec<_>>(),
                engine.counts()
            )
        };
        self.nodes.iter().enumerate().map(line).collect()
    }

    fn at(&mut self, delay: Duration, happening: Happening) {
        self.at_moment(self.now.plus(delay), happening);
    }

    fn at_moment(&mut self, at: Moment, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { link, end, bytes } => self.deliver(link, end, &bytes),
            Happening::Sent { link, end, bytes } => {
                if let Some((node, key)) = self.end_of(link, end) {
                    self.nodes[node.0].engine.handle_sent(self.now, key, bytes);
                    self.settle(node);
                }
            }
            Happening::Checked { node, piece, life } if life == self.lives[node.0] => {
                self.checked(node, piece)
            }
            Happening::Checked { .. } => {}
            Happening::Dial { from, address } => self.dial(from, address),
            Happening::Hangup { link, end } => {
                if let Some((node, key)) = self.end_of(link, end) {
                    self.links[link].ends[end] = None;
                    self.nodes[node.0].links.remove(&key);
                    self.nodes[node.0].engine.handle_disconnected(self.now, key);
                    self.settle(node);
                }
            }
            Happening::Timer { node } => {
                self.nodes[node.0].timer = None;
                if self.nodes[node.0].alive {
                    self.nodes[node.0].engine.handle_timeout(self.now);
                    self.settle(node);
                }
            }
        }
    }

    fn end_of(&self, link: usize, end: usize) -> Option<(NodeId, PeerKey)> {
        self.links[link].ends[end].as_ref().map(|end| (end.node, end.key))
    }

    fn dial(&mut self, from: NodeId, address: SocketAddr) {
        let now = self.now;
        let to = (0..self.nodes.len()).map(NodeId).find(|id| World::address(*id) == address);
        let to = to.filter(|to| self.nodes[to.0].alive);
        if !self.nodes[from.0].alive {
            return;
        }
        let caller = SocketAddr::new(World::address(from).ip(), 40_000);
        let accepted = to.and_then(|to| {
            let key = self.nodes[to.0].engine.handle_connected(now, caller, Side::Inbound).ok()?;
            Some((to, key))
        });
        let Some((to, key)) = accepted else {
            self.nodes[from.0].engine.handle_connect_failed(now, address);
            return self.settle(from);
        };
        let link = self.links.len();
        let ends = match self.nodes[from.0].engine.handle_connected(now, address, Side::Outbound) {
            Ok(ours) => [Some((from, ours)), Some((to, key))],
            Err(_) => {
                self.nodes[to.0].engine.handle_disconnected(now, key);
                [None, None]
            }
        };
        let ends = ends.map(|end| {
            end.map(|(node, key)| {
                self.nodes[node.0].links.insert(key, link);
                End { node, key, handshaken: false, open_requests: Vec::new() }
            })
        });
        self.links.push(Link { ends });
        self.settle(from);
        self.settle(to);
    }

    fn hang_up(&mut self, link: usize, by: NodeId) {
        for end in 0..2 {
            match self.end_of(link, end) {
                Some((node, _)) if node == by => self.links[link].ends[end] = None,
                Some(_) => self.at(DELAY, Happening::Hangup { link, end }),
                None => {}
            }
        }
    }

    fn deliver(&mut self, link: usize, end: usize, bytes: &[u8]) {
        let mixed =
            [link as u64, end as u64, bytes.len() as u64, u64::from(self.now.since_origin().subsec_nanos())];
        self.trace =
            mixed.iter().fold(self.trace, |trace, part| (trace ^ part).wrapping_mul(0x100_0000_01b3));
        let Some((node, key)) = self.end_of(link, end) else { return };
        let now = self.now;
        let side = self.links[link].ends[end].as_mut().unwrap();
        if !side.handshaken {
            side.handshaken = true;
            let handshake: [u8; HANDSHAKE_BYTES] = bytes.try_into().unwrap();
            self.nodes[node.0].engine.handle_handshake(now, key, Handshake::parse(&handshake).unwrap());
            return self.settle(node);
        }
        let decoded = Decoder::new(self.geometry.pieces()).decode(bytes).unwrap().unwrap();
        assert_eq!(decoded.used, bytes.len());
        match decoded.message {
            Message::Piece(raw) => {
                self.answered(link, end, raw);
                let node_mut = &mut self.nodes[node.0];
                if let BlockVerdict::Keep(block) = node_mut.engine.handle_block(now, key, raw) {
                    let buffer = node_mut.buffers.entry(block.piece().get()).or_default();
                    buffer.insert(block.begin(), decoded.data.to_vec());
                }
            }
            message => {
                if let Message::Reject(raw) = message {
                    self.answered(link, end, raw);
                }
                self.nodes[node.0].engine.handle_message(now, key, message);
            }
        }
        self.settle(node);
    }

    fn answered(&mut self, link: usize, end: usize, raw: RawBlock) {
        let end = self.links[link].ends[end].as_mut().unwrap();
        let at = end.open_requests.iter().position(|open| *open == raw);
        let at = at.unwrap_or_else(|| panic!("{raw:?} was answered twice, or never asked"));
        end.open_requests.remove(at);
    }

    fn checked(&mut self, id: NodeId, raw: u32) {
        let piece = self.geometry.piece(raw).unwrap();
        let node = &mut self.nodes[id.0];
        let bytes: Vec<u8> = node.buffers.remove(&raw).unwrap().into_values().flatten().collect();
        let from = usize::try_from(self.geometry.offset(piece)).unwrap();
        let range = from..from + self.geometry.bytes_of(piece) as usize;
        let outcome = if bytes == self.image[range.clone()] {
            node.data[range].copy_from_slice(&bytes);
            CheckOutcome::Stored
        } else {
            CheckOutcome::Corrupt
        };
        node.engine.handle_checked(self.now, piece, outcome);
        self.settle(id);
    }

    /// Does what the engine wants done, checks its invariants, sets its timer.
    fn settle(&mut self, id: NodeId) {
        while let Some(action) = self.nodes[id.0].engine.poll_action() {
            self.act(id, action);
        }
        // In a large world every 16th step is checked: the checks cost more than the steps.
        let due = self.geometry.pieces() <= 64 || self.sequence.is_multiple_of(16);
        let node = &mut self.nodes[id.0];
        if let Err(broken) = if due { node.engine.check_invariants() } else { Ok(()) } {
            panic!("node {} at {:?}: {broken}", id.0, self.now);
        }
        for (key, active) in node.engine.active_peers() {
            let before = node.cursors.insert(key, active.cursor).unwrap_or(0);
            assert!(active.cursor >= before, "the cursor of {key:?} went back");
        }
        if let Some(due) = node.engine.poll_timeout() {
            let due = due.max(self.now.plus(Duration::from_micros(1)));
            if node.timer.is_none_or(|timer| due < timer) {
                node.timer = Some(due);
                self.at_moment(due, Happening::Timer { node: id });
            }
        }
    }

    fn act(&mut self, id: NodeId, action: Action) {
        match action {
            Action::Connect { address } => self.at(DELAY, Happening::Dial { from: id, address }),
            Action::Handshake { to, handshake } => self.transmit(id, to, handshake.encode().to_vec(), false),
            Action::Send { to, message } => {
                if matches!(message, Message::Have(_) | Message::Extended { id: 1, .. }) {
                    self.have_messages += 1;
                }
                if let (Message::Request(raw), Some(end)) = (&message, self.end_mut(id, to)) {
                    end.open_requests.push(*raw);
                }
                let mut bytes = Vec::new();
                message.encode(&mut bytes);
                self.transmit(id, to, bytes, true);
            }
            Action::SendBlock { to, block } => self.send_block(id, to, block),
            Action::Close { peer, reason } => {
                self.nodes[id.0].closed.push(reason);
                if let Some(link) = self.nodes[id.0].links.remove(&peer) {
                    self.hang_up(link, id);
                }
            }
            Action::Check { piece } => {
                let life = self.lives[id.0];
                self.at(CHECK_TIME, Happening::Checked { node: id, piece: piece.get(), life });
            }
            Action::Discard { piece } => {
                self.nodes[id.0].buffers.remove(&piece.get());
            }
            Action::Tell(event) => {
                let node = &mut self.nodes[id.0];
                if event == Event::Complete {
                    node.finished = Some(self.now);
                }
                node.events.push(event);
            }
            Action::FetchWeb { .. } | Action::Announce { .. } => panic!("this world has no HTTP"),
        }
    }

    fn end_mut(&mut self, id: NodeId, key: PeerKey) -> Option<&mut End> {
        let link = *self.nodes[id.0].links.get(&key)?;
        self.links[link].ends.iter_mut().flatten().find(|end| end.node == id)
    }

    fn send_block(&mut self, id: NodeId, to: PeerKey, block: Block) {
        let node = &mut self.nodes[id.0];
        if node.character.stalls {
            return;
        }
        assert!(node.engine.verified().contains(block.piece().get()), "served what it hasn't verified");
        let from = usize::try_from(self.geometry.offset(block.piece())).unwrap() + block.begin() as usize;
        let mut bytes = Vec::new();
        Message::Piece(block.into()).encode(&mut bytes);
        bytes.extend_from_slice(&node.data[from..from + block.bytes() as usize]);
        node.blocks_sent += 1;
        if node.character.rejects > 0 && node.blocks_sent.is_multiple_of(node.character.rejects) {
            let now = self.now;
            return node.engine.handle_unreadable(now, to, block);
        }
        if node.character.corrupts > 0 && node.blocks_sent.is_multiple_of(node.character.corrupts) {
            *bytes.last_mut().unwrap() ^= 1;
        }
        self.transmit(id, to, bytes, true);
    }

    /// The uplink sends one thing after the other; the delay is the same for all, so order is kept.
    fn transmit(&mut self, id: NodeId, to: PeerKey, bytes: Vec<u8>, counted: bool) {
        let Some(link) = self.nodes[id.0].links.get(&to).copied() else { return };
        let Some(own) = (0..2).find(|end| self.end_of(link, *end).is_some_and(|(node, _)| node == id)) else {
            return;
        };
        let node = &mut self.nodes[id.0];
        let length = bytes.len() as u64;
        let took = Duration::from_nanos(length * 1_000_000_000 / node.character.uplink);
        let gone = node.uplink_free.max(self.now).plus(took);
        node.uplink_free = gone;
        if counted {
            self.at_moment(gone, Happening::Sent { link, end: own, bytes: length });
        }
        self.at_moment(gone.plus(DELAY), Happening::Deliver { link, end: 1 - own, bytes });
    }
}
