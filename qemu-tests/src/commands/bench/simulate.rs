//! Runs of the simulator, as many at a time as there are processors.
//!
//! Never measures time by a clock: each run is one thread's work, and its result the same on every machine.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::{LinkRates, Outcome, Scenario, World};

/// A run may take so many times what one link needs; whatever takes longer is broken.
const PATIENCE: f64 = 10.0;
/// And so much more, for images so small that starting takes longer than fetching.
const PATIENCE_MORE_S: f64 = 60.0;

/// Payload of a frame that TCP fills, and its bytes as a shaper counts them.
const FRAME: (u64, u64) = (1448, 1514);

/// A run and what to call it while it runs.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) scenario: Scenario,
}

/// What TCP can carry over a link of so many Mbit/s.
pub(super) fn link(mbit: u64) -> LinkRates {
    let bytes_s = mbit * 125_000 * FRAME.0 / FRAME.1;
    LinkRates { egress_bytes_s: bytes_s, ingress_bytes_s: bytes_s }
}

/// Runs all of them; the outcomes in the order of the jobs. The longest should come first.
pub(super) fn simulate(jobs: &[Job]) -> Result<Vec<Outcome>> {
    let outcomes: Vec<Mutex<Option<Outcome>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < jobs.len()) {
            let (Some(job), Some(place)) = (jobs.get(at), outcomes.get(at)) else { return };
            *place.lock().unwrap_or_else(PoisonError::into_inner) = run(job, at + 1, jobs.len());
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let outcomes =
        outcomes.into_iter().map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner));
    outcomes
        .zip(jobs)
        .map(|(outcome, job)| {
            let outcome = outcome.with_context(|| format!("{}: the image is empty", job.name))?;
            ensure!(outcome.last_s().is_finite(), "{}: not every node became complete", job.name);
            Ok(outcome)
        })
        .collect()
}

fn run(job: &Job, number: usize, of: usize) -> Option<Outcome> {
    let begun = Instant::now();
    let bound_s = job.scenario.bound_s();
    let world = World::new(job.scenario.clone())?;
    let outcome = world.run(Duration::from_secs_f64(bound_s * PATIENCE + PATIENCE_MORE_S));
    eprintln!(
        "{number}/{of} {}: last node {:.3} x S/B [{:.0} s for {} million events]",
        job.name,
        outcome.last_s() / bound_s,
        begun.elapsed().as_secs_f64(),
        outcome.events / 1_000_000
    );
    Some(outcome)
}
