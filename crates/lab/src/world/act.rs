//! What the engines want done, as events of the world.

use std::net::IpAddr;

use swarm::tracker::{AnnounceReply, AnnounceRequest};
use swarm::wire::{HANDSHAKE_BYTES, Message, RawBlock};
use swarm::{Action, AnnounceEvent, CheckOutcome, Event, Moment, PeerKey, PieceIndex, Side};

use super::{End, Happening, Life, PORT, TORRENT, Wire, World, address, nanos, number, opposite};
use crate::network::{ConnectionId, NodeId, SMALL_BYTES, Wake};

/// Bytes of small messages after which the engine hears that they have left, if no block leaves meanwhile. It
/// saves an event for each of them.
const UNREPORTED_MAX: u32 = 2048;

/// How long a connection attempt to a node without power takes to fail.
const CONNECT_TIMEOUT_NS: u64 = 3_000_000_000;

/// Peers that an announce asks for.
const WANTED: usize = 50;

impl World {
    /// Does what the engine of `node` wants done, and looks when it wants to be asked again.
    pub(super) fn settle(&mut self, node: NodeId) {
        while let Some(action) =
            self.peers.get_mut(node.0).filter(|peer| peer.alive).and_then(|peer| peer.engine.poll_action())
        {
            self.act(node, action);
        }
        self.pump(node);
        let Some(peer) = self.peers.get_mut(node.0).filter(|peer| peer.alive) else { return };
        if let Some(at) = peer.engine.poll_timeout() {
            let at_ns = nanos(at.since_origin());
            if at_ns < peer.tick_ns {
                peer.tick_ns = at_ns;
                let life = (node, peer.life);
                self.queue.push(at_ns, Happening::Tick(life));
            }
        }
        self.look(node);
    }

