//! What must hold at every step, told apart from the engine that has to keep it.

use std::collections::{BTreeMap, BTreeSet};

use swarm::wire::RawBlock;
use swarm::{Geometry, PieceIndex};

use crate::network::{ConnectionId, NodeId};

/// A second peer is asked for a block only in the end-game, that is when the first has kept it this long.
const SECOND_OWNER_AFTER_NS: u64 = 50_000_000;

type BlockName = (u32, u32, u32);

/// The blocks of a piece that a node keeps.
#[derive(Debug, Default)]
struct Kept {
    begins: BTreeSet<u32>,
    corrupt: bool,
}

/// Watches all messages of a world.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// Requests that have arrived and wait for their answer on this connection.
    owed: BTreeMap<ConnectionId, BTreeMap<BlockName, u32>>,
    /// For each node the blocks that it has asked for, on which connections and when.
    asked: BTreeMap<NodeId, BTreeMap<BlockName, Vec<(ConnectionId, u64)>>>,
    kept: BTreeMap<(NodeId, u32), Kept>,
    told: BTreeMap<ConnectionId, usize>,
    pub(crate) broken: Option<String>,
}

impl Oracle {
    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// A node asks for a block.
    pub(crate) fn asks(&mut self, now_ns: u64, node: NodeId, over: ConnectionId, raw: RawBlock) {
        let owners = self.asked.entry(node).or_default().entry(name(raw)).or_default();
        let early = owners.iter().any(|(_, at_ns)| now_ns - at_ns < SECOND_OWNER_AFTER_NS);
        let twice = owners.iter().any(|(owner, _)| *owner == over);
        owners.push((over, now_ns));
        let count = owners.len();
        if early || twice || count > 2 {
            self.fail(|| format!("{node:?} asked {count} peers for {raw:?} at {now_ns} ns"));
        }
    }

    /// A request of a node is answered or taken back.
    pub(crate) fn settled(&mut self, node: NodeId, over: ConnectionId, raw: RawBlock) {
        if let Some(blocks) = self.asked.get_mut(&node)
            && let Some(owners) = blocks.get_mut(&name(raw))
        {
            owners.retain(|(owner, _)| *owner != over);
            if owners.is_empty() {
                blocks.remove(&name(raw));
            }
        }
    }

    /// A request has arrived; its answer goes over `back`.
    pub(crate) fn requested(&mut self, back: ConnectionId, raw: RawBlock) {
        *self.owed.entry(back).or_default().entry(name(raw)).or_default() += 1;
    }

    /// A block or a reject leaves over `over`.
    pub(crate) fn answered(&mut self, over: ConnectionId, raw: RawBlock) {
        let owed = self.owed.entry(over).or_default();
        match owed.get_mut(&name(raw)) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                owed.remove(&name(raw));
            }
            None => self.fail(|| format!("{raw:?} was answered on {over:?} without being asked for")),
        }
    }

    /// A connection is gone, in both directions.
    pub(crate) fn closed(&mut self, ends: [(NodeId, ConnectionId); 2]) {
        for (node, connection) in ends {
            self.owed.remove(&connection);
            self.told.remove(&connection);
            if let Some(blocks) = self.asked.get_mut(&node) {
                blocks.retain(|_, owners| {
                    owners.retain(|(owner, _)| *owner != connection);
                    !owners.is_empty()
                });
            }
        }
    }

    pub(crate) fn keeps(&mut self, node: NodeId, raw: RawBlock, corrupt: bool) {
        let kept = self.kept.entry((node, raw.piece)).or_default();
        kept.corrupt |= corrupt;
        if !kept.begins.insert(raw.begin) {
            self.fail(|| format!("{node:?} kept {raw:?} twice"));
        }
    }

    pub(crate) fn discards(&mut self, node: NodeId, piece: PieceIndex) {
        self.kept.remove(&(node, piece.get()));
    }

    /// A piece is checked: whether it is good. All its blocks must be there.
    pub(crate) fn checks(&mut self, node: NodeId, piece: PieceIndex, geometry: Geometry) -> bool {
        let kept = self.kept.remove(&(node, piece.get())).unwrap_or_default();
        if kept.begins.len() != geometry.blocks_of(piece) as usize {
            self.fail(|| format!("{node:?} checks piece {} with {} blocks", piece.get(), kept.begins.len()));
        }
        !kept.corrupt
    }

    /// A node starts with nothing in memory.
    pub(crate) fn restarted(&mut self, node: NodeId) {
        self.asked.remove(&node);
        self.kept.retain(|(owner, _), _| *owner != node);
    }

    /// How far a connection's cursor is.
    pub(crate) fn told(&mut self, connection: ConnectionId, entries: usize) {
        let before = self.told.insert(connection, entries).unwrap_or(0);
        if entries < before {
            self.fail(|| format!("the cursor of {connection:?} went back from {before} to {entries}"));
        }
    }

    /// In the end nothing is owed any more on a connection that both its ends still hold.
    pub(crate) fn at_rest(&mut self, lives: impl Fn(ConnectionId) -> bool) {
        let mut owed = self.owed.iter().filter(|(connection, _)| lives(**connection));
        let open = owed.find_map(|(connection, owed)| Some((*connection, *owed.keys().next()?)));
        if let Some((connection, block)) = open {
            self.fail(|| format!("{block:?} was never answered on {connection:?}"));
        }
    }
}

