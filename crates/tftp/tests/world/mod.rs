//! What the tests share.

/// A file of this length in which blocks differ.
pub(crate) fn file(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

/// A sequence of numbers below `sides` that is the same for the same seed.
pub(crate) fn dice(seed: u64, sides: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % sides
    }
}