    fn act(&mut self, node: NodeId, action: Action) {
        let now_ns = self.queue.now_ns();
        let Some(peer) = self.peers.get_mut(node.0) else { return };
        let life = (node, peer.life);
        match action {
            Action::Connect { address } => {
                if let Some(to) = number(address).filter(|to| *to < self.peers.len()) {
                    let there = self.peers.get(to).is_some_and(|peer| peer.alive);
                    let took_ns = if there { 2 * self.latency_ns() } else { CONNECT_TIMEOUT_NS };
                    self.queue.push(now_ns + took_ns, Happening::Connects { from: life, to: NodeId(to) });
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
                peer.blocks_sent += 1;
                let corrupt = peer.corrupts_every > 0 && peer.blocks_sent.is_multiple_of(peer.corrupts_every);
                self.transmit(node, to, Wire::Block { raw, corrupt }, Message::Piece(raw).wire_bytes());
            }
            Action::Close { peer, .. } => self.hang_up(node, peer),
            Action::Check { piece } => self.check_piece(life, piece),
            Action::Discard { piece } => {
                self.oracle.iter_mut().for_each(|oracle| oracle.discards(node, piece));
            }
            Action::Tell(Event::PieceVerified(piece)) => {
                self.measuring.iter_mut().for_each(|measuring| measuring.verified(now_ns, node, piece));
            }
            Action::Tell(Event::Complete) => {
                self.awaited = self.awaited.saturating_sub(1);
                peer.complete_ns.get_or_insert(now_ns);
            }
            Action::Announce { event, left } => {
                self.queue.push(now_ns + self.latency_ns(), Happening::Announces(life, event, left));
            }
            // There is no web seed in this world; and who is banned or found corrupt is counted by the engine.
            Action::FetchWeb { .. } | Action::Tell(_) => {}
        }
    }

    /// Hash, then disk; each takes one piece after the other.
    fn check_piece(&mut self, life: Life, piece: PieceIndex) {
        let (node, now_ns) = (life.0, self.queue.now_ns());
        let bytes = u64::from(self.geometry.bytes_of(piece));
        let character = self.scenario.character(node);
        let hash_bytes_s = character.hash_bytes_s.unwrap_or(self.scenario.hash_bytes_s).max(1);
        let disk_bytes_s = character.disk_bytes_s.unwrap_or(self.scenario.disk_bytes_s).max(1);
        let good = self.oracle.as_mut().is_none_or(|oracle| oracle.checks(node, piece, self.geometry));
        let Some(peer) = self.peers.get_mut(node.0) else { return };
        peer.hash_free_ns = peer.hash_free_ns.max(now_ns) + bytes * 1_000_000_000 / hash_bytes_s;
        let (outcome, at_ns) = if good {
            peer.disk_free_ns =
                peer.disk_free_ns.max(peer.hash_free_ns) + bytes * 1_000_000_000 / disk_bytes_s;
            (CheckOutcome::Stored, peer.disk_free_ns)
        } else {
            (CheckOutcome::Corrupt, peer.hash_free_ns)
        };
        self.queue.push(at_ns, Happening::Checked(life, piece, outcome));
    }

    fn transmit(&mut self, node: NodeId, to: PeerKey, wire: Wire, bytes: usize) {
        let Some(&link) = self.peers.get(node.0).and_then(|peer| peer.links.get(&to)) else { return };
        let now_ns = self.queue.now_ns();
        // What is sent in the moment before the end hears that the other has closed reaches nobody.
        if let Some(oracle) = self.oracle.as_mut().filter(|_| self.network.is_open(link)) {
            match &wire {
                Wire::Message(Message::Request(raw)) => oracle.asks(now_ns, node, link, *raw),
                Wire::Message(Message::Cancel(raw)) => oracle.settled(node, link, *raw),
                Wire::Message(Message::Reject(raw)) | Wire::Block { raw, .. } => oracle.answered(link, *raw),
                Wire::Handshake(_) | Wire::Message(_) => {}
            }
        }
        self.network.send(link, wire, u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Lets the node's link take what it can.
    pub(super) fn pump(&mut self, node: NodeId) {
        let now_ns = self.queue.now_ns();
        while let Some((arrival, Wake(left_ns))) = self.network.poll_egress(now_ns, node) {
            let bytes = arrival.bytes + self.unreported(arrival.connection, 0);
            match left_ns {
                Some(left_ns) => {
                    self.unreported(arrival.connection, u32::MAX);
                    self.queue.push(left_ns, Happening::Sent(node, arrival.connection, bytes));
                }
                None if bytes > UNREPORTED_MAX => {
                    self.unreported(arrival.connection, u32::MAX);
                    self.queue.push(now_ns, Happening::Sent(node, arrival.connection, bytes));
                }
                None => {
                    self.unreported(arrival.connection, arrival.bytes.min(SMALL_BYTES));
                }
            }
            self.queue.push(arrival.at_ns, Happening::Arrives(arrival));
        }
    }

    /// Adds to the bytes that the engine has not heard of, `u32::MAX` forgets them; gives what there are now.
    fn unreported(&mut self, connection: ConnectionId, bytes: u32) -> u32 {
        let Some(end) = self.ends.get_mut(connection.0) else { return 0 };
        end.unreported_bytes = if bytes == u32::MAX { 0 } else { end.unreported_bytes + bytes };
        end.unreported_bytes
    }

    /// A connection comes about at both ends, or not.
    pub(super) fn connect(&mut self, now: Moment, life: Life, to: NodeId) {
        let from = life.0;
        if self.living(life).is_none() {
            return;
        }
        let accepting = self.peers.get_mut(to.0).filter(|peer| peer.alive);
        let accepted =
            accepting.map(|peer| peer.engine.handle_connected(now, address(from.0), Side::Inbound));
        let Some(dialling) = self.peers.get_mut(from.0) else { return };
        match accepted {
            Some(Ok(theirs)) => match dialling.engine.handle_connected(now, address(to.0), Side::Outbound) {
                Ok(ours) => self.open((from, ours), (to, theirs)),
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

    fn open(&mut self, (from, ours): (NodeId, PeerKey), (to, theirs): (NodeId, PeerKey)) {
        for (from, key, to, their_key) in [(from, ours, to, theirs), (to, theirs, from, ours)] {
            let link = self.network.connect(from, to);
            self.ends.push(End { from, key, to, their_key, unreported_bytes: 0 });
            if let Some(peer) = self.peers.get_mut(from.0) {
                peer.links.insert(key, link);
            }
        }
    }

    /// The node closes a connection; the other end hears of it later.
    pub(super) fn hang_up(&mut self, node: NodeId, key: PeerKey) {
        let Some(link) = self.peers.get_mut(node.0).and_then(|peer| peer.links.remove(&key)) else { return };
        self.sever(link);
        self.queue.push(self.queue.now_ns() + self.latency_ns(), Happening::Closes(opposite(link)));
    }

    fn sever(&mut self, link: ConnectionId) {
        for link in [link, opposite(link)] {
            self.network.disconnect(link);
        }
        if let (Some(oracle), Some(end)) = (&mut self.oracle, self.ends.get(link.0)) {
            oracle.closed([(end.from, link), (end.to, opposite(link))]);
        }
    }

    /// The end that sends over this connection learns that it is closed.
    pub(super) fn closed(&mut self, now: Moment, link: ConnectionId) {
        let Some(End { from, key, .. }) = self.ends.get(link.0).copied() else { return };
        let Some(peer) = self.peers.get_mut(from.0) else { return };
        if peer.links.get(&key) == Some(&link) {
            peer.links.remove(&key);
            if peer.alive {
                peer.engine.handle_disconnected(now, key);
            }
            self.sever(link);
            self.note(3, from, 0);
            self.settle(from);
        }
    }

    /// An announce is at the tracker.
    pub(super) fn track(&mut self, now: Moment, life: Life, event: AnnounceEvent, left: u64) {
        let request = AnnounceRequest {
            info_hash: TORRENT,
            peer_id: [0; 20],
            address: address(life.0.0),
            left,
            downloaded: 0,
            uploaded: 0,
            event,
            wanted: WANTED,
        };
        let reply = self.tracker.as_mut().and_then(|tracker| match tracker.announce(now, &request) {
            AnnounceReply::Peers { interval, peers } => Some((interval, peers)),
            AnnounceReply::Refused(_) => None,
        });
        self.queue.push(self.queue.now_ns() + self.latency_ns(), Happening::Announced(life, event, reply));
    }
}

/// The rack that the tracker sees in an address.
pub(super) fn rack_of(address: IpAddr, size: usize) -> Option<u32> {
    let node = number((address, PORT).into()).filter(|node| *node > 0)?;
    u32::try_from((node - 1) / size.max(1)).ok()
}
