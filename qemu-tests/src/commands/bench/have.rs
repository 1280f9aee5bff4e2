//! `bench have`: what announcing pieces costs, and what announcing them later delays, by policy.
//!
//! Never compares runs of different seeds: each seed is run with every policy, and ratios are taken per seed.

mod races;
mod rows;

use std::time::Duration;

use anyhow::Result;
use lab::{Meeting, Scenario};
use swarm::HavePolicy;
use swarm::tracker::{DEGREE, SEED_DEGREE};

use super::choice::Choice;
use super::print::print_columns;
use super::simulate::{Job, link, simulate};
use rows::Results;

/// Seeds per row.
const SEEDS: u64 = 20;
const SEEDS_QUICK: u64 = 4;

/// The case of the reduced form.
const QUICK: &str = "n32";

/// Delay of the fixed policy.
const FIXED: Duration = Duration::from_millis(20);

/// A policy, and whether everyone knows everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Bep3AllPeers,
    Bep3,
    Suppress,
    Fixed,
    Adaptive,
}

/// One size of swarm.
#[derive(Debug)]
struct Case {
    name: &'static str,
    nodes: usize,
    mbit: u64,
    mib: u64,
    piece_kib: u32,
    /// Each simulated block stands for so many.
    coarser: u32,
}

/// 24 pieces per second and node at 100 Mbit/s, 230 at 1 Gbit/s.
const CASES: [Case; 4] = [
    Case { name: "n1000", nodes: 1000, mbit: 100, mib: 596, piece_kib: 256, coarser: 8 },
    Case { name: "n256", nodes: 256, mbit: 100, mib: 596, piece_kib: 256, coarser: 8 },
    Case { name: "n32-gbit", nodes: 32, mbit: 1000, mib: 596, piece_kib: 256, coarser: 4 },
    Case { name: "n32", nodes: 32, mbit: 100, mib: 596, piece_kib: 256, coarser: 1 },
];

impl Contender {
    const fn name(self) -> &'static str {
        match self {
            Self::Bep3AllPeers => "bep3, all peers",
            Self::Bep3 => "bep3",
            Self::Suppress => "suppress",
            Self::Fixed => "fixed 20 ms",
            Self::Adaptive => "adaptive",
        }
    }

    /// As the programs' `--have` takes it.
    fn option(self) -> String {
        match self.policy() {
            HavePolicy::Bep3 => "bep3".into(),
            HavePolicy::Suppress => "suppress".into(),
            HavePolicy::Fixed(delay) => format!("fixed:{}", delay.as_millis()),
            HavePolicy::Adaptive => "adaptive".into(),
        }
    }

    const fn policy(self) -> HavePolicy {
        match self {
            Self::Bep3AllPeers | Self::Bep3 => HavePolicy::Bep3,
            Self::Suppress => HavePolicy::Suppress,
            Self::Fixed => HavePolicy::Fixed(FIXED),
            Self::Adaptive => HavePolicy::Adaptive,
        }
    }
}

impl Case {
    /// A full mesh is run where it fits; above, its messages are pieces x nodes x (nodes - 1). The largest swarm
    /// runs only what the bars compare: a run takes minutes.
    fn contenders(&self) -> Vec<Contender> {
        let all = [
            (Contender::Bep3AllPeers, 32),
            (Contender::Bep3, usize::MAX),
            (Contender::Suppress, 256),
            (Contender::Fixed, 256),
            (Contender::Adaptive, usize::MAX),
        ];
        all.into_iter()
            .filter(|(_, nodes_max)| self.nodes <= *nodes_max)
            .map(|(contender, _)| contender)
            .collect()
    }

    fn pieces(&self) -> u64 {
        (self.mib << 10).div_ceil(u64::from(self.piece_kib))
    }

    fn job(&self, contender: Contender, seed: u64) -> Job {
        let meeting = match contender {
            Contender::Bep3AllPeers => Meeting::All,
            _ => Meeting::Tracker { degree: DEGREE, seed_degree: SEED_DEGREE, seed_is_known: false },
        };
        let scenario = Scenario {
            piece_bytes: self.piece_kib << 10,
            rates: link(self.mbit),
            have_policy: contender.policy(),
            meeting,
            measured: true,
            seed,
            ..Scenario::new(self.nodes, self.mib << 20)
        };
        let name = format!("{} nodes, {} Mbit/s, {}, seed {seed}", self.nodes, self.mbit, contender.name());
        Job { name, scenario: scenario.coarser(self.coarser) }
    }
}

pub(super) fn have(choice: &Choice) -> Result<()> {
    let names: Vec<&str> = CASES.iter().map(|case| case.name).chain([races::NAME]).collect();
    choice.knows_cases(&names)?;
    let cases =
        CASES.iter().filter(|case| choice.has_case(case.name) && (!choice.quick || case.name == QUICK));
    let seeds = match choice.runs {
        Some(runs) => runs.max(1) as u64,
        None if choice.quick => SEEDS_QUICK,
        None => SEEDS,
    };
    let mut runs = Vec::new();
    for case in cases {
        for contender in case.contenders() {
            runs.extend((1..=seeds).map(|seed| (case, contender, case.job(contender, seed))));
        }
    }
    let jobs: Vec<Job> = runs.iter().map(|(_, _, job)| job.clone()).collect();
    let outcomes = simulate(&jobs)?;
    let results = Results::new(runs.iter().map(|(case, contender, _)| (*case, *contender)).zip(outcomes));
    let left_out = choice.left_out("256 and 1,000 nodes, 1 Gbit/s, 16 of 20 seeds, namespaces");
    let limited_by = format!(
        "links of 100 Mbit/s or 1 Gbit/s, degree {DEGREE} (at least ln N + 3), medians of {seeds} seeds; messages of bep3 with all peers: measured at 32 nodes, above pieces x nodes x (nodes - 1); left out: {left_out}"
    );
    let (mut rows, mut bars) = (results.rows(), results.bars());
    if !choice.quick && choice.has_case(races::NAME) {
        let races = races::races(choice.json)?;
        bars.extend(rows::bars_of_races(&races));
        rows.extend(races);
    }
    print_columns("have", choice.json, &rows::COLUMNS, &rows, &limited_by, &bars)
}
