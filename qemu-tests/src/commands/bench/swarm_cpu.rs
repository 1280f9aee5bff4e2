//! `bench swarm-cpu`: one file to 1, 4 and 8 nodes on links without a rate, where the processors are the limit.
//!
//! Both peers hash (SHA-1) and store every piece in memory files. Never counts what a program does before go.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bed::{Bed, Outcome, Shape, Source, race};
use qemu_tests::programs::Programs;
use qemu_tests::report::Bar;
use qemu_tests::session;
use serde_json::{Value, json};

use super::choice::Choice;
use super::figures::{Spread, range, shown};
use super::print::print_columns;
use super::swarm::{Entry, Row, Sample, peer};

/// Whom we are compared with: the library behind most peers.
const OTHER: &str = "libtorrent";
const OURS: &str = "ours";
/// Bytes per processor second, ours over the other's.
const RATIO_MIN: f64 = 2.0;
/// Nodes and MiB: long enough that starting and ending are a small part (two seconds at a gigabyte per second), and
/// not more files in memory than a virtual machine keeps at hand.
const SIZES: [(usize, u64); 3] = [(1, 1024), (4, 512), (8, 256)];
const QUICK_SIZES: [(usize, u64); 2] = [(1, 256), (4, 128)];
const RUNS: usize = 3;
/// A race that other work disturbed is held again so often.
const AGAIN_MAX: usize = 2;
/// Ten times what the slower peer needs on this project's machine.
const DEADLINE: Duration = Duration::from_secs(180);
const COLUMNS: [&str; 8] = ["N", "peer", "MiB", "MB/s", "MB/s range", "MB per CPU s", "range", "complete"];

pub(super) fn swarm_cpu(choice: &Choice) -> Result<()> {
    let programs = Programs::find_peers()?;
    session::before_exit(bed::sweep_own);
    let sizes: &[(usize, u64)] = if choice.quick { &QUICK_SIZES } else { &SIZES };
    let runs = choice.turns(RUNS);
    let mut rows = Vec::new();
    for &(nodes, mib) in sizes {
        let shape = Shape::new(nodes, None);
        let entries = [OURS, OTHER].map(|name| Entry::new(peer(name, &programs), shape.clone(), mib));
        let bed = Bed::new(shape)?;
        let source = Source::make(&bed.dir().join("image"), mib << 20)?;
        let mut held = entries.each_ref().map(|entry| Row::new("cpu", entry));
        for run in 1..=runs {
            // A B, B A, A B: never all of A and then all of B, and none always first.
            let mut pairs: Vec<_> = entries.iter().zip(&mut held).collect();
            if run % 2 == 0 {
                pairs.reverse();
            }
            for (entry, row) in pairs {
                turn(&bed, &source, entry, row, &format!("{run}/{runs}"))?;
            }
        }
        rows.extend(held);
    }
    let left_out = if choice.quick { "8 nodes, the full size, repetitions" } else { "nothing" };
    let limited_by = format!(
        "processors (links have no rate); CPU: user and system seconds of all peers, seed included, from go to \
         the last node; left out: {left_out}"
    );
    let lines: Vec<Value> = rows.iter().map(line).collect();
    print_columns("swarm-cpu", choice.json, &COLUMNS, &lines, &limited_by, &bars(&rows))
}

/// One race, and again while other work disturbs it.
fn turn(bed: &Bed, source: &Source, entry: &Entry, row: &mut Row, run: &str) -> Result<()> {
    for _ in 0..=AGAIN_MAX {
        touch_memory(bed, source)?;
        let outcome = race(bed, entry.peer.as_ref(), source, &[], &[], DEADLINE).unwrap_or_else(|error| {
            let (finished_s, failures) = (vec![None; bed.shape().nodes], vec![format!("{error:#}")]);
            Outcome { finished_s, failures, ..Outcome::default() }
        });
        let sample = Sample::new(entry, &outcome);
        let disturbance = sample.disturbance();
        eprintln!(
            "N={} {run} {:<10} {:.0} MB/s, {:.0} MB per CPU s, {}/{} complete, others {:.0} %{}",
            bed.shape().nodes,
            entry.label,
            total_mb_s(row, &sample),
            mb_per_cpu_s(&sample),
            sample.completed,
            sample.expected,
            sample.others * 100.0,
            disturbance.as_ref().map(|why| format!(", void: {why}")).unwrap_or_default(),
        );
        sample.failures.iter().for_each(|failure| eprintln!("  {failure}"));
        if disturbance.is_none() {
            row.samples.push(sample);
            return Ok(());
        }
        row.disturbed.push(sample);
    }
    Ok(())
}

