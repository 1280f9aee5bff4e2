//! What a world is made of, and what goes wrong in it.

use std::collections::BTreeMap;
use std::time::Duration;

use swarm::HavePolicy;
use swarm::tracker::{DEGREE, SEED_DEGREE};

use crate::network::{LinkRates, NodeId};

/// What a world is made of. Node 0 is the seed; the others count from 1.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Nodes besides the seed.
    pub nodes: usize,
    /// Image, bytes.
    pub image_bytes: u64,
    /// Piece, bytes.
    pub piece_bytes: u32,
    /// Rates of every link: what TCP can carry over it, without the headers of Ethernet, IP and TCP.
    pub rates: LinkRates,
    /// Nodes per rack and the rate of a rack's uplink; `None` for one switch.
    pub racks: Option<(usize, u64)>,
    /// Who gets to know whom.
    pub meeting: Meeting,
    /// One way, besides the message's own length.
    pub latency: Duration,
    /// Bytes hashed per second.
    pub hash_bytes_s: u64,
    /// Bytes stored per second.
    pub disk_bytes_s: u64,
    /// When to announce.
    pub have_policy: HavePolicy,
    /// Nodes that are not like the others.
    pub characters: BTreeMap<usize, Character>,
    /// What happens when, in virtual time.
    pub incidents: Vec<(Duration, Incident)>,
    /// Measure what announcing costs and delays; takes about half as long again.
    pub measured: bool,
    /// Check every invariant after so many events; 0 = never.
    pub checked_every: u64,
    /// Where all chance comes from.
    pub seed: u64,
}

/// Who gets to know whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// The tracker says so.
    Tracker {
        /// Neighbours of a node.
        degree: usize,
        /// Neighbours of the seed.
        seed_degree: usize,
        /// Whether each node also knows the seed from the start.
        seed_is_known: bool,
    },
    /// Everyone knows everyone.
    All,
}

/// How a node differs from the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Character {
    /// Its own link.
    pub rates: Option<LinkRates>,
    /// Bytes that it stores per second.
    pub disk_bytes_s: Option<u64>,
    /// Bytes that it hashes per second.
    pub hash_bytes_s: Option<u64>,
    /// Every so manieth block that it sends is wrong; 0 = none.
    pub corrupts_every: u64,
    /// When it is powered on.
    pub joins_at: Duration,
}

/// Something that goes wrong, or right again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incident {
    /// The node's program ends at once; its system closes the connections.
    Kill(NodeId),
    /// The node is gone without a word.
    CutPower(NodeId),
    /// A node that was killed or cut off starts again.
    Restart {
        /// Which.
        node: NodeId,
        /// Whether it still has the pieces that it had stored.
        keeps: bool,
    },
    /// From now on nothing leaves the node, though its connections stand.
    Stall(NodeId),
    /// It goes on.
    Resume(NodeId),
    /// The tracker is gone, and forgets everything.
    StopTracker,
    /// It is there again.
    StartTracker,
}

impl Scenario {
    /// 100 Mbit/s links, 512 KiB pieces, the tracker's degrees: the shape of the published test.
    #[must_use]
    pub fn new(nodes: usize, image_bytes: u64) -> Self {
        // 1448 bytes of payload in frames of 1514, as the shaper of the test bed counts them.
        let rate = 12_500_000 * 1448 / 1514;
        Self {
            nodes,
            image_bytes,
            piece_bytes: 512 << 10,
            rates: LinkRates { egress_bytes_s: rate, ingress_bytes_s: rate },
            racks: None,
            meeting: Meeting::Tracker { degree: DEGREE, seed_degree: SEED_DEGREE, seed_is_known: false },
            latency: Duration::from_micros(100),
            hash_bytes_s: 1_000_000_000,
            disk_bytes_s: 1_000_000_000,
            have_policy: HavePolicy::Adaptive,
            characters: BTreeMap::new(),
            incidents: Vec::new(),
            measured: false,
            checked_every: 0,
            seed: 1,
        }
    }

    /// The same in coarser steps: image, pieces and rates divided by `by`, so that each simulated block stands
    /// for so many. All times stay; what is asked ahead in blocks weighs more, so the result is no better.
    #[must_use]
    pub fn coarser(mut self, by: u32) -> Self {
        let by = by.max(1);
        let slower = |rates: LinkRates| LinkRates {
            egress_bytes_s: rates.egress_bytes_s / u64::from(by),
            ingress_bytes_s: rates.ingress_bytes_s / u64::from(by),
        };
        self.image_bytes /= u64::from(by);
        self.piece_bytes /= by;
        self.rates = slower(self.rates);
        self.racks = self.racks.map(|(nodes, rate)| (nodes, rate / u64::from(by)));
        self.hash_bytes_s /= u64::from(by);
        self.disk_bytes_s /= u64::from(by);
        for character in self.characters.values_mut() {
            character.rates = character.rates.map(slower);
            character.disk_bytes_s = character.disk_bytes_s.map(|rate| rate / u64::from(by));
            character.hash_bytes_s = character.hash_bytes_s.map(|rate| rate / u64::from(by));
        }
        self
    }

    /// The time that one link needs to carry the image once, seconds.
    #[must_use]
    pub fn bound_s(&self) -> f64 {
        self.image_bytes as f64 / self.rates.ingress_bytes_s as f64
    }

    pub(crate) fn character(&self, node: NodeId) -> Character {
        self.characters.get(&node.0).copied().unwrap_or_default()
    }

    /// The rack of a node; the seed stands alone, above the racks.
    pub(crate) fn rack(&self, node: usize) -> Option<usize> {
        self.racks.filter(|_| node > 0).map(|(size, _)| (node - 1) / size.max(1))
    }
}
