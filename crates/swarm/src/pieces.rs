//! Where each piece is on its way to us.
//!
//! ```text
//!            begin                all blocks here             good
//!  Missing ---------> Arriving ---------------------> Checking ----> Verified
//!    ^  ^  \             |                             ^   |
//!    |  |   \ fetch      | last request lost,          |   | corrupt, or not stored
//!    |  |    -> Fetching-|-----------------------------+   |
//!    |  +------(failed)--+ nothing received, abandoned     |
//!    +-----------------------------------------------------+
//! ```
//! A piece is in exactly one of these states and moves only by the methods of [`PieceMap`] named above the
//! arrows. *Fetching* is on its way from the web seed as a whole; the others come in blocks from peers.

use crate::engine::PeerKey;
use crate::geometry::{Block, Geometry, PieceIndex};
use crate::piece_set::PieceSet;
use std::collections::BTreeSet;

/// One block of an arriving piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockState {
    Free,
    /// Asked of one peer, or in the end-game of two.
    Asked(PeerKey, Option<PeerKey>),
    Received(PeerKey),
}

#[derive(Clone, Debug)]
pub(crate) struct Arriving {
    blocks: Vec<BlockState>,
    free: u32,
    received: u32,
    /// Only this peer may deliver blocks: it is under suspicion, and must be caught or cleared alone.
    sole: Option<PeerKey>,
}

impl Arriving {
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    pub(crate) fn open_to(&self, peer: PeerKey, suspect: bool) -> bool {
        match self.sole {
            Some(sole) => sole == peer,
            None => !suspect,
        }
    }

    pub(crate) fn is_sole(&self, peer: PeerKey) -> bool {
        self.sole == Some(peer)
    }

    /// Whether no peer is asked for any of its blocks.
    pub(crate) fn is_orphan(&self) -> bool {
        !self.blocks.iter().any(|block| matches!(block, BlockState::Asked(..)))
    }

    pub(crate) fn first_free(&self) -> Option<usize> {
        self.blocks.iter().position(|block| *block == BlockState::Free)
    }

    /// Numbers of the blocks that are asked of exactly one peer, and that peer.
    pub(crate) fn asked_once(&self) -> impl Iterator<Item = (usize, PeerKey)> + '_ {
        self.blocks.iter().enumerate().filter_map(|(number, block)| match block {
            BlockState::Asked(peer, None) => Some((number, *peer)),
            BlockState::Free | BlockState::Asked(_, Some(_)) | BlockState::Received(_) => None,
        })
    }
}

#[derive(Clone, Debug)]
enum PieceState {
    Missing,
    Arriving(Box<Arriving>),
    Fetching,
    /// All bytes are here; the peers that gave them.
    Checking(BTreeSet<PeerKey>),
    Verified,
}

/// What a received block did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// It was needed. `also_asked` is another peer that still owes it; `completes` its piece.
    Needed { also_asked: Option<PeerKey>, completes: bool },
    /// It, or its whole piece, was here already.
    Redundant,
}

/// All pieces: their states, who has how many of them, and which containers are begun.
#[derive(Debug)]
pub(crate) struct PieceMap {
    geometry: Geometry,
    states: Vec<PieceState>,
    availability: Vec<u32>,
    missing: PieceSet,
    verified: PieceSet,
    arriving: BTreeSet<PieceIndex>,
    in_memory: u32,
    checking: u32,
    container_pieces: u32,
    begun: Vec<u32>,
    obtainable: u32,
}

