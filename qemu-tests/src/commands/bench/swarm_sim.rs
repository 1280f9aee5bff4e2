//! `bench swarm-sim`: the last node's time over what one link needs, in the simulator, with 32 to 10,000 nodes.
//!
//! Never runs another engine than the one that nodes run, nor another tracker than the server's.

use anyhow::Result;
use lab::{Outcome, Scenario};
use qemu_tests::report::Bar;
use serde_json::{Value, json};

use super::choice::Choice;
use super::figures::{median, rounded};
use super::print::print_columns;
use super::simulate::{Job, link, simulate};

/// Runs per row, each with its own seed.
const SEEDS: u64 = 3;

/// Nodes per rack, and how many times their links together outdo the rack's uplink.
const RACK_NODES: usize = 32;
const OVERSUBSCRIBED: u64 = 4;

/// Least ratios to fail, up to a thousand nodes and above.
const RATIO_MAX: f64 = 1.10;
const RATIO_MAX_ABOVE: f64 = 1.20;

const MBIT: u64 = 100;

/// What the table shows, in this order.
const COLUMNS: [&str; 12] = [
    "nodes",
    "network",
    "image_mib",
    "piece_kib",
    "blocks_as_one",
    "bound_s",
    "last_ratio",
    "last_ratios",
    "median_ratio",
    "seed_copies",
    "redundant_percent",
    "have_per_s_node",
];

/// One row: how many nodes, and what image.
struct Case {
    nodes: usize,
    mib: u64,
    piece_kib: u32,
    /// Each simulated block stands for so many: fewer events, and a result that is no better.
    coarser: u32,
}

/// The paper's image at every size. 10,000 nodes take hours each, 1,000 twenty minutes.
const CASES: [Case; 4] = [
    Case { nodes: 10_000, mib: 596, piece_kib: 256, coarser: 8 },
    Case { nodes: 1000, mib: 596, piece_kib: 256, coarser: 1 },
    Case { nodes: 128, mib: 596, piece_kib: 256, coarser: 1 },
    Case { nodes: 32, mib: 596, piece_kib: 256, coarser: 1 },
];

const CASES_QUICK: [Case; 2] = [
    Case { nodes: 128, mib: 298, piece_kib: 128, coarser: 2 },
    Case { nodes: 32, mib: 596, piece_kib: 256, coarser: 4 },
];

pub(super) fn swarm_sim(choice: &Choice) -> Result<()> {
    let cases: &[Case] = if choice.quick { &CASES_QUICK } else { &CASES };
    let names: Vec<String> = cases.iter().map(|case| case.nodes.to_string()).collect();
    choice.knows_cases(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let cases = cases.iter().filter(|case| choice.has_case(&case.nodes.to_string()));
    let seeds = choice.runs.map_or(if choice.quick { 1 } else { SEEDS }, |runs| runs.max(1) as u64);
    let variants: Vec<(&Case, bool)> =
        cases.flat_map(|case| [false, true].map(|racks| (case, racks))).collect();
    let jobs = variants.iter().flat_map(|(case, racks)| (1..=seeds).map(|seed| case.job(*racks, seed)));
    let jobs: Vec<Job> = jobs.collect();
    let outcomes = simulate(&jobs)?;
    let per_row = usize::try_from(seeds).unwrap_or(usize::MAX);
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    let results = variants.iter().zip(jobs.chunks(per_row)).zip(outcomes.chunks(per_row));
    for (((case, racks), jobs), outcomes) in results.collect::<Vec<_>>().into_iter().rev() {
        let bound_s = jobs.first().map_or(f64::NAN, |job| job.scenario.bound_s());
        let ratio = median(outcomes.iter().map(|outcome| outcome.last_s() / bound_s)).unwrap_or(f64::NAN);
        rows.push(case.row(*racks, bound_s, outcomes));
        let limit = if case.nodes > 1000 { RATIO_MAX_ABOVE } else { RATIO_MAX };
        let name = format!("last node / (S/B), {} nodes, {}", case.nodes, place(*racks)).into();
        bars.push(Bar { name, value: ratio, limit, holds: ratio <= limit, is_time: false });
    }
    let left_out = choice.left_out("1,000 and 10,000 nodes, two of three seeds, fine steps");
    let limited_by = format!(
        "each node's {MBIT} Mbit/s link (S/B counts TCP payload); latency 0.1 ms, hash and disk 1 GB/s; medians of {seeds} seeds; left out: {left_out}"
    );
    print_columns("swarm-sim", choice.json, &COLUMNS, &rows, &limited_by, &bars)
}

fn place(racks: bool) -> &'static str {
    if racks { "racks of 32, uplinks 4:1" } else { "one switch" }
}

impl Case {
    fn job(&self, racks: bool, seed: u64) -> Job {
        let rates = link(MBIT);
        let uplink_bytes_s = rates.egress_bytes_s * RACK_NODES as u64 / OVERSUBSCRIBED;
        let scenario = Scenario {
            piece_bytes: self.piece_kib << 10,
            rates,
            racks: racks.then_some((RACK_NODES, uplink_bytes_s)),
            seed,
            ..Scenario::new(self.nodes, self.mib << 20)
        };
        let name = format!("{} nodes, {}, seed {seed}", self.nodes, place(racks));
        Job { name, scenario: scenario.coarser(self.coarser) }
    }

    fn row(&self, racks: bool, bound_s: f64, outcomes: &[Outcome]) -> Value {
        let over = |value: &dyn Fn(&Outcome) -> f64| {
            rounded(median(outcomes.iter().map(value)).unwrap_or(f64::NAN), 3)
        };
        let nodes = self.nodes as f64;
        json!({
            "nodes": self.nodes,
            "network": place(racks),
            "image_mib": self.mib,
            "piece_kib": self.piece_kib,
            "blocks_as_one": self.coarser,
            "bound_s": rounded(bound_s, 1),
            "last_ratio": over(&|outcome| outcome.last_s() / bound_s),
            "last_ratios": outcomes.iter().map(|outcome| rounded(outcome.last_s() / bound_s, 3)).collect::<Vec<_>>(),
            "median_ratio": over(&|outcome| outcome.median_s() / bound_s),
            "seed_copies": over(&|outcome| outcome.seed_copies),
            "redundant_percent": over(&|outcome| outcome.redundant_copies / nodes * 100.0),
            "have_per_s_node": over(&|outcome| outcome.have_messages as f64 / outcome.last_s() / nodes),
        })
    }
}
