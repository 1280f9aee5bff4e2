//! A set of pieces as a bitmap of 64-bit words.

use crate::geometry::PieceIndex;

/// A set of piece numbers below a fixed length: what someone has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    pieces: u32,
    count: u32,
}

impl PieceSet {
    /// The empty set over `pieces` pieces.
    pub fn empty(pieces: u32) -> PieceSet {
        PieceSet { words: vec![0; (pieces as usize).div_ceil(64)], pieces, count: 0 }
    }

    /// The set of all `pieces` pieces.
    pub fn full(pieces: u32) -> PieceSet {
        let mut set = PieceSet::empty(pieces);
        set.words.fill(u64::MAX);
        if let (Some(last), spare @ 1..) = (set.words.last_mut(), pieces % 64) {
            *last = (1 << spare) - 1;
        }
        set.count = pieces;
        set
    }

    /// Reads a BITFIELD payload (BEP 3): `None` unless it is exactly as long as needed and its spare bits
    /// are zero.
    pub fn from_bitfield(bytes: &[u8], pieces: u32) -> Option<PieceSet> {
        if bytes.len() != (pieces as usize).div_ceil(8) {
            return None;
        }
        let mut set = PieceSet::empty(pieces);
        for (at, byte) in bytes.iter().enumerate() {
            // The first piece is the high bit on the wire and the low bit in a word.
            let word = set.words.get_mut(at / 8)?;
            *word |= u64::from(byte.reverse_bits()) << (8 * (at % 8));
        }
        let spare = pieces % 64;
        if spare > 0 && set.words.last().is_some_and(|last| last >> spare != 0) {
            return None;
        }
        set.count = set.words.iter().map(|word| word.count_ones()).sum();
        Some(set)
    }

    /// The payload of a BITFIELD message.
    pub fn to_bitfield(&self) -> Vec<u8> {
        let bytes = (self.pieces as usize).div_ceil(8);
        self.words.iter().flat_map(|word| word.to_le_bytes()).map(u8::reverse_bits).take(bytes).collect()
    }

    /// How many pieces the torrent has.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// How many of them are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether every piece is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.pieces
    }

    /// Whether the set holds this piece; false for numbers beyond the last.
    pub fn contains(&self, raw: u32) -> bool {
        self.words.get(raw as usize / 64).is_some_and(|word| word >> (raw % 64) & 1 == 1)
    }

    pub(crate) fn has(&self, piece: PieceIndex) -> bool {
        self.contains(piece.get())
    }

    /// Adds a piece; true if it is new. Numbers beyond the last are ignored.
    pub fn insert(&mut self, raw: u32) -> bool {
        if raw >= self.pieces || self.contains(raw) {
            return false;
        }
        if let Some(word) = self.words.get_mut(raw as usize / 64) {
            *word |= 1 << (raw % 64);
            self.count += 1;
        }
        true
    }

    /// Removes a piece; true if it was in the set.
    pub fn remove(&mut self, raw: u32) -> bool {
        if !self.contains(raw) {
            return false;
        }
        if let Some(word) = self.words.get_mut(raw as usize / 64) {
            *word &= !(1 << (raw % 64));
            self.count -= 1;
        }
        true
    }

    /// The numbers in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        bits(self.words.iter().copied())
    }

    /// The numbers in this set and not in `other`, ascending.
    pub fn without<'a>(&'a self, other: &'a PieceSet) -> impl Iterator<Item = u32> + 'a {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        bits(self.words.iter().zip(others).map(|(mine, theirs)| mine & !theirs))
    }

    /// The numbers in both sets, ascending.
    pub fn and<'a>(&'a self, other: &'a PieceSet) -> impl Iterator<Item = u32> + 'a {
        bits(self.words.iter().zip(&other.words).map(|(mine, theirs)| mine & theirs))
    }
}

fn bits(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u32> {
    (0_u32..).step_by(64).zip(words).flat_map(|(base, mut word)| {
        std::iter::from_fn(move || {
            let bit = word.trailing_zeros();
            word &= word.wrapping_sub(1);
            (bit < 64).then_some(base + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// The oracle is a set of numbers.
        #[test]
        fn the_bitmap_is_a_set(pieces in 1_u32..300, raw in prop::collection::vec((0_u32..320, any::<bool>()), 0..200)) {
            let mut set = PieceSet::empty(pieces);
            let mut oracle = BTreeSet::new();
            for (piece, add) in raw {
                if add {
                    prop_assert_eq!(set.insert(piece), piece < pieces && oracle.insert(piece));
                } else {
                    prop_assert_eq!(set.remove(piece), oracle.remove(&piece));
                }
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), oracle.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.count() as usize, oracle.len());
            let wire = set.to_bitfield();
            let read = PieceSet::from_bitfield(&wire, pieces);
            prop_assert_eq!(read.as_ref(), Some(&set));
            let full = PieceSet::full(pieces);
            prop_assert_eq!(full.without(&set).count() + oracle.len(), pieces as usize);
            prop_assert_eq!(full.and(&set).count(), oracle.len());
        }
    }

    #[test]
    fn a_bitfield_with_spare_bits_or_a_wrong_length_is_refused() {
        assert_eq!(PieceSet::from_bitfield(&[0b1010_0000], 3).unwrap().iter().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(PieceSet::from_bitfield(&[0b1011_0000], 3), None);
        assert_eq!(PieceSet::from_bitfield(&[0, 0], 3), None);
        assert_eq!(PieceSet::from_bitfield(&[], 3), None);
        assert!(PieceSet::from_bitfield(&[0xff; 8], 64).unwrap().is_full());
        assert!(
            PieceSet::full(64).is_full()
                && PieceSet::full(64).contains(63)
                && !PieceSet::full(64).contains(64)
        );
    }
}
