//! `bench apply`: from an image file on this computer to a synced file system on a loop device, ours and others'.
//!
//! Every run gets a file system made anew, and the image's bytes are in memory before its clock starts. Never
//! measures reading back, which only ours does and which comes after.

mod limits;
mod ways;

use anyhow::{Context as _, Result};
use qemu_tests::image::{self, TestImage};
use qemu_tests::programs::Programs;
use qemu_tests::report::Bar;
use qemu_tests::session;
use serde_json::{Value, json};

use super::choice::Choice;
use super::device::{self, LoopDevice};
use super::figures::{median, range};
use super::print::print_columns;
use super::quiet::others_are_quiet;
use limits::Limits;
use ways::{Measured, Sources, Way};

const RUNS: usize = 5;
/// The tar pipe's time over ours.
const OVER_TAR_MIN: f64 = 1.3;
/// The slower limit's time over ours.
const OF_LIMIT_MIN: f64 = 0.9;
const MEMORY_MIB_MAX: u64 = 256;
const COLUMNS: [&str; 7] = ["way", "seconds", "range", "MB/s", "over ours", "peak MiB", "runs"];

pub(super) fn apply(choice: &Choice) -> Result<()> {
    let programs = Programs::find_peers()?;
    session::before_exit(device::sweep_own);
    let image = image::debian_12(&programs)?;
    let runs = choice.turns(RUNS);
    let ways: &[Way] = if choice.quick { &[Way::Ours, Way::Tar] } else { &Way::ALL };
    let device = LoopDevice::make()?;
    let sources = Sources::make(&image, &device, ways)?;
    let limits = Limits::load(&image)?;
    let mut table = Table::default();
    for run in 1..=runs {
        others_are_quiet()?;
        let mut turns: Vec<Turn> = ways.iter().copied().map(Turn::Way).collect();
        turns.extend([Turn::Decompress, Turn::Write]);
        // Forth and back, so that none always comes behind the same other.
        if run % 2 == 0 {
            turns.reverse();
        }
        for turn in turns {
            let measured = take(turn, &programs, &image, &sources, &limits, &device)?;
            eprintln!("{run}/{runs} {:<20} {:.2} s", turn.name(), measured.seconds);
            table.add(turn, measured);
        }
    }
    let rows: Vec<Value> = table.rows(limits.content_bytes());
    let left_out = if choice.quick { "unsquashfs, partclone, repetitions" } else { "nothing" };
    let limited_by = format!("{}; left out: {left_out}", table.limited_by().context("nothing was measured")?);
    print_columns("apply", choice.json, &COLUMNS, &rows, &limited_by, &table.bars())
}

/// What one turn measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Way(Way),
    Decompress,
    Write,
}

impl Turn {
    const fn name(self) -> &'static str {
        match self {
            Self::Way(way) => way.name(),
            Self::Decompress => "limit: decompress",
            Self::Write => "limit: write",
        }
    }
}

fn take(
    turn: Turn,
    programs: &Programs,
    image: &TestImage,
    sources: &Sources,
    limits: &Limits,
    device: &LoopDevice,
) -> Result<Measured> {
    match turn {
        Turn::Way(way) => ways::run(way, programs, image, sources, device),
        Turn::Decompress => limits.decompress(),
        Turn::Write => {
            let mounted = device.make_file_system()?;
            limits.write(mounted.path())
        }
    }
    .with_context(|| turn.name())
}

/// All runs of all turns, in the order of their first.
#[derive(Default)]
struct Table(Vec<(Turn, Vec<Measured>)>);

impl Table {
    fn add(&mut self, turn: Turn, measured: Measured) {
        match self.0.iter_mut().find(|(known, _)| *known == turn) {
            Some((_, all)) => all.push(measured),
            None => self.0.push((turn, vec![measured])),
        }
    }

