//! What one race showed, and the row of several.

use bed::{Outcome, Shape};
use serde_json::{Value, json};

use super::cases::Entry;
use crate::commands::bench::figures::Spread;

/// Above, a race beside other work measures that work.
const FULL_STALL_MAX: f64 = 0.15;
/// The same for any program of the bed.
const SOME_STALL_MAX: f64 = 0.6;
/// Processor time taken by the machine below.
const STEAL_MAX: f64 = 0.03;
/// Below, nobody else was there: then waiting for a processor is the peer's own doing and part of its result.
const OTHERS_MAX: f64 = 0.08;
/// A clock tick of `/proc/stat`, microseconds.
const TICK_US: f64 = 10_000.0;

/// One race.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Last and first of the nodes that count, seconds.
    pub(crate) last_s: f64,
    pub(crate) first_s: f64,
    /// Last of all that completed, with those that were harmed.
    pub(crate) harmed_last_s: f64,
    /// Server's link bytes over the file's size.
    pub(crate) copies: f64,
    /// HAVE messages (and batches of them) that nodes sent, where the peer says so.
    pub(crate) have_messages: Option<u64>,
    /// Core seconds per delivered GB, without interrupts.
    pub(crate) cpu_s_per_gb: f64,
    /// Part of the time in which some, or all, of its programs waited for a processor.
    pub(crate) some_stall: f64,
    pub(crate) full_stall: f64,
    /// Part of the machine's time.
    pub(crate) steal: f64,
    pub(crate) others: f64,
    /// Nodes that completed, with the right bytes, of those that should.
    pub(crate) completed: usize,
    pub(crate) expected: usize,
    pub(crate) failures: Vec<String>,
}

/// Rows are medians and ranges of these.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) label: String,
    pub(crate) shape: Shape,
    pub(crate) mib: u64,
    pub(crate) note: &'static str,
    pub(crate) samples: Vec<Sample>,
    /// Of those that other work disturbed.
    pub(crate) disturbed: Vec<Sample>,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "bytes and microseconds below 2^53")]
    pub(crate) fn new(entry: &Entry, outcome: &Outcome) -> Self {
        let bytes = (entry.mib << 20) as f64;
        let times =
            || outcome.finished_s.iter().enumerate().filter_map(|(node, time)| Some((node, (*time)?)));
        let counted: Vec<f64> =
            times().filter(|(node, _)| entry.is_counted(*node)).map(|(_, time)| time).collect();
        let right = times().filter(|(node, _)| entry.is_expected(*node) && !outcome.wrong.contains(node));
        let usage = &outcome.usage;
        let seconds = outcome.seconds.max(f64::MIN_POSITIVE);
        let delivered = bytes * times().count().max(1) as f64;
        let window_us = seconds * 1e6;
        let machine_us = (usage.all_ticks as f64 * TICK_US).max(1.0);
        let idle_us = usage.idle_ticks as f64 * TICK_US;
        let known_us = usage.cpu_us as f64 + usage.softirq_ticks as f64 * TICK_US + idle_us;
        let haves: Vec<u64> = outcome
            .stats
            .iter()
            .filter(|(node, _)| node.is_some())
            .filter_map(|(_, stats)| stats.get("have_messages")?.as_u64())
            .collect();
        Self {
            last_s: counted.iter().copied().fold(0.0, f64::max),
            first_s: counted.iter().copied().reduce(f64::min).unwrap_or_default(),
            harmed_last_s: outcome.last_s(),
            copies: usage.server.sent_bytes as f64 / bytes,
            have_messages: (!haves.is_empty()).then(|| haves.iter().sum()),
            cpu_s_per_gb: usage.cpu_us as f64 / 1e6 / (delivered / 1e9),
            some_stall: usage.pressure.some_us as f64 / window_us,
            full_stall: usage.pressure.full_us as f64 / window_us,
            steal: usage.steal_ticks as f64 * TICK_US / machine_us,
            others: (1.0 - known_us / machine_us).max(0.0),
            completed: right.count(),
            expected: (0..entry.shape.nodes).filter(|node| entry.is_expected(*node)).count(),
            failures: outcome.failures.clone(),
        }
    }

    /// Why the race says nothing about the peer.
    pub(crate) fn disturbance(&self) -> Option<String> {
        if self.steal > STEAL_MAX {
            return Some(format!(
                "{:.0} % of the processors were taken from this machine",
                self.steal * 100.0
            ));
        }
        let is_stalled = self.full_stall > FULL_STALL_MAX || self.some_stall > SOME_STALL_MAX;
        (is_stalled && self.others > OTHERS_MAX).then(|| {
            let (some, full, others) = (self.some_stall, self.full_stall, self.others * 100.0);
            format!("waited for a processor (some {some:.2}, all {full:.2}) beside {others:.0} % other work")
        })
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.completed == self.expected
    }

    fn json(&self, bound_s: Option<f64>) -> Value {
        json!({
            "last_s": self.last_s, "first_s": self.first_s, "ratio": bound_s.map(|bound| self.last_s / bound),
            "copies": self.copies, "have_messages": self.have_messages, "cpu_s_per_gb": self.cpu_s_per_gb,
            "some_stall": self.some_stall, "full_stall": self.full_stall, "steal": self.steal,
            "others": self.others, "completed": self.completed, "expected": self.expected,
            "harmed_last_s": self.harmed_last_s, "failures": self.failures,
        })
    }
}

