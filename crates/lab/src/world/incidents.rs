//! Nodes that come and go, and what goes wrong.

use swarm::tracker::{Admission, Racks, Tracker, TrackerConfig};
use swarm::{PieceSet, Swarm};

use super::act::rack_of;
use super::{Happening, Tally, World, address, engine_config, opposite};
use crate::network::NodeId;
use crate::scenario::{Incident, Meeting};

impl World {
    pub(super) fn incident(&mut self, incident: Incident) {
        match incident {
            Incident::Kill(node) => self.end_life(node, true),
            Incident::CutPower(node) => self.end_life(node, false),
            Incident::Restart { node, keeps } => self.restart(node, keeps),
            Incident::Stall(node) => self.network.set_stalled(node, true),
            Incident::Resume(node) => {
                self.network.set_stalled(node, false);
                self.settle(node);
            }
            Incident::StopTracker => self.tracker = None,
            Incident::StartTracker => self.start_tracker(),
        }
    }

    /// The tracker knows the seed from the start: they are one program.
    pub(super) fn start_tracker(&mut self) {
        let Meeting::Tracker { degree, seed_degree, .. } = self.scenario.meeting else { return };
        let mut seed = [0x5a; 32];
        seed.iter_mut().zip(self.scenario.seed.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        let racks = match self.scenario.racks {
            Some((size, _)) => Racks::Known(Box::new(move |address| rack_of(address, size))),
            None => Racks::Unknown,
        };
        let config = TrackerConfig::new(Admission::Open, seed);
        let mut tracker = Tracker::new(TrackerConfig { degree, seed_degree, racks, ..config });
        tracker.add_torrent(super::TORRENT);
        tracker.add_seed(self.now(), super::TORRENT, address(0));
        self.tracker = Some(tracker);
    }

    /// A node is powered on: its engine was made for time zero and hears of the time now.
    pub(super) fn start_node(&mut self, node: NodeId) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(node.0) else { return };
        peer.alive = true;
        peer.engine.handle_timeout(now);
        self.note(7, node, 0);
        self.settle(node);
    }

    /// The program of a node ends. Its system closes the connections, unless it ends as well.
    fn end_life(&mut self, node: NodeId, is_told: bool) {
        let latency_ns = self.latency_ns();
        let Some(peer) = self.peers.get_mut(node.0).filter(|peer| peer.alive) else { return };
        peer.alive = false;
        if !peer.engine.is_complete() {
            self.awaited = self.awaited.saturating_sub(1);
        }
        let links = std::mem::take(&mut peer.links);
        self.network.set_stalled(node, true);
        for (key, link) in links {
            if is_told {
                self.network.disconnect(link);
                self.queue.push(self.queue.now_ns() + latency_ns, Happening::Closes(opposite(link)));
            } else if let Some(peer) = self.peers.get_mut(node.0) {
                // The other end goes on as if nothing had happened.
                peer.links.insert(key, link);
            }
        }
        if let Some(measuring) = &mut self.measuring {
            measuring.restarted(self.queue.now_ns(), node);
        }
    }

    fn restart(&mut self, node: NodeId, keeps: bool) {
        let (now, now_ns) = (self.now(), self.queue.now_ns());
        let latency_ns = self.latency_ns();
        self.end_life(node, true);
        let Some(peer) = self.peers.get_mut(node.0) else { return };
        // What the others still hold of its earlier life is reset as soon as they use it.
        for (_, link) in std::mem::take(&mut peer.links) {
            self.network.disconnect(link);
            self.queue.push(now_ns + latency_ns, Happening::Closes(opposite(link)));
        }
        let pieces = self.geometry.pieces();
        let have = if keeps { peer.engine.verified().clone() } else { PieceSet::empty(pieces) };
        if !have.is_full() {
            self.awaited += 1;
            peer.complete_ns = None;
        }
        peer.life += 1;
        peer.earlier.add(Tally::of(&peer.engine));
        let config = engine_config(&self.scenario, self.geometry, (node, peer.life), have);
        if let Ok(engine) = Swarm::new(now, config) {
            peer.engine = engine;
        }
        self.network.set_stalled(node, false);
        (peer.tick_ns, peer.hash_free_ns, peer.disk_free_ns) = (u64::MAX, now_ns, now_ns);
        if let Some(oracle) = &mut self.oracle {
            oracle.restarted(node);
        }
        self.start_node(node);
    }
}