/// Takes from the machine below what the nodes' files will need, and frees it: on a virtual machine the first use
/// of a page costs more than everything that is measured here.
fn touch_memory(bed: &Bed, source: &Source) -> Result<()> {
    let copies: Vec<_> =
        (0..bed.shape().nodes).map(|node| bed.dir().join(format!("touched-{node}"))).collect();
    let made = copies.iter().try_for_each(|path| fs::copy(&source.path, path).map(|_| ()));
    copies.iter().for_each(|path| {
        let _ = fs::remove_file(path);
    });
    made.context("touching memory")
}

/// Delivered to all nodes in total.
#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
fn total_mb_s(row: &Row, sample: &Sample) -> f64 {
    let delivered = (row.mib << 20) as f64 * sample.completed as f64;
    delivered / 1e6 / sample.last_s.max(f64::MIN_POSITIVE)
}

fn mb_per_cpu_s(sample: &Sample) -> f64 {
    1e3 / sample.cpu_s_per_gb.max(f64::MIN_POSITIVE)
}

fn line(row: &Row) -> Value {
    let (speed, cost) = (row.over(|sample| total_mb_s(row, sample)), row.over(mb_per_cpu_s));
    let middle = |spread: Option<Spread>| spread.map(|it| it.median);
    let ends = |spread: Option<Spread>| spread.into_iter().flat_map(|it| [it.min, it.max]);
    let (completed, expected) = row.completed();
    let void =
        if row.disturbed.is_empty() { String::new() } else { format!(", {} disturbed", row.disturbed.len()) };
    json!({
        "N": row.shape.nodes, "peer": row.label, "MiB": row.mib,
        "MB/s": shown(middle(speed), 0),
        "MB/s range": range(ends(speed), 0),
        "MB per CPU s": shown(middle(cost), 0),
        "range": range(ends(cost), 0),
        "complete": format!("{completed}/{expected}{void}"),
        "runs": row.json().get("runs"), "disturbed_runs": row.json().get("disturbed_runs"),
        "mb_s": middle(speed), "mb_per_cpu_s": middle(cost),
    })
}

/// One per number of nodes; nothing is said of what was not measured.
fn bars(rows: &[Row]) -> Vec<Bar> {
    let pairs = rows.chunks_exact(2).filter_map(|pair| {
        let [ours, other] = pair else { return None };
        let cost = |row: &Row| Some(row.over(mb_per_cpu_s)?.median);
        let value = cost(ours)? / cost(other)?;
        let name = format!("N={}: bytes per CPU second, {OURS} over {OTHER}, at least", ours.shape.nodes);
        let holds = value >= RATIO_MIN && ours.is_complete();
        Some(Bar { name: name.into(), value, limit: RATIO_MIN, holds, is_time: true })
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_must_carry_twice_as_much_per_processor_second_and_complete() {
        let programs = Programs { pxe_server: "a".into(), image_tools: "b".into(), agent: "c".into() };
        let row = |name, cpu_s_per_gb, completed| {
            let mut row = Row::new("cpu", &Entry::new(peer(name, &programs), Shape::new(1, None), 1));
            row.samples.push(Sample { cpu_s_per_gb, completed, expected: 1, ..Sample::default() });
            row
        };
        let verdict = |ours, other| {
            let bars = bars(&[ours, other]);
            bars.first().map(|bar| (bar.value, bar.holds))
        };
        assert_eq!(verdict(row(OURS, 1.0, 1), row(OTHER, 2.0, 1)), Some((2.0, true)));
        assert_eq!(verdict(row(OURS, 1.0, 0), row(OTHER, 2.0, 1)), Some((2.0, false)));
        assert_eq!(verdict(row(OURS, 1.5, 1), row(OTHER, 1.5, 1)), Some((1.0, false)));
    }
}
