//! `bench dhcp`: the same handshakes with our DHCP server, dnsmasq and Kea, in turns, each with leases on a disk.
//!
//! Never lets two of them run at once: all want port 67. Never counts the handshakes before one has succeeded.

mod perfdhcp;
mod servers;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bed::Place;
use qemu_tests::programs::Programs;
use qemu_tests::report::Bar;
use qemu_tests::session;
use serde_json::{Value, json};

use super::boot_bed::{BootBed, Running};
use super::choice::Choice;
use super::figures::{median, range, shown};
use super::print::print_columns;
use super::quiet::others_are_quiet;
use perfdhcp::{Load, Outcome, perfdhcp};
use servers::{Disk, Server};

/// The relay that `perfdhcp` plays; its network has a pool of 64,000 addresses.
const RELAY: &str = "10.79.0.1";
/// Handshakes per second that every server must bear: a thousand nodes powered on at once.
const STORM: u32 = 1000;
/// How long the storm lasts.
const STORM_FOR: Duration = Duration::from_secs(10);
/// How long each rate is held while the highest is looked for.
const TRIED_FOR: Duration = Duration::from_secs(5);
/// The search doubles the rate until handshakes are lost, then halves what is between so often.
const HALVINGS: u32 = 3;
/// More than this machine can send.
const RATE_MAX: u32 = 64_000;
/// A rate counts only if the load itself reached so much of it.
const REACHED_MIN: f64 = 0.97;
const RUNS: usize = 3;
/// One handshake is tried so often, a second each, until the server is there.
const STARTS_TRIES: usize = 20;
const COLUMNS: [&str; 7] =
    ["server", "DORA/s at 1000/s", "drops", "OFFER ms", "ACK ms", "DORA/s without loss", "range"];

/// What one server did in each run.
struct Row {
    server: Server,
    storms: Vec<Outcome>,
    highest: Vec<f64>,
}

pub(super) fn dhcp(choice: &Choice) -> Result<()> {
    let programs = Programs::find_peers()?;
    session::before_exit(bed::sweep_own);
    others_are_quiet()?;
    let bed = BootBed::new(None)?;
    bed.ip(Place::Node(0), &["address", "add", &format!("{RELAY}/32"), "dev", "eth0"])?;
    bed.boot_file("undionly.kpxe", 1 << 16)?;
    let disk = Disk::new(bed.dir())?;
    let runs = choice.turns(RUNS);
    let mut rows = Server::ALL.map(|server| Row { server, storms: Vec::new(), highest: Vec::new() });
    for run in 1..=runs {
        // A B C A B C, never all of A and then all of B.
        for row in &mut rows {
            others_are_quiet()?;
            let name = row.server.name();
            let mut running = row.server.start(&bed, &programs, &disk)?;
            wait_for(&bed, &mut running)?;
            let storm = shake(&bed, &mut running, STORM, STORM_FOR)?;
            eprintln!(
                "{run}/{runs} {name:<8} {:.0} DORA/s, {} drops at {STORM}/s",
                storm.rate,
                storm.drops()
            );
            row.storms.push(storm);
            if !choice.quick {
                let highest = highest(&bed, &mut running)?;
                eprintln!("{run}/{runs} {name:<8} {highest:.0} DORA/s without loss");
                row.highest.push(highest);
            }
        }
    }
    let left_out = if choice.quick { "the highest rate without loss, repetitions" } else { "nothing" };
    let limited_by = format!(
        "processors, shared by perfdhcp and the server, and the disk's syncs ({}); medians of {runs}; each server \
         alone, new state in each run; ours and dnsmasq sync their leases before they answer, Kea's memfile is \
         written without a sync; left out: {left_out}",
        disk.what()
    );
    let lines: Vec<Value> = rows.iter().map(Row::line).collect();
    print_columns("dhcp", choice.json, &COLUMNS, &lines, &limited_by, &bars(&rows))
}

/// Waits until one handshake succeeds.
fn wait_for(bed: &BootBed, running: &mut Running) -> Result<()> {
    for _ in 0..STARTS_TRIES {
        let one = Load { rate: 1, lasts: Duration::from_secs(1), nodes: 1 };
        if perfdhcp(bed, RELAY, one).is_ok_and(|outcome| outcome.is_complete()) {
            return Ok(());
        }
        if !running.is_alive() {
            break;
        }
    }
    bail!("{} does not answer: {}", running.name(), bed.said(running.name()));
}