fn name(raw: RawBlock) -> BlockName {
    (raw.piece, raw.begin, raw.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: RawBlock = RawBlock { piece: 1, begin: 0, len: 16_384 };
    const ONE: ConnectionId = ConnectionId(0);
    const TWO: ConnectionId = ConnectionId(2);

    fn broken(story: impl FnOnce(&mut Oracle)) -> bool {
        let mut oracle = Oracle::default();
        story(&mut oracle);
        oracle.broken.is_some()
    }

    #[test]
    fn each_request_is_answered_once() {
        assert!(broken(|oracle| oracle.answered(ONE, BLOCK)));
        assert!(broken(|oracle| {
            oracle.requested(ONE, BLOCK);
            oracle.answered(ONE, BLOCK);
            oracle.answered(ONE, BLOCK);
        }));
        assert!(broken(|oracle| {
            oracle.requested(ONE, BLOCK);
            oracle.at_rest(|_| true);
        }));
        assert!(!broken(|oracle| {
            oracle.requested(ONE, BLOCK);
            oracle.requested(ONE, BLOCK);
            oracle.answered(ONE, BLOCK);
            oracle.closed([(NodeId(0), ONE), (NodeId(1), TWO)]);
            oracle.at_rest(|_| true);
        }));
    }

    #[test]
    fn a_block_has_one_owner_outside_the_end_game() {
        let node = NodeId(3);
        let ask_again = |after_ns| {
            move |oracle: &mut Oracle| {
                oracle.asks(0, node, ONE, BLOCK);
                oracle.asks(after_ns, node, TWO, BLOCK);
            }
        };
        assert!(broken(ask_again(1_000_000)) && !broken(ask_again(200_000_000)));
        assert!(!broken(|oracle| {
            oracle.asks(0, node, ONE, BLOCK);
            oracle.settled(node, ONE, BLOCK);
            oracle.asks(1, node, TWO, BLOCK);
        }));
    }

    #[test]
    fn cursors_go_forward_and_pieces_are_whole() {
        assert!(broken(|oracle| [5, 4].into_iter().for_each(|entries| oracle.told(ONE, entries))));
        let geometry = Geometry::new(65_536, 32_768).unwrap();
        let piece = geometry.piece(1).unwrap();
        assert!(broken(|oracle| {
            oracle.keeps(NodeId(1), BLOCK, false);
            oracle.checks(NodeId(1), piece, geometry);
        }));
        let mut oracle = Oracle::default();
        oracle.keeps(NodeId(1), BLOCK, true);
        oracle.keeps(NodeId(1), RawBlock { begin: 16_384, ..BLOCK }, false);
        assert!(
            !oracle.checks(NodeId(1), piece, geometry) && oracle.broken.is_none(),
            "one block is corrupt"
        );
    }
}
