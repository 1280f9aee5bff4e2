//! The driver's books: what must hold for everything that the engine wants and was told.

use std::collections::{BTreeMap, BTreeSet};
use swarm::wire::{Message, RawBlock};
use swarm::{Action, Block, Geometry, PeerKey, PieceIndex, Swarm, SwarmConfig};

/// Bytes of pieces that the engine may have the driver hold: its limit, or two pieces.
fn buffer_bytes_max(config: &SwarmConfig) -> u64 {
    config.limits.buffer_bytes_max.max(2 * u64::from(config.geometry.piece_bytes()))
}

struct Account {
    fast: bool,
    /// Requests of the peer that are not answered.
    requested: Vec<RawBlock>,
    /// Blocks asked of the peer.
    asked: BTreeSet<Block>,
}

pub(super) struct Books {
    config: SwarmConfig,
    accounts: BTreeMap<PeerKey, Account>,
    /// Numbers of the blocks that the driver holds.
    kept: BTreeMap<PieceIndex, BTreeSet<u32>>,
}

impl Books {
    pub(super) fn new(config: &SwarmConfig) -> Books {
        let (accounts, kept) = (BTreeMap::new(), BTreeMap::new());
        Books { config: config.clone(), accounts, kept }
    }

    pub(super) fn has_secret(&self) -> bool {
        self.config.secret.is_some()
    }

    /// The configuration of an engine that could be a peer of this one.
    pub(super) fn twin(&self) -> SwarmConfig {
        SwarmConfig { super_seed: false, has_tracker: false, has_web_seed: false, ..self.config.clone() }
    }

    fn geometry(&self) -> Geometry {
        self.config.geometry
    }

    pub(super) fn connected(&mut self, peer: PeerKey, fast: bool) {
        let fresh = Account { fast, requested: Vec::new(), asked: BTreeSet::new() };
        assert!(self.accounts.insert(peer, fresh).is_none(), "a key came twice");
    }

    pub(super) fn gone(&mut self, peer: PeerKey) {
        self.accounts.remove(&peer);
    }

    pub(super) fn requested(&mut self, peer: PeerKey, raw: RawBlock) {
        if let Some(account) = self.accounts.get_mut(&peer) {
            account.requested.push(raw);
        }
    }

    /// One of the peer's requests that are not answered.
    pub(super) fn requested_by(&self, peer: PeerKey, which: u8) -> Option<RawBlock> {
        let requested = &self.accounts.get(&peer)?.requested;
        let at = usize::from(which).checked_rem(requested.len())?;
        // From the newest on: the oldest are with the driver already.
        requested.iter().rev().nth(at).copied()
    }

    pub(super) fn kept(&mut self, block: Block) {
        let fresh = self.kept.entry(block.piece()).or_default().insert(block.begin());
        assert!(fresh, "a block is kept twice");
    }

    pub(super) fn fetched(&mut self, piece: PieceIndex) {
        let geometry = self.geometry();
        let blocks = (0..geometry.blocks_of(piece)).map(|number| number * swarm::BLOCK_BYTES);
        let before = self.kept.insert(piece, blocks.collect());
        assert_eq!(before, None, "blocks of a piece that comes whole");
    }

    pub(super) fn unreadable(&mut self, peer: PeerKey, block: Block) {
        self.requested(peer, block.into());
    }

    pub(super) fn note(&mut self, action: &Action) {
        match action {
            Action::Send { to, message: Message::Request(raw) } => {
                let block = self.geometry().checked(raw.piece, raw.begin, raw.len).expect("a real block");
                let Some(account) = self.accounts.get_mut(to) else { return };
                account.asked.insert(block);
            }
            Action::Send { to, message: Message::Reject(raw) } => {
                self.answered(*to, *raw);
                assert!(self.accounts.get(to).is_none_or(|account| account.fast), "a reject without BEP 6");
            }
            Action::SendBlock { to, block } => self.answered(*to, (*block).into()),
            Action::Close { peer, .. } => self.gone(*peer),
            Action::Discard { piece } => {
                self.kept.remove(piece);
            }
            Action::Check { piece } => {
                let kept = self.kept.remove(piece).unwrap_or_default();
                assert_eq!(
                    kept.len(),
                    self.geometry().blocks_of(*piece) as usize,
                    "checked before it is here"
                );
            }
            Action::Connect { .. }
            | Action::Handshake { .. }
            | Action::Send { .. }
            | Action::FetchWeb { .. }
            | Action::Announce { .. }
            | Action::Tell(_) => {}
        }
    }

    fn answered(&mut self, peer: PeerKey, raw: RawBlock) {
        let Some(account) = self.accounts.get_mut(&peer) else { return };
        let at = account.requested.iter().position(|asked| *asked == raw);
        account.requested.remove(at.expect("an answer to no request"));
    }

    pub(super) fn check(&self, engine: &Swarm, owed: usize) {
        let held: u64 = self.kept.keys().map(|piece| u64::from(self.geometry().bytes_of(*piece))).sum();
        let max = buffer_bytes_max(&self.config);
        assert!(held <= max, "{held} bytes are held, of {max}; {owed} pieces are owed");
        for piece in self.kept.keys() {
            assert!(!engine.verified().contains(piece.get()), "blocks of a verified piece are held");
        }
        assert!(engine.peers().count() <= self.config.limits.peers_max);
    }
}
