//! What a run's measures see of the nodes.

use super::{Happening, World};
use crate::network::NodeId;
use crate::outcome::Uplinks;

/// How often the uplinks are sampled.
const SAMPLE_NS: u64 = 100_000_000;
const SAMPLES_PER_SECOND: u64 = 10;

impl World {
    /// Looks at the uplinks that an event at `node` may have changed: its own and its neighbours'.
    pub(super) fn look(&mut self, node: NodeId) {
        let Some(mut measuring) = self.measuring.take() else { return };
        let now_ns = self.queue.now_ns();
        if let Some(peer) = self.peers.get(node.0) {
            measuring.sent(now_ns, node, peer.engine.counts().have_messages);
            let others = peer.links.values().filter_map(|link| self.ends.get(link.0)).map(|end| end.to);
            let idle = others.filter(|other| self.network.is_idle(now_ns, *other));
            for looked_at in idle.chain([node]) {
                let idle = self.network.is_idle(now_ns, looked_at);
                let available = idle && self.is_held_back(looked_at);
                measuring.uplink(now_ns, looked_at, idle, available);
            }
        }
        self.measuring = Some(measuring);
    }

    /// Whether the node has a piece that a neighbour needs, could ask it for, and doesn't know of.
    fn is_held_back(&self, node: NodeId) -> bool {
        let Some(peer) = self.peers.get(node.0).filter(|peer| peer.alive) else { return false };
        peer.links.iter().any(|(key, link)| {
            let untold = peer.engine.untold(*key);
            let Some(end) = self.ends.get(link.0).filter(|_| !untold.is_empty()) else { return false };
            let Some(other) = self.peers.get(end.to.0).filter(|other| other.alive) else { return false };
            other.engine.could_ask(end.their_key) && untold.iter().any(|piece| other.engine.needs(*piece))
        })
    }

    /// What every uplink does at this moment.
    pub(super) fn sample(&mut self) {
        let now_ns = self.queue.now_ns();
        let mut uplinks = Uplinks::default();
        for node in (1..self.peers.len()).map(NodeId) {
            self.sample_one(now_ns, node, &mut uplinks);
        }
        let second = usize::try_from(now_ns / (SAMPLE_NS * SAMPLES_PER_SECOND)).unwrap_or(usize::MAX);
        if self.uplinks.len() <= second {
            self.uplinks.resize(second + 1, Uplinks::default());
        }
        if let Some(sum) = self.uplinks.get_mut(second) {
            sum.busy += uplinks.busy;
            sum.useless += uplinks.useless;
            sum.untold += uplinks.untold;
            sum.unasked += uplinks.unasked;
            sum.full += uplinks.full;
        }
        self.queue.push(now_ns + SAMPLE_NS, Happening::Sample);
    }

    fn sample_one(&self, now_ns: u64, node: NodeId, uplinks: &mut Uplinks) {
        if !self.network.is_idle(now_ns, node) {
            uplinks.busy += 1;
            return;
        }
        let Some(peer) = self.peers.get(node.0).filter(|peer| peer.alive) else { return };
        let mut found = Uplinks::default();
        for (key, link) in &peer.links {
            let Some(end) = self.ends.get(link.0) else { continue };
            let Some(other) = self.peers.get(end.to.0).filter(|other| other.alive) else { continue };
            let untold = peer.engine.untold(*key);
            let needed = |raw: &u32| self.geometry.piece(*raw).filter(|piece| other.engine.needs(*piece));
            let mut needed = peer.engine.verified().iter().filter_map(|raw| needed(&raw)).peekable();
            let room = other.engine.could_ask(end.their_key);
            match needed.peek().copied() {
                None => {}
                Some(_) if !room => found.full += 1,
                Some(_) if needed.all(|piece| untold.contains(&piece)) => found.untold += 1,
                Some(_) => found.unasked += 1,
            }
        }
        // The reason that is nearest to being asked counts.
        match found {
            Uplinks { unasked: 1.., .. } => uplinks.unasked += 1,
            Uplinks { untold: 1.., .. } => uplinks.untold += 1,
            Uplinks { full: 1.., .. } => uplinks.full += 1,
            _ => uplinks.useless += 1,
        }
    }
}
