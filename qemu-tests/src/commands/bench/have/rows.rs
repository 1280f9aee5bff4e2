//! Rows and bars of `bench have`.

use lab::{Measures, Outcome};
use qemu_tests::report::Bar;
use serde_json::{Value, json};

use super::{Case, Contender};
use crate::commands::bench::figures::{median, rounded};
use crate::commands::bench::simulate::link;

/// Messages of `adaptive` over those of bep3 with all peers connected, and with the same neighbours.
const OF_ALL_PEERS_MAX: f64 = 0.10;
const OF_SAME_DEGREE_MAX: f64 = 0.30;
/// Share of the nodes' time in which an uplink idles for want of an announcement.
const IDLE_MAX: f64 = 0.001;
/// Diffusion of a piece, and the last node's time, over those of bep3 with the same neighbours.
const DIFFUSION_MAX: f64 = 1.05;
const LAST_MAX: f64 = 1.01;

/// What the table shows, in this order.
pub(super) const COLUMNS: [&str; 17] = [
    "where",
    "nodes",
    "mbit",
    "image_mib",
    "have",
    "messages",
    "messages_per_s_node",
    "messages_p99_second",
    "bytes",
    "of_all_peers",
    "of_same_degree",
    "age_ms",
    "idle_while_available_percent",
    "d50_s",
    "d100_s",
    "last_ratio",
    "median_ratio",
];

/// All runs: of each case and contender one per seed, in the order of seeds.
pub(super) struct Results<'a> {
    groups: Vec<Group<'a>>,
}

struct Group<'a> {
    case: &'a Case,
    contender: Contender,
    outcomes: Vec<Outcome>,
}

impl Group<'_> {
    fn median(&self, value: impl Fn(&Outcome) -> f64) -> f64 {
        median(self.outcomes.iter().map(value)).unwrap_or(f64::NAN)
    }

    fn measure(&self, value: impl Fn(&Measures) -> f64) -> f64 {
        self.median(|outcome| outcome.measures.as_ref().map_or(f64::NAN, &value))
    }

    fn messages(&self) -> f64 {
        self.median(|outcome| outcome.have_messages as f64)
    }
}

impl<'a> Results<'a> {
    pub(super) fn new(runs: impl Iterator<Item = ((&'a Case, Contender), Outcome)>) -> Self {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for ((case, contender), outcome) in runs {
            match groups.last_mut() {
                Some(group) if std::ptr::eq(group.case, case) && group.contender == contender => {
                    group.outcomes.push(outcome);
                }
                _ => groups.push(Group { case, contender, outcomes: vec![outcome] }),
            }
        }
        Self { groups }
    }

    /// Small swarms first.
    fn cases(&self) -> Vec<&'a Case> {
        let mut cases: Vec<&'a Case> = Vec::new();
        for group in self.groups.iter().rev() {
            if !cases.iter().any(|case| std::ptr::eq(*case, group.case)) {
                cases.push(group.case);
            }
        }
        cases
    }