fn shake(bed: &BootBed, running: &mut Running, rate: u32, lasts: Duration) -> Result<Outcome> {
    // As many nodes as handshakes, so that most get an address for the first time.
    let seconds = u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX);
    let nodes = rate.saturating_mul(seconds).min(servers::POOL_ADDRESSES);
    let outcome = perfdhcp(bed, RELAY, Load { rate, lasts, nodes })
        .with_context(|| format!("asking {} {rate} times a second", running.name()))?;
    if !running.is_alive() {
        bail!("{} has ended: {}", running.name(), bed.said(running.name()));
    }
    Ok(outcome)
}

/// The highest rate at which no handshake is lost, as it was measured.
fn highest(bed: &BootBed, running: &mut Running) -> Result<f64> {
    let mut bears = |rate: u32| -> Result<Option<f64>> {
        let outcome = shake(bed, running, rate, TRIED_FOR)?;
        let reached = outcome.rate >= f64::from(rate) * REACHED_MIN;
        Ok((outcome.drops() == 0 && reached).then_some(outcome.rate))
    };
    let (mut low, mut high, mut best) = (0, RATE_MAX, 0.0);
    let mut rate = STORM;
    while rate <= RATE_MAX {
        match bears(rate)? {
            Some(measured) => (low, best) = (rate, measured),
            None => {
                high = rate;
                break;
            }
        }
        rate = rate.saturating_mul(2);
    }
    for _ in 0..HALVINGS {
        let middle = low.midpoint(high);
        match bears(middle)? {
            Some(measured) => (low, best) = (middle, measured),
            None => high = middle,
        }
    }
    Ok(best)
}

impl Row {
    fn drops(&self) -> u64 {
        self.storms.iter().map(Outcome::drops).sum()
    }

    fn highest(&self) -> Option<f64> {
        median(self.highest.iter().copied())
    }

    fn line(&self) -> Value {
        let over = |of: fn(&Outcome) -> f64| median(self.storms.iter().map(of)).unwrap_or_default();
        json!({
            "server": self.server.name(),
            "DORA/s at 1000/s": format!("{:.0}", over(|outcome| outcome.rate)),
            "drops": self.drops(),
            "OFFER ms": format!("{:.2}", over(|outcome| outcome.offer.delay_ms)),
            "ACK ms": format!("{:.2}", over(|outcome| outcome.ack.delay_ms)),
            "DORA/s without loss": shown(self.highest(), 0),
            "range": range(self.highest.iter().copied(), 0),
            "drops_per_run": self.storms.iter().map(Outcome::drops).collect::<Vec<_>>(),
            "highest_per_run": self.highest,
        })
    }
}

/// No drop of ours in the storm; ahead of both others at the highest rate. Nothing is said of what was not measured.
fn bars(rows: &[Row]) -> Vec<Bar> {
    let [ours, others @ ..] = rows else { return Vec::new() };
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let drops = ours.drops() as f64;
    let name = format!("drops of ours at {STORM}/s");
    let mut bars =
        vec![Bar { name: name.into(), value: drops, limit: 0.0, holds: drops == 0.0, is_time: true }];
    for other in others {
        if let (Some(ours), Some(theirs)) = (ours.highest(), other.highest()) {
            let value = ours / theirs.max(f64::MIN_POSITIVE);
            let name = format!("DORA/s without loss, ours over {}, more than", other.server.name());
            bars.push(Bar { name: name.into(), value, limit: 1.0, holds: value > 1.0, is_time: true });
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;
    use perfdhcp::Exchange;

    fn rows(highest: [f64; 3], drops: u64) -> Vec<Row> {
        let exchange = |drops| Exchange { sent: 100, received: 100 - drops, drops, delay_ms: 1.0 };
        let row = |(server, highest): (Server, f64)| {
            let drops = if server == Server::Ours { drops } else { 0 };
            let storm = Outcome { rate: 1000.0, offer: exchange(drops), ack: exchange(0) };
            Row { server, storms: vec![storm], highest: vec![highest] }
        };
        Server::ALL.into_iter().zip(highest).map(row).collect()
    }

    #[test]
    fn ours_must_lose_nothing_and_be_ahead_of_each() {
        let holds = |rows: &[Row]| bars(rows).iter().map(|bar| bar.holds).collect::<Vec<_>>();
        assert_eq!(holds(&rows([8000.0, 4000.0, 7000.0], 0)), [true, true, true]);
        assert_eq!(holds(&rows([8000.0, 4000.0, 8000.0], 1)), [false, true, false]);
    }

    #[test]
    fn what_was_not_measured_is_in_no_bar_and_shown_as_a_dash() {
        let mut rows = rows([8000.0, 4000.0, 7000.0], 0);
        rows.iter_mut().for_each(|row| row.highest.clear());
        assert_eq!(bars(&rows).len(), 1);
        assert_eq!(rows[0].line()["DORA/s without loss"], "-");
    }
}
