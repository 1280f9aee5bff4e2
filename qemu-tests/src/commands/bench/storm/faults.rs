//! What goes wrong with a node, so often and no oftener.

/// Chances of one node; the same number gives the same chances.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    percent: u32,
    state: u64,
}

impl Faults {
    /// Of a node, each with this chance in percent.
    pub(super) fn new(percent: u32, node: u32) -> Self {
        Self { percent, state: (u64::from(node) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// Whether the next thing that can go wrong does.
    pub(super) fn strikes(&mut self) -> bool {
        self.percent > 0 && self.below(100) < self.percent
    }

    /// A number from 0 to below `sides`.
    pub(super) fn below(&mut self, sides: u32) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let [_, a, b, c, d, ..] = self.state.to_be_bytes();
        u32::from_be_bytes([a, b, c, d]) % sides.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_as_often_as_asked_for() {
        let struck = (0..1000)
            .map(|node| Faults::new(2, node))
            .map(|mut faults| (0..100).filter(|_| faults.strikes()).count());
        let struck: usize = struck.sum();
        assert!((1500..2500).contains(&struck), "{struck} of 100,000");
        assert!((0..1000).all(|node| !Faults::new(0, node).strikes()));
    }
}
