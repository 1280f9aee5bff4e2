//! What a simulator may look at to judge the engine's decisions; nothing here changes anything.

use super::Swarm;
use super::types::PeerKey;
use crate::geometry::PieceIndex;

impl Swarm {
    /// How many entries of our log of verified pieces this peer has been told of, or need not be told of.
    pub fn told(&self, peer: PeerKey) -> Option<usize> {
        self.active(peer).map(|active| active.cursor)
    }

    /// The pieces that we can serve and that this peer has not been told of.
    pub fn untold(&self, peer: PeerKey) -> &[PieceIndex] {
        let Some(cursor) = self.told(peer) else { return &[] };
        self.log.since(cursor)
    }

    /// Whether blocks of the piece are neither here nor asked for.
    pub fn needs(&self, piece: PieceIndex) -> bool {
        self.pieces.missing().has(piece)
            || self.pieces.arriving_at(piece).is_some_and(|arriving| arriving.free() > 0)
    }
}
