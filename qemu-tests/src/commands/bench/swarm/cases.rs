//! What is raced: shapes, sizes, peers.
//!
//! N x rate stays at 800 Mbit/s: above that this project's two processors are the limit for every peer tried.

use std::time::Duration;

use bed::peers::{Aria2, Http, Libtorrent, Ours, OursOptions, Udpcast, Uftp};
use bed::{Contestant, Disturbance, Harm, Mbit, Shape};
use qemu_tests::programs::Programs;

/// The paper's image.
pub(crate) const PAPER_MIB: u64 = 596;
/// The same S/B as the paper's image on a link four times as fast.
const QUARTER_MIB: u64 = 149;
/// Short enough for plain HTTP, whose ratio is the number of nodes whatever the size.
const HTTP_S: f64 = 25.0;
/// A peer program by name.
pub(crate) type Peer = Box<dyn Contestant>;

/// Peers that take turns on one bed.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) entries: Vec<Entry>,
}

/// One row.
pub(crate) struct Entry {
    /// Peer, with what sets this row apart.
    pub(crate) label: String,
    pub(crate) peer: Peer,
    pub(crate) shape: Shape,
    pub(crate) mib: u64,
    pub(crate) disturbances: Vec<Disturbance>,
    /// Nodes for which the race does not wait.
    pub(crate) unawaited: Vec<usize>,
    pub(crate) note: &'static str,
}

impl Entry {
    pub(crate) fn new(peer: Peer, shape: Shape, mib: u64) -> Self {
        let label = peer.name().to_owned();
        Self { label, peer, shape, mib, disturbances: Vec::new(), unawaited: Vec::new(), note: "" }
    }

    /// Seconds that one turn is likely to take.
    pub(crate) fn expected_s(&self) -> f64 {
        /// Delivered in total on links without a rate, MB/s: about what stock peers reach on two processors.
        const UNSHAPED_MB_S: f64 = 350.0;
        let ratio = self.peer.expected_ratio(self.shape.nodes);
        let bytes = self.mib << 20;
        #[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
        let unshaped = || bytes as f64 * self.shape.nodes as f64 / (UNSHAPED_MB_S * 1e6);
        self.shape.bound_s(bytes).map_or_else(unshaped, |bound| bound * ratio)
    }

    /// Nodes that are not harmed and are waited for: those whose times count.
    pub(crate) fn is_counted(&self, node: usize) -> bool {
        !self.unawaited.contains(&node) && self.disturbances.iter().all(|it| it.node != node)
    }

    /// Nodes that are expected to complete.
    pub(crate) fn is_expected(&self, node: usize) -> bool {
        let is_killed = |it: &Disturbance| it.node == node && it.harm == Harm::Kill;
        !self.unawaited.contains(&node) && !self.disturbances.iter().any(is_killed)
    }
}

/// A peer by the name it has in tables.
pub(crate) fn peer(name: &str, programs: &Programs) -> Peer {
    match name {
        "libtorrent" => Box::new(Libtorrent),
        "aria2" => Box::new(Aria2),
        "http" => Box::new(Http),
        "udpcast" => Box::new(Udpcast),
        "uftp" => Box::new(Uftp),
        _ => Box::new(Ours {
            pxe_server: programs.pxe_server.clone(),
            image_tools: programs.image_tools.clone(),
            options: OursOptions::default(),
        }),
    }
}

pub(super) fn quick(programs: &Programs) -> Case {
    let shape = Shape::new(8, Some(Mbit(100.0)));
    let entry = |name| Entry::new(peer(name, programs), shape.clone(), 32);
    Case { name: "quick", entries: vec![entry("ours"), entry("aria2")] }
}

pub(super) fn all(programs: &Programs) -> Vec<Case> {
    let alone = Entry::new(peer("ours", programs), Shape::new(1, Some(Mbit(100.0))), PAPER_MIB);
    vec![
        Case { name: "n1", entries: vec![alone] },
        without_loss("n8", &Shape::new(8, Some(Mbit(100.0))), PAPER_MIB, programs),
        without_loss("n16", &Shape::new(16, Some(Mbit(50.0))), PAPER_MIB, programs),
        without_loss("n32", &Shape::new(32, Some(Mbit(25.0))), QUARTER_MIB, programs),
        with_loss("loss8", Shape::new(8, Some(Mbit(100.0))), 128, programs),
        with_loss("loss32", Shape::new(32, Some(Mbit(25.0))), QUARTER_MIB, programs),
        slow_node(programs),
        reliability(programs),
    ]
}

fn without_loss(name: &'static str, shape: &Shape, mib: u64, programs: &Programs) -> Case {
    let mut entries: Vec<Entry> = ["ours", "libtorrent", "aria2", "udpcast", "uftp"]
        .map(|name| Entry::new(peer(name, programs), shape.clone(), mib))
        .into();
    let mut http = Entry::new(peer("http", programs), shape.clone(), mib);
    let whole_s = http.expected_s();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size of some MiB")]
    #[expect(clippy::cast_precision_loss, reason = "a size of some MiB")]
    let reduced = (mib as f64 * HTTP_S / whole_s) as u64;
    http.mib = reduced.clamp(1, mib);
    http.note = "smaller file: the ratio is N whatever the size";
    entries.push(http);
    Case { name, entries }
}

fn with_loss(name: &'static str, shape: Shape, mib: u64, programs: &Programs) -> Case {
    let shape = Shape { loss_percent: 1.0, ..shape };
    let entries = ["ours", "udpcast", "uftp", "libtorrent", "aria2"]
        .map(|name| Entry::new(peer(name, programs), shape.clone(), mib))
        .into();
    Case { name, entries }
}

/// How much later the others finish because one node's link has a tenth of the rate.
fn slow_node(programs: &Programs) -> Case {
    let shape = Shape::new(8, Some(Mbit(100.0)));
    let mut slow = Entry::new(peer("ours", programs), shape.clone(), 256);
    slow.label = "ours, one slow".to_owned();
    slow.shape.slow = Some(Mbit(10.0));
    slow.unawaited = vec![7];
    slow.note = "last of the other 7; the slow one is not waited for";
    let mut even = Entry::new(peer("ours", programs), shape, 256);
    // The same seven nodes are compared.
    even.unawaited = vec![7];
    even.note = "last of the same 7";
    Case { name: "slow", entries: vec![even, slow] }
}

/// Two receivers die and one becomes slow on the way: who of the rest completes.
fn reliability(programs: &Programs) -> Case {
    let after = Duration::from_secs;
    let disturbances = vec![
        Disturbance { after: after(3), node: 0, harm: Harm::Kill },
        Disturbance { after: after(4), node: 1, harm: Harm::Kill },
        Disturbance { after: after(5), node: 7, harm: Harm::Slow(Mbit(10.0)) },
    ];
    let entry = |name| Entry {
        disturbances: disturbances.clone(),
        note: "2 killed after 3 and 4 s, 1 at a tenth after 5 s; last of the other 5",
        ..Entry::new(peer(name, programs), Shape::new(8, Some(Mbit(100.0))), 128)
    };
    Case { name: "reliability", entries: ["ours", "udpcast", "uftp"].map(entry).into() }
}