    fn find(&self, case: &Case, contender: Contender) -> Option<&Group<'a>> {
        self.groups.iter().find(|group| std::ptr::eq(group.case, case) && group.contender == contender)
    }

    /// Messages of bep3 with all peers connected.
    fn of_all_peers(&self, case: &Case) -> f64 {
        let computed = (case.pieces() * case.nodes as u64 * (case.nodes as u64 - 1)) as f64;
        self.find(case, Contender::Bep3AllPeers).map_or(computed, Group::messages)
    }

    pub(super) fn rows(&self) -> Vec<Value> {
        let groups = |case: &'a Case| self.groups.iter().filter(move |group| std::ptr::eq(group.case, case));
        self.cases().into_iter().flat_map(groups).map(|group| self.row(group)).collect()
    }

    fn row(&self, group: &Group<'_>) -> Value {
        let (case, nodes) = (group.case, group.case.nodes as f64);
        let bound_s = (case.mib << 20) as f64 / link(case.mbit).ingress_bytes_s as f64;
        let same_degree = self.find(case, Contender::Bep3).map_or(f64::NAN, Group::messages);
        json!({
            "where": "simulator",
            "nodes": case.nodes,
            "mbit": case.mbit,
            "image_mib": case.mib,
            "piece_kib": case.piece_kib,
            "blocks_as_one": case.coarser,
            "have": group.contender.name(),
            "messages": rounded(group.messages(), 0),
            "messages_per_s_node": rounded(group.median(|run| run.have_messages as f64 / run.last_s() / nodes), 1),
            "messages_p99_second": group.measure(|measures| f64::from(measures.have_p99_second)),
            "bytes": rounded(group.median(|run| run.have_bytes as f64), 0),
            "of_all_peers": rounded(group.messages() / self.of_all_peers(case), 3),
            "of_same_degree": rounded(group.messages() / same_degree, 3),
            "age_ms": rounded(group.measure(|measures| measures.age_s * 1e3), 1),
            "age_p99_ms": rounded(group.measure(|measures| measures.age_p99_s * 1e3), 1),
            "idle_while_available_percent": rounded(group.measure(|measures| measures.idle_while_available * 100.0), 4),
            "d50_s": rounded(group.measure(|measures| measures.d50_s), 3),
            "d100_s": rounded(group.measure(|measures| measures.d100_s), 3),
            "last_ratio": rounded(group.median(|run| run.last_s() / bound_s), 4),
            "median_ratio": rounded(group.median(|run| run.median_s() / bound_s), 4),
        })
    }

    pub(super) fn bars(&self) -> Vec<Bar> {
        self.cases().into_iter().flat_map(|case| self.bars_of(case)).collect()
    }

    fn bars_of(&self, case: &Case) -> Vec<Bar> {
        let (Some(ours), Some(bep3)) =
            (self.find(case, Contender::Adaptive), self.find(case, Contender::Bep3))
        else {
            return Vec::new();
        };
        // Ratios are taken seed by seed.
        let paired = |value: &dyn Fn(&Outcome) -> f64| {
            let pairs = ours.outcomes.iter().zip(&bep3.outcomes);
            median(pairs.map(|(ours, bep3)| value(ours) / value(bep3))).unwrap_or(f64::NAN)
        };
        let measure = |value: fn(&Measures) -> f64| {
            paired(&|run: &Outcome| run.measures.as_ref().map_or(f64::NAN, value))
        };
        let values = [
            ("messages of bep3 with all peers", ours.messages() / self.of_all_peers(case), OF_ALL_PEERS_MAX),
            (
                "messages of bep3 at the same degree",
                paired(&|run| run.have_messages as f64),
                OF_SAME_DEGREE_MAX,
            ),
            ("idle while available", ours.measure(|measures| measures.idle_while_available), IDLE_MAX),
            ("D50 of bep3", measure(|measures| measures.d50_s), DIFFUSION_MAX),
            ("D100 of bep3", measure(|measures| measures.d100_s), DIFFUSION_MAX),
            ("last node of bep3", paired(&Outcome::last_s), LAST_MAX),
        ];
        let bar = |(what, value, limit): (&str, f64, f64)| {
            let name = format!("{} nodes, {} Mbit/s: {what}", case.nodes, case.mbit).into();
            Bar { name, value, limit, holds: value <= limit, is_time: false }
        };
        values.into_iter().map(bar).collect()
    }
}

/// What the races with the real programs must hold.
pub(super) fn bars_of_races(rows: &[Value]) -> Vec<Bar> {
    let adaptive =
        rows.iter().find(|row| row.get("have").is_some_and(|name| name == Contender::Adaptive.name()));
    let bars = [
        ("namespaces: messages of bep3 with all peers", "of_all_peers", OF_ALL_PEERS_MAX),
        ("namespaces: messages of bep3 at the same degree", "of_same_degree", OF_SAME_DEGREE_MAX),
    ];
    bars.into_iter()
        .map(|(name, key, limit)| {
            let value = adaptive.and_then(|row| row.get(key)?.as_f64()).unwrap_or(f64::NAN);
            Bar { name: name.into(), value, limit, holds: value <= limit, is_time: false }
        })
        .collect()
}
