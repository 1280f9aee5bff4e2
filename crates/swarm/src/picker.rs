//! Which missing piece to begin next.

use crate::chance::Chance;
use crate::geometry::PieceIndex;
use crate::piece_set::PieceSet;
use crate::pieces::PieceMap;
use std::ops::Range;

/// Chooses by, in this order: the image's first pieces (its table of contents), the fewest peers that have it,
/// a container that is begun, chance.
#[derive(Clone, Debug)]
pub(crate) struct Picker {
    pub(crate) first_pieces: Range<u32>,
}

impl Picker {
    /// One of the missing pieces in `theirs`; `None` if there is none. One pass over the bitmaps: some
    /// microseconds at 1,500 pieces, once per piece.
    pub(crate) fn choose(
        &self,
        pieces: &PieceMap,
        theirs: &PieceSet,
        chance: &mut Chance,
    ) -> Option<PieceIndex> {
        let mut best: Option<((bool, u32, bool), PieceIndex)> = None;
        let mut ties = 0;
        for piece in theirs.and(pieces.missing()).filter_map(|raw| pieces.geometry().piece(raw)) {
            let rank = (!self.is_first(piece), pieces.availability(piece), !pieces.container_begun(piece));
            match best {
                Some((leader, _)) if rank > leader => {}
                // The n-th of equals takes the lead with chance 1/n: each ends up chosen as often.
                Some((leader, _)) if rank == leader => {
                    ties += 1;
                    if chance.below(ties) == 0 {
                        best = Some((rank, piece));
                    }
                }
                Some(_) | None => {
                    ties = 1;
                    best = Some((rank, piece));
                }
            }
        }
        best.map(|(_, piece)| piece)
    }

    pub(crate) fn is_first(&self, piece: PieceIndex) -> bool {
        self.first_pieces.contains(&piece.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Geometry;
    use proptest::prelude::*;

    fn pieces(availability: &[u32]) -> PieceMap {
        let count = u32::try_from(availability.len()).unwrap();
        let geometry = Geometry::new(u64::from(count) * 16, 16).unwrap();
        let mut map = PieceMap::new(geometry, &PieceSet::empty(count), 4);
        for (piece, &peers) in geometry.all().zip(availability) {
            (0..peers).for_each(|_| map.peer_has(piece));
        }
        map
    }

    fn set(count: usize, members: &[usize]) -> PieceSet {
        let mut set = PieceSet::empty(u32::try_from(count).unwrap());
        for &member in members {
            set.insert(u32::try_from(member).unwrap());
        }
        set
    }

    proptest! {
        /// The oracle sorts all candidates by the rule.
        #[test]
        fn the_choice_is_the_rarest_that_the_peer_has(
            availability in prop::collection::vec(1_u32..5, 1..80),
            theirs in prop::collection::vec(0_usize..80, 0..60),
            begun in prop::collection::vec(0_usize..80, 0..5),
            first in 0_u32..4,
            seed: u8,
        ) {
            let count = availability.len();
            let mut map = pieces(&availability);
            let begun: Vec<usize> = begun.into_iter().filter(|&piece| piece < count).collect();
            for &piece in &begun {
                map.begin(map.geometry().piece(u32::try_from(piece).unwrap()).unwrap(), None);
            }
            let theirs = set(count, &theirs);
            let picker = Picker { first_pieces: 0..first };
            let rank = |piece: usize| {
                let container_begun = begun.iter().any(|other| other / 4 == piece / 4);
                (piece >= first as usize, availability[piece], !container_begun)
            };
            let numbered = (0_u32..).zip(0..count).filter(|(raw, _)| theirs.contains(*raw)).map(|(_, piece)| piece);
            let candidates = numbered.filter(|piece| !begun.contains(piece));
            let choice = picker.choose(&map, &theirs, &mut Chance::new([seed; 32]));
            prop_assert_eq!(choice.map(|piece| rank(piece.at())), candidates.map(rank).min());
            if let Some(piece) = choice {
                prop_assert!(theirs.has(piece) && map.missing().has(piece));
            }
        }
    }

    #[test]
    fn equals_are_chosen_about_equally_often() {
        let map = pieces(&[1; 10]);
        let theirs = PieceSet::full(10);
        let mut chance = Chance::new([3; 32]);
        let mut seen = [0_u32; 10];
        for _ in 0..5000 {
            seen[Picker { first_pieces: 0..0 }.choose(&map, &theirs, &mut chance).unwrap().at()] += 1;
        }
        assert!(seen.iter().all(|count| (400..600).contains(count)), "{seen:?}");
    }
}
