//! Whether this computer is quiet enough for a timed run.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Part of the processors' time that others may take before figures are worthless.
const OTHERS_BUSY_MAX: f64 = 0.3;
/// How long the machine is watched before a timed run.
const WATCHED: Duration = Duration::from_secs(2);

/// A run beside other work would measure that work.
pub(super) fn others_are_quiet() -> Result<()> {
    let before = processor_ticks()?;
    std::thread::sleep(WATCHED);
    let after = processor_ticks()?;
    let (all, idle) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    #[expect(clippy::cast_precision_loss, reason = "ticks of two seconds")]
    let busy = 1.0 - idle as f64 / all.max(1) as f64;
    if busy > OTHERS_BUSY_MAX {
        bail!("this computer is {:.0} % busy with other work; no figure would mean anything", busy * 100.0);
    }
    Ok(())
}

/// All ticks and idle ticks since boot (proc(5), `/proc/stat`).
fn processor_ticks() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        first.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    // Idle, waiting for a disk, and niced: these give way at once.
    let idle = [1, 3, 4].into_iter().filter_map(|at| ticks.get(at)).sum();
    Ok((ticks.iter().sum(), idle))
}