impl PieceMap {
    pub(crate) fn new(geometry: Geometry, have: &PieceSet, container_pieces: u32) -> PieceMap {
        let pieces = geometry.pieces();
        let container_pieces = container_pieces.clamp(1, pieces);
        let mut map = PieceMap {
            geometry,
            states: vec![PieceState::Missing; pieces as usize],
            availability: vec![0; pieces as usize],
            missing: PieceSet::full(pieces),
            verified: PieceSet::empty(pieces),
            arriving: BTreeSet::new(),
            in_memory: 0,
            checking: 0,
            container_pieces,
            begun: vec![0; pieces.div_ceil(container_pieces) as usize],
            obtainable: 0,
        };
        for piece in geometry.all().filter(|piece| have.has(*piece)) {
            map.leave_missing(piece, PieceState::Verified);
            map.verified.insert(piece.get());
        }
        map
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn verified(&self) -> &PieceSet {
        &self.verified
    }

    pub(crate) fn missing(&self) -> &PieceSet {
        &self.missing
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.verified.is_full()
    }

    /// Pieces whose bytes are in memory or about to be: arriving, fetching or checking.
    pub(crate) fn in_memory(&self) -> u32 {
        self.in_memory
    }

    /// Pieces that wait for their hash, or to be stored.
    pub(crate) fn checking(&self) -> u32 {
        self.checking
    }

    /// Missing pieces that a connected peer has.
    pub(crate) fn obtainable(&self) -> u32 {
        self.obtainable
    }

    /// How many connected peers have the piece.
    pub(crate) fn availability(&self, piece: PieceIndex) -> u32 {
        self.availability.get(piece.at()).copied().unwrap_or(0)
    }

    /// Whether a piece of the same container is here or on its way.
    pub(crate) fn container_begun(&self, piece: PieceIndex) -> bool {
        self.begun.get((piece.get() / self.container_pieces) as usize).is_some_and(|&begun| begun > 0)
    }

    pub(crate) fn arriving(&self) -> impl Iterator<Item = (PieceIndex, &Arriving)> {
        self.arriving.iter().filter_map(|&piece| Some((piece, self.arriving_at(piece)?)))
    }

    pub(crate) fn arriving_at(&self, piece: PieceIndex) -> Option<&Arriving> {
        match self.states.get(piece.at())? {
            PieceState::Arriving(arriving) => Some(arriving),
            PieceState::Missing | PieceState::Fetching | PieceState::Checking(_) | PieceState::Verified => {
                None
            }
        }
    }

    fn arriving_mut(&mut self, piece: PieceIndex) -> Option<&mut Arriving> {
        match self.states.get_mut(piece.at())? {
            PieceState::Arriving(arriving) => Some(arriving),
            PieceState::Missing | PieceState::Fetching | PieceState::Checking(_) | PieceState::Verified => {
                None
            }
        }
    }

    pub(crate) fn peer_has(&mut self, piece: PieceIndex) {
        if let Some(availability) = self.availability.get_mut(piece.at()) {
            *availability += 1;
            if *availability == 1 && self.missing.has(piece) {
                self.obtainable += 1;
            }
        }
    }

    pub(crate) fn peer_lacks(&mut self, piece: PieceIndex) {
        if let Some(availability) = self.availability.get_mut(piece.at()).filter(|count| **count > 0) {
            *availability -= 1;
            if *availability == 0 && self.missing.has(piece) {
                self.obtainable = self.obtainable.saturating_sub(1);
            }
        }
    }

    /// Missing -> Arriving.
    pub(crate) fn begin(&mut self, piece: PieceIndex, sole: Option<PeerKey>) {
        if !self.missing.has(piece) {
            return;
        }
        let free = self.geometry.blocks_of(piece);
        let blocks = vec![BlockState::Free; free as usize];
        self.leave_missing(
            piece,
            PieceState::Arriving(Box::new(Arriving { blocks, free, received: 0, sole })),
        );
        self.arriving.insert(piece);
        self.in_memory += 1;
    }

    /// Notes that a block of an arriving piece was asked of `peer`; false if that changes nothing.
    pub(crate) fn ask(&mut self, piece: PieceIndex, number: usize, peer: PeerKey) -> bool {
        let Some(arriving) = self.arriving_mut(piece) else { return false };
        let Some(block) = arriving.blocks.get_mut(number) else { return false };
        match *block {
            BlockState::Free => {
                *block = BlockState::Asked(peer, None);
                arriving.free -= 1;
                true
            }
            BlockState::Asked(first, None) if first != peer => {
                *block = BlockState::Asked(first, Some(peer));
                true
            }
            BlockState::Asked(..) | BlockState::Received(_) => false,
        }
    }

    /// Notes that `peer` won't deliver the block. A piece of which nothing is here and nothing is asked goes
    /// Arriving -> Missing.
    pub(crate) fn unask(&mut self, piece: PieceIndex, number: usize, peer: PeerKey) {
        let Some(arriving) = self.arriving_mut(piece) else { return };
        let Some(block) = arriving.blocks.get_mut(number) else { return };
        *block = match *block {
            BlockState::Asked(first, None) if first == peer => {
                arriving.free += 1;
                BlockState::Free
            }
            BlockState::Asked(first, Some(second)) if first == peer => BlockState::Asked(second, None),
            BlockState::Asked(first, Some(second)) if second == peer => BlockState::Asked(first, None),
            other @ (BlockState::Free | BlockState::Asked(..) | BlockState::Received(_)) => other,
        };
        if arriving.free as usize == arriving.blocks.len() {
            self.abandon(piece);
        }
    }

    /// Takes a block. The last one moves its piece Arriving -> Checking.
    pub(crate) fn receive(&mut self, block: Block, from: PeerKey) -> Receipt {
        let Some(arriving) = self.arriving_mut(block.piece()) else { return Receipt::Redundant };
        let Some(state) = arriving.blocks.get_mut(block.number()) else { return Receipt::Redundant };
        let also_asked = match *state {
            BlockState::Received(_) => return Receipt::Redundant,
            BlockState::Free => {
                arriving.free -= 1;
                None
            }
            BlockState::Asked(first, second) => {
                [Some(first), second].into_iter().flatten().find(|&peer| peer != from)
            }
        };
        *state = BlockState::Received(from);
        arriving.received += 1;
        let completes = arriving.received as usize == arriving.blocks.len();
        if completes {
            let givers = arriving.blocks.iter().filter_map(|block| match block {
                BlockState::Received(giver) => Some(*giver),
                BlockState::Free | BlockState::Asked(..) => None,
            });
            let givers = givers.collect();
            self.arriving.remove(&block.piece());
            self.set(block.piece(), PieceState::Checking(givers));
            self.checking += 1;
        }
        Receipt::Needed { also_asked, completes }
    }

    /// Arriving -> Missing: its blocks are forgotten.
    pub(crate) fn abandon(&mut self, piece: PieceIndex) {
        if self.arriving.remove(&piece) {
            self.enter_missing(piece);
        }
    }

    /// Missing -> Fetching: the web seed will bring the whole piece.
    pub(crate) fn fetch(&mut self, piece: PieceIndex) {
        if self.missing.has(piece) {
            self.leave_missing(piece, PieceState::Fetching);
            self.in_memory += 1;
        }
    }

    /// Fetching -> Checking, or back to Missing.
    pub(crate) fn fetched(&mut self, piece: PieceIndex, arrived: bool) {
        if !matches!(self.states.get(piece.at()), Some(PieceState::Fetching)) {
            return;
        }
        if arrived {
            self.set(piece, PieceState::Checking(BTreeSet::new()));
            self.checking += 1;
        } else {
            self.enter_missing(piece);
        }
    }

    /// Checking -> Verified; gives the peers that the bytes came from, `None` if it was in another state.
    pub(crate) fn good(&mut self, piece: PieceIndex) -> Option<BTreeSet<PeerKey>> {
        let Some(PieceState::Checking(givers)) = self.states.get_mut(piece.at()) else { return None };
        let givers = std::mem::take(givers);
        self.set(piece, PieceState::Verified);
        self.in_memory -= 1;
        self.checking -= 1;
        self.verified.insert(piece.get());
        Some(givers)
    }

    /// Checking -> Missing; gives the peers that the bytes came from.
    pub(crate) fn bad(&mut self, piece: PieceIndex) -> BTreeSet<PeerKey> {
        let Some(PieceState::Checking(givers)) = self.states.get_mut(piece.at()) else {
            return BTreeSet::new();
        };
        let givers = std::mem::take(givers);
        self.checking -= 1;
        self.enter_missing(piece);
        givers
    }

    fn set(&mut self, piece: PieceIndex, state: PieceState) {
        if let Some(slot) = self.states.get_mut(piece.at()) {
            *slot = state;
        }
    }

    fn leave_missing(&mut self, piece: PieceIndex, to: PieceState) {
        self.set(piece, to);
        self.missing.remove(piece.get());
        if self.availability(piece) > 0 {
            self.obtainable = self.obtainable.saturating_sub(1);
        }
        if let Some(begun) = self.begun.get_mut((piece.get() / self.container_pieces) as usize) {
            *begun += 1;
        }
    }

    fn enter_missing(&mut self, piece: PieceIndex) {
        self.set(piece, PieceState::Missing);
        self.missing.insert(piece.get());
        self.in_memory -= 1;
        if self.availability(piece) > 0 {
            self.obtainable += 1;
        }
        if let Some(begun) = self.begun.get_mut((piece.get() / self.container_pieces) as usize) {
            *begun = begun.saturating_sub(1);
        }
    }

    /// What must hold between any two calls; the first that doesn't is the answer.
    pub(crate) fn broken_invariant(&self) -> Option<String> {
        let mut in_memory = 0;
        let mut checking = 0;
        let mut obtainable = 0;
        for (piece, state) in self.geometry.all().zip(&self.states) {
            let (missing, arriving, verified) = match state {
                PieceState::Missing => (true, false, false),
                PieceState::Arriving(_) => (false, true, false),
                PieceState::Fetching | PieceState::Checking(_) => (false, false, false),
                PieceState::Verified => (false, false, true),
            };
            in_memory += u32::from(!missing && !verified);
            checking += u32::from(matches!(state, PieceState::Checking(_)));
            obtainable += u32::from(missing && self.availability(piece) > 0);
            let sets = (self.missing.has(piece), self.arriving.contains(&piece), self.verified.has(piece));
            if sets != (missing, arriving, verified) {
                return Some(format!("piece {} is {state:?} but its sets say {sets:?}", piece.get()));
            }
            if let PieceState::Arriving(arriving) = state {
                let count =
                    |wanted: fn(&BlockState) -> bool| arriving.blocks.iter().filter(|b| wanted(b)).count();
                let free = count(|block| *block == BlockState::Free);
                let received = count(|block| matches!(block, BlockState::Received(_)));
                if (free, received) != (arriving.free as usize, arriving.received as usize) {
                    return Some(format!("piece {} counts its blocks wrongly: {arriving:?}", piece.get()));
                }
                if free == arriving.blocks.len() || received == arriving.blocks.len() {
                    return Some(format!("piece {} should have left Arriving", piece.get()));
                }
            }
        }
        let (counted, kept) =
            ([in_memory, checking, obtainable], [self.in_memory, self.checking, self.obtainable]);
        (counted != kept).then(|| format!("in memory, checking, obtainable are {counted:?}, not {kept:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(pieces: u32) -> PieceMap {
        let geometry = Geometry::new(u64::from(pieces) * 65_536 - 20_000, 65_536).unwrap();
        PieceMap::new(geometry, &PieceSet::empty(pieces), 4)
    }

    fn peer(number: u64) -> PeerKey {
        PeerKey::from_number(number)
    }

    #[test]
    fn a_block_asked_of_two_peers_is_cancelled_at_the_second() {
        let mut map = map(4);
        let piece = map.geometry().piece(0).unwrap();
        map.begin(piece, None);
        assert!(map.ask(piece, 0, peer(1)) && map.ask(piece, 0, peer(2)) && !map.ask(piece, 0, peer(3)));
        let block = map.geometry().block(piece, 0).unwrap();
        let receipt = map.receive(block, peer(2));
        assert_eq!(receipt, Receipt::Needed { also_asked: Some(peer(1)), completes: false });
        assert_eq!(map.receive(block, peer(1)), Receipt::Redundant);
    }

    #[test]
    fn the_last_lost_request_makes_an_empty_piece_missing_again() {
        let mut map = map(4);
        let piece = map.geometry().piece(1).unwrap();
        map.begin(piece, None);
        map.ask(piece, 0, peer(1));
        map.unask(piece, 0, peer(1));
        assert!(map.missing().has(piece) && map.in_memory() == 0);
        assert_eq!(map.broken_invariant(), None);
    }

    #[test]
    fn a_corrupt_piece_names_everyone_who_gave_a_block() {
        let mut map = map(4);
        let piece = map.geometry().piece(0).unwrap();
        map.begin(piece, None);
        for number in 0..4 {
            map.ask(piece, number, peer(number as u64 % 2));
            let block = map.geometry().block(piece, number).unwrap();
            map.receive(block, peer(number as u64 % 2));
        }
        assert_eq!(map.bad(piece), BTreeSet::from([peer(0), peer(1)]));
        assert!(map.missing().has(piece));
    }

    proptest! {
        /// Whatever is called in whatever order, each piece is in exactly one state and the counts agree.
        #[test]
        fn every_order_of_calls_keeps_the_invariants(calls in prop::collection::vec((0_u8..11, 0_u32..6, 0_usize..5, 1_u64..4), 0..300)) {
            let mut map = map(6);
            for (call, raw, number, from) in calls {
                let piece = map.geometry().piece(raw).unwrap();
                match call {
                    0 => map.peer_has(piece),
                    1 => map.peer_lacks(piece),
                    // Between engine calls an arriving piece always has a block asked or received.
                    2 => { map.begin(piece, None); map.ask(piece, 0, peer(from)); }
                    3 => { map.ask(piece, number, peer(from)); }
                    4 => map.unask(piece, number, peer(from)),
                    5 | 6 => if let Some(block) = map.geometry().block(piece, number) { map.receive(block, peer(from)); },
                    7 => map.fetch(piece),
                    8 => map.fetched(piece, number > 0),
                    9 => { map.good(piece); }
                    _ => { map.bad(piece); }
                }
                prop_assert_eq!(map.broken_invariant(), None);
            }
        }
    }
}
