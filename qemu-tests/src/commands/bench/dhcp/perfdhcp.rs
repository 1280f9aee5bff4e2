//! Kea's load client: what it is told and what it says.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bed::Place;

use crate::commands::bench::boot_bed::BootBed;

/// After the last question answers are waited for so long; later ones are lost to a node too.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// What makes a hung load client end.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// How often, for how long and by how many nodes a server is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) rate: u32,
    pub(super) lasts: Duration,
    pub(super) nodes: u32,
}

/// What became of one half of the handshakes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Exchange {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) drops: u64,
    /// From a question to its answer, on average.
    pub(super) delay_ms: f64,
}

/// What became of the handshakes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Whole handshakes per second.
    pub(super) rate: f64,
    pub(super) offer: Exchange,
    pub(super) ack: Exchange,
}

impl Outcome {
    /// Questions without an answer.
    pub(super) fn drops(&self) -> u64 {
        self.offer.drops + self.ack.drops
    }

    /// Whether everything that was asked was answered.
    pub(super) fn is_complete(&self) -> bool {
        self.ack.received > 0 && self.drops() == 0
    }
}

/// Plays a relay with the address `relay`, in the load's place.
pub(super) fn perfdhcp(bed: &BootBed, relay: &str, load: Load) -> Result<Outcome> {
    let server = bed.address(Place::Server).to_string();
    let Load { rate, lasts, nodes } = load;
    let limit = (lasts + LAST_ANSWERS + HANGS_AFTER).as_secs();
    let mut command = bed.command(Place::Node(0), "timeout");
    command.arg(limit.to_string()).args(["perfdhcp", "-4", "-l", relay]);
    command.args(["-r", &rate.to_string(), "-R", &nodes.to_string()]);
    command.args(["-p", &lasts.as_secs().to_string(), "-W", &LAST_ANSWERS.as_micros().to_string()]);
    let output = command.arg(&server).output().context("running perfdhcp; scripts/setup installs it")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // It also exits with an error when handshakes were lost, which is a result.
    let Some((offer, ack)) = read(&said) else {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("perfdhcp said no result: {} {}", said.trim(), complaint.trim());
    };
    // QUIRK(perfdhcp): its own rate counts the wait for the last answers as time of the load.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let rate = ack.received as f64 / lasts.as_secs_f64();
    Ok(Outcome { rate, offer, ack })
}

/// Reads the report: a block of figures for each half of the handshake.
fn read(report: &str) -> Option<(Exchange, Exchange)> {
    let (mut offer, mut ack) = (None, None);
    for block in report.split("***Statistics for: ").skip(1) {
        let figure = |name: &str| {
            let value = block.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
            value.and_then(first_number)
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of packets")]
        let count = |name: &str| figure(name).map(|number| number as u64);
        let exchange = Exchange {
            sent: count("sent packets")?,
            received: count("received packets")?,
            drops: count("drops")?,
            // Absent where nothing came.
            delay_ms: figure("avg delay").unwrap_or_default(),
        };
        match block.split("***").next()? {
            "DISCOVER-OFFER" => offer = Some(exchange),
            "REQUEST-ACK" => ack = Some(exchange),
            _ => {}
        }
    }
    Some((offer?, ack?))
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = include_str!("perfdhcp-report.txt");

    #[test]
    fn report_of_kea_2_2_is_read() {
        let (offer, ack) = read(REPORT).unwrap();
        assert_eq!((offer.sent, offer.received, offer.drops), (39, 39, 0));
        assert_eq!((ack.sent, ack.received, ack.drops), (39, 39, 0));
        assert!((offer.delay_ms - 2.799).abs() < 1e-9 && (ack.delay_ms - 13.270).abs() < 1e-9);
        assert!(Outcome { rate: 20.0, offer, ack }.is_complete());
    }

    #[test]
    fn what_is_no_report_is_no_outcome() {
        assert_eq!(read(""), None);
        assert_eq!(read(&REPORT.replace("drops: 0", "drops")), None);
        assert_eq!(read(REPORT.split("***Statistics for: REQUEST").next().unwrap()), None);
    }
}
