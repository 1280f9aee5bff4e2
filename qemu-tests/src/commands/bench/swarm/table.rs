//! Rows for people and for programs.

use anyhow::Result;
use serde_json::Value;

use super::cases::Entry;
use super::sample::{Row, Sample};
use super::turns::Report;
use crate::commands::bench::figures::{Spread, shown};
use crate::commands::bench::print::{print_bars, print_json, print_title};

/// One race as one line.
pub(super) fn line(entry: &Entry, sample: &Sample, disturbance: Option<&str>) -> String {
    let bound = entry.shape.bound_s(entry.mib << 20);
    let ratio = bound.map(|bound| format!(" ratio {:.3}", sample.last_s / bound)).unwrap_or_default();
    let mut text = format!(
        "last {:.2} first {:.2}{ratio} copies {:.2} cpu/GB {:.1} stall {:.2}/{:.2} others {:.0} %",
        sample.last_s,
        sample.first_s,
        sample.copies,
        sample.cpu_s_per_gb,
        sample.some_stall,
        sample.full_stall,
        sample.others * 100.0
    );
    if !sample.is_complete() {
        text.push_str(&format!(", {} of {} complete", sample.completed, sample.expected));
    }
    if let Some(disturbance) = disturbance {
        text.push_str(&format!(", void: {disturbance}"));
    }
    text
}

/// The whole report.
pub(super) fn print(report: &Report) -> Result<()> {
    let bars = (report.bars)(&report.rows);
    let limited_by = limited_by(report);
    if report.json {
        let rows: Vec<Value> = report.rows.iter().filter(|row| row.has_run()).map(Row::json).collect();
        return print_json(report.name, &rows, &limited_by, &bars);
    }
    print_title(report.name);
    println!(
        "  clock: from go, all loaded, until the last node has every byte; every file compared afterwards"
    );
    println!(
        "  {:<11} {:<14} {:>3} {:>4} {:>6} {:>5}  {:<20} {:<19} {:>6} {:>6} {:>6} {:>6} {:>9}  complete",
        "case",
        "peer",
        "N",
        "MiB",
        "Mbit/s",
        "loss",
        "last s (range)",
        "x S/B (range)",
        "apart",
        "copies",
        "HAVE/s",
        "CPU/GB",
        "stall",
    );
    report.rows.iter().filter(|row| row.has_run()).for_each(|row| println!("  {}", cells(row)));
    println!("  limited by: {limited_by}");
    print_bars(&bars);
    Ok(())
}

fn cells(row: &Row) -> String {
    let middle = |figure: fn(&Sample) -> f64| row.over(figure).map(|it| it.median);
    let ranged = |spread: Option<Spread>, decimals: usize| {
        spread.map_or_else(
            || "-".to_owned(),
            |it| format!("{:.decimals$} ({:.decimals$}-{:.decimals$})", it.median, it.min, it.max),
        )
    };
    let rate = row.shape.rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string());
    let apart = row.apart().map_or_else(|| "-".to_owned(), |it| format!("{:.1} %", it.median * 100.0));
    let haves = shown(row.haves_per_node_s().map(|it| it.median), 1);
    let stall = match (middle(|sample| sample.some_stall), middle(|sample| sample.full_stall)) {
        (Some(some), Some(full)) => format!("{some:.2}/{full:.2}"),
        _ => "-".to_owned(),
    };
    let (completed, expected) = row.completed();
    let void = match (row.samples.is_empty(), row.disturbed.len()) {
        (_, 0) => String::new(),
        (true, count) => format!(", no figure: other work disturbed all {count}"),
        (false, count) => format!(", {count} more disturbed"),
    };
    let harmed =
        row.harmed_last_s().map_or_else(String::new, |it| format!(", last of all {:.1} s", it.median));
    let note = if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) };
    let loss = format!("{} %", row.shape.loss_percent);
    format!(
        "{:<11} {:<14} {:>3} {:>4} {rate:>6} {loss:>5}  {:<20} {:<19} {apart:>6} {:>6} {haves:>6} {:>6} {stall:>9}  \
         {completed}/{expected}{harmed}{void}{note}",
        row.case,
        row.label,
        row.shape.nodes,
        row.mib,
        ranged(row.last_s(), 1),
        ranged(row.ratio(), 3),
        shown(middle(|sample| sample.copies), 2),
        shown(middle(|sample| sample.cpu_s_per_gb), 1),
    )
}

fn limited_by(report: &Report) -> String {
    let part = if report.interrupted { "interrupted, so this is a part; " } else { "" };
    format!(
        "{part}the shaped links (S/B), or the processors where stall is high; left out: {}",
        report.left_out
    )
}
