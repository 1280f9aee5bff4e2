//! Chance as an argument: a small generator that gives the same numbers for the same seed everywhere.

/// A seeded generator for tie-breaks and orders (xorshift64*, seeded through BLAKE3).
///
/// Never used where an attacker must not guess the next value; that is what [`Chance::nonce`] is for.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
    key: [u8; 32],
    nonces: u64,
}

impl Chance {
    /// A generator from 32 bytes: of the operating system in a program, of the scenario in a test.
    pub fn new(seed: [u8; 32]) -> Chance {
        let derived = blake3::derive_key("esir swarm 2024 chance", &seed);
        let mut first = [0_u8; 8];
        first.iter_mut().zip(derived).for_each(|(to, from)| *to = from);
        let key = blake3::derive_key("esir swarm 2024 nonces", &seed);
        Chance { state: u64::from_le_bytes(first) | 1, key, nonces: 0 }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        // The multiply-shift method: its bias at the sizes used here is below 2^-40.
        let scaled = (u128::from(self.bits()) * u128::from(bound)) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// 32 bytes that nobody without the seed can foretell: a BLAKE3 keyed hash of a counter.
    pub fn nonce(&mut self) -> [u8; 32] {
        self.nonces += 1;
        *blake3::keyed_hash(&self.key, &self.nonces.to_le_bytes()).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_nonces_differ() {
        let (mut a, mut b) = (Chance::new([7; 32]), Chance::new([7; 32]));
        assert_eq!(
            (0..9).map(|_| a.bits()).collect::<Vec<_>>(),
            (0..9).map(|_| b.bits()).collect::<Vec<_>>()
        );
        assert_ne!(a.nonce(), a.nonce());
        assert_ne!(Chance::new([8; 32]).bits(), Chance::new([7; 32]).bits());
    }

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut chance = Chance::new([1; 32]);
        let mut seen = [0_u32; 5];
        for _ in 0..1000 {
            seen[chance.below(5)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 120), "{seen:?}");
        assert_eq!(chance.below(0), 0);
    }
}
