//! What a bed looks like: how many nodes, how fast their links, how much is lost.

use std::fmt;

/// Payload of a full TCP segment over what the shaper counts for it: 1500 bytes of MTU without 40 of headers and
/// 12 of time stamps, over 1500 and 14 of Ethernet header.
const PAYLOAD_SHARE: f64 = 1448.0 / 1514.0;
/// Addresses of nodes start at `.10`; one subnet of 256.
pub(crate) const NODES_MAX: usize = 240;

/// Megabits per second on a link, each way.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Mbit(pub f64);

/// The shape of a bed.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// How many nodes beside the server; at most 240.
    pub nodes: usize,
    /// Rate of each link each way; `None`: as fast as the processor copies.
    pub rate: Option<Mbit>,
    /// The last node's link, if it is slower than the others.
    pub slow: Option<Mbit>,
    /// Frames lost before each receiver, percent, independently.
    pub loss_percent: f64,
}

impl Shape {
    /// Equal links without loss.
    #[must_use]
    pub fn new(nodes: usize, rate: Option<Mbit>) -> Self {
        Self { nodes: nodes.min(NODES_MAX), rate, slow: None, loss_percent: 0.0 }
    }

    /// Rate of one node's link.
    #[must_use]
    pub fn rate_of(&self, node: usize) -> Option<Mbit> {
        if node + 1 == self.nodes { self.slow.or(self.rate) } else { self.rate }
    }

    /// S/B: what one link needs for the bytes once, in full segments; `None` on links without a rate.
    #[must_use]
    pub fn bound_s(&self, bytes: u64) -> Option<f64> {
        self.rate.map(|rate| rate.seconds_for(bytes))
    }
}

impl Mbit {
    /// How long a link of this rate carries so many bytes of TCP payload.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
    pub fn seconds_for(self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / (self.0 * 1e6 * PAYLOAD_SHARE)
    }
}

impl fmt::Display for Mbit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_image_needs_52_3_seconds_at_100_mbit() {
        let bound = Shape::new(8, Some(Mbit(100.0))).bound_s(596 << 20).unwrap();
        assert!((bound - 52.27).abs() < 0.01, "{bound}");
        assert_eq!(Shape::new(8, None).bound_s(1), None);
    }

    #[test]
    fn only_the_last_node_is_slow() {
        let shape = Shape { slow: Some(Mbit(10.0)), ..Shape::new(3, Some(Mbit(100.0))) };
        let rates: Vec<_> = (0..3).map(|node| shape.rate_of(node)).collect();
        assert_eq!(rates, [Some(Mbit(100.0)), Some(Mbit(100.0)), Some(Mbit(10.0))]);
    }
}