impl Row {
    pub(crate) fn new(case: &'static str, entry: &Entry) -> Self {
        let (label, shape) = (entry.label.clone(), entry.shape.clone());
        let (samples, disturbed) = (Vec::new(), Vec::new());
        Self { case, label, shape, mib: entry.mib, note: entry.note, samples, disturbed }
    }

    /// Whether any race was held.
    pub(crate) fn has_run(&self) -> bool {
        !self.samples.is_empty() || !self.disturbed.is_empty()
    }

    pub(crate) fn bound_s(&self) -> Option<f64> {
        self.shape.bound_s(self.mib << 20)
    }

    /// Median and range of one figure over the undisturbed races.
    pub(crate) fn over(&self, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples.iter().map(figure))
    }

    /// Seconds until the last node; a race in which one was left behind has no such time.
    pub(crate) fn last_s(&self) -> Option<Spread> {
        self.over_complete(|sample| sample.last_s)
    }

    fn over_complete(&self, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples.iter().filter(|sample| sample.is_complete()).map(figure))
    }

    /// Last node over S/B.
    pub(crate) fn ratio(&self) -> Option<Spread> {
        let bound = self.bound_s()?;
        self.over_complete(|sample| sample.last_s / bound)
    }

    /// Seconds until the last of all, where some were harmed and awaited all the same.
    pub(crate) fn harmed_last_s(&self) -> Option<Spread> {
        let is_later = |sample: &Sample| sample.harmed_last_s > sample.last_s;
        if self.samples.iter().any(is_later) {
            self.over_complete(|sample| sample.harmed_last_s)
        } else {
            None
        }
    }

    /// How far apart first and last are, as part of the last.
    pub(crate) fn apart(&self) -> Option<Spread> {
        self.over_complete(|sample| (sample.last_s - sample.first_s) / sample.last_s.max(f64::MIN_POSITIVE))
    }

    /// HAVE messages that a node sent per second, on average.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    pub(crate) fn haves_per_node_s(&self) -> Option<Spread> {
        let nodes = self.shape.nodes.max(1) as f64;
        let counted = self.samples.iter().filter(|sample| sample.is_complete());
        let rate = |sample: &Sample| Some(sample.have_messages? as f64 / nodes / sample.last_s);
        Spread::of(counted.filter_map(rate))
    }

    /// Whether in every race every node that should complete did.
    pub(crate) fn is_complete(&self) -> bool {
        self.samples.iter().chain(&self.disturbed).all(Sample::is_complete)
    }

    /// Fewest nodes that completed, of how many.
    pub(crate) fn completed(&self) -> (usize, usize) {
        let all = || self.samples.iter().chain(&self.disturbed);
        let least = all().map(|sample| sample.completed).min().unwrap_or_default();
        (least, all().map(|sample| sample.expected).max().unwrap_or_default())
    }

    pub(crate) fn json(&self) -> Value {
        let figure = |spread: Option<Spread>| spread.map(|it| json!([it.median, it.min, it.max]));
        let samples = |list: &[Sample]| -> Vec<Value> {
            list.iter().map(|sample| sample.json(self.bound_s())).collect()
        };
        json!({
            "case": self.case, "peer": self.label, "nodes": self.shape.nodes, "mib": self.mib,
            "mbit_s": self.shape.rate.map(|rate| rate.0), "loss_percent": self.shape.loss_percent,
            "bound_s": self.bound_s(), "note": self.note,
            "last_s": figure(self.last_s()), "ratio": figure(self.ratio()),
            "spread": figure(self.apart()), "copies": figure(self.over(|sample| sample.copies)),
            "haves_per_node_s": figure(self.haves_per_node_s()),
            "completed": self.completed().0, "expected": self.completed().1,
            "runs": samples(&self.samples), "disturbed_runs": samples(&self.disturbed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_fills_the_processors_alone_is_not_called_disturbed() {
        let own = Sample { some_stall: 0.9, others: 0.02, ..Sample::default() };
        assert_eq!(own.disturbance(), None);
        assert!(Sample { others: 0.3, ..own.clone() }.disturbance().is_some());
        assert!(Sample { steal: 0.1, ..own }.disturbance().is_some());
    }
}
