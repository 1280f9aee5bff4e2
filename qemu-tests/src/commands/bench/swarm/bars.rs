//! What must hold of the swarm; nothing is said of what was not measured.

use qemu_tests::report::Bar;

use super::sample::Row;

/// Last node over S/B with several nodes, and with one.
const RATIO_MAX: f64 = 1.10;
const RATIO_ALONE_MAX: f64 = 1.02;
/// Between first and last node.
const APART_MAX: f64 = 0.03;
/// Image sizes that the server sends.
const COPIES_MAX: f64 = 1.15;
/// The others beside a slow node, over the same without it.
const LATER_MAX: f64 = 1.05;

pub(crate) fn bars(rows: &[Row]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for case in ["n1", "n8", "n16", "n32"] {
        let Some(ours) = row(rows, case, "ours") else { continue };
        let limit = if case == "n1" { RATIO_ALONE_MAX } else { RATIO_MAX };
        push(&mut bars, format!("{case}: last node / (S/B)"), ours.ratio().map(|it| it.median), limit);
        if case != "n1" {
            push(
                &mut bars,
                format!("{case}: (last - first) / last"),
                ours.apart().map(|it| it.median),
                APART_MAX,
            );
            let copies = ours.over(|sample| sample.copies).map(|it| it.median);
            push(&mut bars, format!("{case}: image sizes sent by the server"), copies, COPIES_MAX);
        }
    }
    for case in ["n8", "n16", "n32", "loss8", "loss32", "quick"] {
        ahead_of_all(rows, case, &mut bars);
    }
    if let (Some(even), Some(slow)) = (row(rows, "slow", "ours"), row(rows, "slow", "ours, one slow")) {
        let last = |row: &Row| row.last_s().map(|it| it.median);
        let later = last(even).and_then(|even| Some(last(slow)? / even));
        push(&mut bars, "slow: others beside a slow node / without it".to_owned(), later, LATER_MAX);
    }
    for ours in rows.iter().filter(|row| row.label.starts_with("ours")) {
        let (completed, expected) = ours.completed();
        let missing = f64::from(u32::try_from(expected - completed.min(expected)).unwrap_or(u32::MAX));
        if !ours.is_complete() || ours.case == "reliability" {
            push(
                &mut bars,
                format!("{}: {}: nodes that did not complete", ours.case, ours.label),
                Some(missing),
                0.0,
            );
        }
    }
    bars
}

/// Ours against the best of the others in the same case.
fn ahead_of_all(rows: &[Row], case: &str, bars: &mut Vec<Bar>) {
    let others = rows.iter().filter(|row| row.case == case && row.label != "ours" && row.is_complete());
    let best = others
        .filter_map(|row| Some((row.ratio()?.median, &row.label)))
        .min_by(|left, right| left.0.total_cmp(&right.0));
    let ours = row(rows, case, "ours").and_then(Row::ratio);
    if let (Some((best, label)), Some(ours)) = (best, ours) {
        push(bars, format!("{case}: ours beside the best other peer, {label}"), Some(ours.median), best);
    }
}

fn row<'a>(rows: &'a [Row], case: &str, label: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.case == case && row.label == label)
}

fn push(bars: &mut Vec<Bar>, name: String, value: Option<f64>, limit: f64) {
    if let Some(value) = value {
        bars.push(Bar { name: name.into(), value, limit, holds: value <= limit, is_time: true });
    }
}

#[cfg(test)]
mod tests {
    use bed::peers::Aria2;
    use bed::{Mbit, Shape};

    use super::*;
    use crate::commands::bench::swarm::cases::Entry;
    use crate::commands::bench::swarm::sample::Sample;

    fn row(label: &str, last_s: f64, completed: usize) -> Row {
        let mut entry = Entry::new(Box::new(Aria2), Shape::new(8, Some(Mbit(100.0))), 596);
        entry.label = label.to_owned();
        let mut row = Row::new("n8", &entry);
        let first_s = last_s - 1.0;
        row.samples.push(Sample {
            last_s,
            first_s,
            copies: 1.1,
            completed,
            expected: 8,
            ..Sample::default()
        });
        row
    }

    #[test]
    fn a_peer_that_left_a_node_behind_is_not_the_one_to_beat() {
        let rows = [row("ours", 54.0, 8), row("udpcast", 53.0, 7), row("aria2", 66.0, 8)];
        let bars = bars(&rows);
        let ahead = bars.iter().find(|bar| bar.name.contains("aria2")).unwrap();
        assert!(ahead.holds && bars.iter().all(|bar| bar.holds), "{bars:?}");
    }

    #[test]
    fn a_missing_node_of_ours_is_a_bar_that_does_not_hold() {
        let bars = bars(&[row("ours", 54.0, 7)]);
        assert!(bars.iter().any(|bar| !bar.holds && bar.name.contains("did not complete")), "{bars:?}");
    }
}