    fn median(&self, turn: Turn) -> Option<f64> {
        let (_, all) = self.0.iter().find(|(known, _)| *known == turn)?;
        median(all.iter().map(|measured| measured.seconds))
    }

    fn ours(&self) -> Option<f64> {
        self.median(Turn::Way(Way::Ours))
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
    fn rows(&self, content_bytes: u64) -> Vec<Value> {
        let row = |(turn, all): &(Turn, Vec<Measured>)| {
            let median = self.median(*turn)?;
            let seconds = || all.iter().map(|measured| measured.seconds);
            let peak = all.iter().filter_map(|measured| measured.peak_mib).max();
            Some(json!({
                "way": turn.name(), "seconds": format!("{median:.2}"), "range": range(seconds(), 2),
                "MB/s": format!("{:.0}", content_bytes as f64 / 1e6 / median),
                "over ours": format!("{:.2}", median / self.ours()?),
                "peak MiB": peak, "runs": all.len(), "seconds_of_runs": seconds().collect::<Vec<f64>>(),
            }))
        };
        self.0.iter().filter_map(row).collect()
    }

    fn limit(&self) -> Option<f64> {
        Some(self.median(Turn::Decompress)?.max(self.median(Turn::Write)?))
    }

    fn limited_by(&self) -> Option<String> {
        let (decompress, write) = (self.median(Turn::Decompress)?, self.median(Turn::Write)?);
        let which = if decompress > write {
            "decompression on all processors"
        } else {
            "the file system and its disk"
        };
        Some(format!(
            "{which}: decompressing alone {decompress:.2} s, the same files from memory {write:.2} s"
        ))
    }

    #[expect(clippy::cast_precision_loss, reason = "MiB")]
    fn bars(&self) -> Vec<Bar> {
        let at_least = |name: &'static str, value: f64, limit: f64, is_time: bool| Bar {
            name: name.into(),
            value,
            limit,
            holds: value >= limit,
            is_time,
        };
        let mut bars = Vec::new();
        let Some(ours) = self.ours() else { return bars };
        if let Some(tar) = self.median(Turn::Way(Way::Tar)) {
            bars.push(at_least("time of zstd | tar over ours, at least", tar / ours, OVER_TAR_MIN, true));
        }
        if let Some(limit) = self.limit() {
            bars.push(at_least(
                "time of the slower limit over ours, at least",
                limit / ours,
                OF_LIMIT_MIN,
                true,
            ));
        }
        let of_ours =
            self.0.iter().filter(|(turn, _)| *turn == Turn::Way(Way::Ours)).flat_map(|(_, all)| all);
        if let Some(peak) = of_ours.filter_map(|measured| measured.peak_mib).max() {
            let (value, limit) = (peak as f64, MEMORY_MIB_MAX as f64);
            let name = "peak memory of ours, MiB, at most".into();
            bars.push(Bar { name, value, limit, holds: peak <= MEMORY_MIB_MAX, is_time: false });
        }
        bars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: f64, peak_mib: Option<u64>) -> Measured {
        Measured { seconds, peak_mib }
    }

    #[test]
    fn bars_compare_medians_with_tar_and_with_the_slower_limit() {
        let mut table = Table::default();
        for seconds in [9.0, 1.0, 1.1] {
            table.add(Turn::Way(Way::Ours), measured(seconds, Some(100)));
        }
        table.add(Turn::Way(Way::Tar), measured(1.65, Some(400)));
        table.add(Turn::Decompress, measured(0.2, None));
        table.add(Turn::Write, measured(0.88, None));
        let bars: Vec<(f64, bool)> = table.bars().iter().map(|bar| (bar.value, bar.holds)).collect();
        let [(over_tar, true), (of_limit, false), (peak, true)] = bars.as_slice() else { panic!("{bars:?}") };
        assert!(
            (over_tar - 1.5).abs() < 1e-9 && (of_limit - 0.8).abs() < 1e-9 && (*peak - 100.0).abs() < 1e-9
        );
    }
}
