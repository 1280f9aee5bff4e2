//! Taking turns: A B A B, never all of A and then all of B; disturbed races again, at most twice.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bed::{Bed, Outcome, Shape, Source, race};
use qemu_tests::report::Bar;
use qemu_tests::session;

use super::cases::{Case, Entry};
use super::sample::{Row, Sample};
use super::table;

/// A race that other work disturbed is held again so often.
const AGAIN_MAX: usize = 2;
/// Beside the races: loading, comparing, removing; seconds per race.
const BESIDE_S: f64 = 4.0;
/// A race may take so many times what is expected.
const PATIENCE: f64 = 2.5;
/// And so much more.
const PATIENCE_MORE: Duration = Duration::from_secs(45);

/// All rows so far.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: &'static str,
    pub(crate) json: bool,
    pub(crate) left_out: &'static str,
    pub(crate) rows: Vec<Row>,
    pub(crate) interrupted: bool,
    pub(crate) bars: fn(&[Row]) -> Vec<Bar>,
}

/// Holds the races of a benchmark.
pub(crate) struct Turns {
    report: Arc<Mutex<Report>>,
}

impl Turns {
    pub(crate) fn new(
        name: &'static str,
        json: bool,
        left_out: &'static str,
        bars: fn(&[Row]) -> Vec<Bar>,
    ) -> Self {
        let report = Report { name, json, left_out, rows: Vec::new(), interrupted: false, bars };
        Self { report: Arc::new(Mutex::new(report)) }
    }

    /// Holds all races and prints the result; interrupted, it prints what there is.
    pub(crate) fn take(self, cases: &[Case], runs: usize) -> Result<()> {
        self.hold_all(cases, runs)?;
        self.lock(|report| table::print(report))
    }

    /// Holds all races and gives their rows; interrupted, it prints what there is.
    pub(crate) fn rows(self, cases: &[Case], runs: usize) -> Result<Vec<Row>> {
        self.hold_all(cases, runs)?;
        Ok(self.lock(|report| std::mem::take(&mut report.rows)))
    }

    fn hold_all(&self, cases: &[Case], runs: usize) -> Result<()> {
        let about_s: f64 =
            cases.iter().flat_map(|case| &case.entries).map(|it| it.expected_s() + BESIDE_S).sum();
        #[expect(clippy::cast_precision_loss, reason = "a handful of runs")]
        let about_min = about_s * runs as f64 / 60.0;
        let name = self.lock(|report| report.name);
        eprintln!("{name}: about {about_min:.0} minutes, more if other work disturbs it");
        let report = Arc::clone(&self.report);
        session::before_exit(move || {
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.interrupted = true;
            let _ = table::print(&report);
            bed::sweep_own();
        });
        cases.iter().try_for_each(|case| self.hold(case, runs))
    }

    fn hold(&self, case: &Case, runs: usize) -> Result<()> {
        let first = self.lock(|report| {
            let first = report.rows.len();
            report.rows.extend(case.entries.iter().map(|entry| Row::new(case.name, entry)));
            first
        });
        let mut beds: Vec<(Shape, Bed)> = Vec::new();
        for run in 1..=runs {
            for (index, entry) in case.entries.iter().enumerate() {
                let bed = match beds.iter().position(|(shape, _)| *shape == entry.shape) {
                    Some(found) => found,
                    None => {
                        beds.push((entry.shape.clone(), Bed::new(entry.shape.clone())?));
                        beds.len() - 1
                    }
                };
                let Some((_, bed)) = beds.get(bed) else { continue };
                self.turn(case, entry, bed, first + index, &format!("{run}/{runs}"))?;
            }
        }
        Ok(())
    }

    /// One race, and again while it is disturbed. A peer that fails is a result, not the end of the benchmark.
    fn turn(&self, case: &Case, entry: &Entry, bed: &Bed, row: usize, run: &str) -> Result<()> {
        let source = source(bed.dir(), entry.mib)?;
        for attempt in 0..=AGAIN_MAX {
            let begun = Instant::now();
            let deadline = Duration::from_secs_f64(entry.expected_s() * PATIENCE) + PATIENCE_MORE;
            let (harms, unawaited) = (&entry.disturbances, &entry.unawaited);
            let outcome = race(bed, entry.peer.as_ref(), &source, harms, unawaited, deadline);
            let outcome = outcome.unwrap_or_else(|error| failed(entry.shape.nodes, &error));
            let sample = Sample::new(entry, &outcome);
            let disturbance = sample.disturbance();
            let words = table::line(entry, &sample, disturbance.as_deref());
            let took = begun.elapsed().as_secs_f64();
            eprintln!("{:<11} {run} {:<14} {words} [{took:.0} s in all]", case.name, entry.label);
            for failure in &sample.failures {
                eprintln!("            {failure}");
            }
            self.lock(|report| {
                if let Some(row) = report.rows.get_mut(row) {
                    if disturbance.is_some() { &mut row.disturbed } else { &mut row.samples }.push(sample);
                }
            });
            if disturbance.is_none() || attempt == AGAIN_MAX {
                return Ok(());
            }
        }
        Ok(())
    }

    fn lock<T>(&self, work: impl FnOnce(&mut Report) -> T) -> T {
        work(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A file of random bytes of this size, made once per bed.
fn source(dir: &Path, mib: u64) -> Result<Source> {
    let path = dir.join(format!("image-{mib}"));
    let bytes = mib << 20;
    if path.exists() { Ok(Source { path, bytes }) } else { Source::make(&path, bytes) }
}

fn failed(nodes: usize, error: &anyhow::Error) -> Outcome {
    Outcome { finished_s: vec![None; nodes], failures: vec![format!("{error:#}")], ..Outcome::default() }
}
