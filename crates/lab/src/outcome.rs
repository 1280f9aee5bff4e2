//! What came of a run.

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When each node had everything, seconds; `None` for one that never had.
    pub complete_s: Vec<Option<f64>>,
    /// Wire bytes that the seed sent, in image sizes.
    pub seed_copies: f64,
    /// HAVE messages of all, the seed included.
    pub have_messages: u64,
    /// Their bytes.
    pub have_bytes: u64,
    /// Pieces that were found corrupt.
    pub corrupt_pieces: u64,
    /// Blocks that arrived twice or too late, in image sizes over all nodes.
    pub redundant_copies: f64,
    /// What announcing cost and delayed, if it was measured.
    pub measures: Option<Measures>,
    /// What the uplinks did in each second, if it was measured: samples of nodes that were not complete or had a
    /// neighbour that was not.
    pub uplinks: Vec<Uplinks>,
    /// The first invariant that did not hold.
    pub broken: Option<String>,
    /// Events handled.
    pub events: u64,
    /// A number that two equal runs share.
    pub trace: u64,
}

/// What uplinks did: a number of samples of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// Something was leaving.
    pub busy: u32,
    /// Idle: no neighbour needs anything that the node has.
    pub useless: u32,
    /// Idle: all that neighbours need and have room to ask for, they have not been told of.
    pub untold: u32,
    /// Idle: a neighbour knows of something that it needs, has room to ask, and didn't.
    pub unasked: u32,
    /// Idle: those who need something have asked others for as much as they may.
    pub full: u32,
}

/// What announcing cost and delayed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// When the nodes together had every piece, seconds.
    pub spread_s: f64,
    /// Mean over pieces of the time from the first node's verification to half of the nodes, seconds.
    pub d50_s: f64,
    /// The same to all nodes.
    pub d100_s: f64,
    /// Mean time from a node's verification of a piece until a neighbour that lacks it knows, seconds.
    pub age_s: f64,
    /// 99th percentile of it.
    pub age_p99_s: f64,
    /// Share of the nodes' time in which a node's uplink was idle although it had a piece that a neighbour needs,
    /// could have asked for, and had not been told of.
    pub idle_while_available: f64,
    /// Share of the nodes' time in which its uplink was idle, for whatever reason.
    pub idle: f64,
    /// 99th percentile of the HAVE messages that a node sent in one second.
    pub have_p99_second: u32,
}

impl Outcome {
    /// When the last node was complete, seconds; infinite if one never was.
    #[must_use]
    pub fn last_s(&self) -> f64 {
        self.complete_s.iter().map(|time| time.unwrap_or(f64::INFINITY)).fold(0.0, f64::max)
    }

    /// When half of the nodes were complete, seconds.
    #[must_use]
    pub fn median_s(&self) -> f64 {
        let mut times: Vec<f64> = self.complete_s.iter().map(|time| time.unwrap_or(f64::INFINITY)).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(0.0)
    }
}
