//! What a run cost: bytes on each link, processor time, waiting, and what the machine took away.
//!
//! Never asks the programs themselves: all is counted by the kernel.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::group::Pressure;
use crate::leftovers::run;
use crate::network::{Bed, Place, port};

/// Bytes and drops of one link, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCount {
    /// From the place into the bridge. The server's are exact, with all headers; a node's lack the headers of
    /// merged segments (about 4 %).
    pub sent_bytes: u64,
    /// From the bridge to the place, with all headers where links have a rate.
    pub received_bytes: u64,
    /// Dropped at the switch port, because its queue was full.
    pub dropped: u64,
}

/// All counts at one moment; the difference of two is a run's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The server's link.
    pub server: LinkCount,
    /// The nodes' links.
    pub nodes: Vec<LinkCount>,
    /// Processor time of the bed's programs, microseconds; without interrupts.
    pub cpu_us: u64,
    /// How long they waited for a processor.
    pub pressure: Pressure,
    /// Processor time in interrupts of the whole machine (networking), clock ticks.
    pub softirq_ticks: u64,
    /// Processor time that the machine below us took, clock ticks.
    pub steal_ticks: u64,
    /// Processor time that nobody used, clock ticks.
    pub idle_ticks: u64,
    /// All processor time, clock ticks.
    pub all_ticks: u64,
}

impl Usage {
    /// Reads all counters.
    ///
    /// # Errors
    /// iproute2's output cannot be read.
    pub fn now(bed: &Bed) -> Result<Self> {
        let ticks = processor_ticks()?;
        let server = json_of("tc", &["-s", "-j", "-n", &bed.namespace_name(Place::Server), "qdisc", "show"])?;
        let ports = json_of("tc", &["-s", "-j", "-n", &bed.bridge(), "qdisc", "show"])?;
        let links = json_of("ip", &["-s", "-j", "-n", &bed.bridge(), "link", "show"])?;
        let count = |place| {
            let port = port(place);
            let link = named(&links, "ifname", &port);
            let (mut sent, mut received) =
                (number(link, "/stats64/rx/bytes"), number(link, "/stats64/tx/bytes"));
            let mut dropped = 0;
            if bed.shape().rate.is_some() {
                let queue = named(&ports, "dev", &port);
                received = number(queue, "/bytes");
                dropped = number(queue, "/drops");
                if place == Place::Server {
                    sent = number(named(&server, "dev", "eth0"), "/bytes");
                }
            }
            LinkCount { sent_bytes: sent, received_bytes: received, dropped }
        };
        Ok(Self {
            server: count(Place::Server),
            nodes: (0..bed.shape().nodes).map(|node| count(Place::Node(node))).collect(),
            cpu_us: bed.group.cpu_us(),
            pressure: bed.group.pressure(),
            ..ticks
        })
    }

    /// What was added since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let link = |now: &LinkCount, then: &LinkCount| LinkCount {
            sent_bytes: now.sent_bytes.saturating_sub(then.sent_bytes),
            received_bytes: now.received_bytes.saturating_sub(then.received_bytes),
            dropped: now.dropped.saturating_sub(then.dropped),
        };
        Self {
            server: link(&self.server, &before.server),
            nodes: self.nodes.iter().zip(&before.nodes).map(|(now, then)| link(now, then)).collect(),
            cpu_us: self.cpu_us.saturating_sub(before.cpu_us),
            pressure: Pressure {
                some_us: self.pressure.some_us.saturating_sub(before.pressure.some_us),
                full_us: self.pressure.full_us.saturating_sub(before.pressure.full_us),
            },
            softirq_ticks: self.softirq_ticks.saturating_sub(before.softirq_ticks),
            steal_ticks: self.steal_ticks.saturating_sub(before.steal_ticks),
            idle_ticks: self.idle_ticks.saturating_sub(before.idle_ticks),
            all_ticks: self.all_ticks.saturating_sub(before.all_ticks),
        }
    }
}

fn json_of(program: &str, arguments: &[&str]) -> Result<Value> {
    let text = run(program, arguments, "")?;
    serde_json::from_str(&text).with_context(|| format!("reading the output of {program} {arguments:?}"))
}

/// The element of a list whose `key` is `name`.
fn named<'a>(list: &'a Value, key: &str, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|item| item.get(key).and_then(Value::as_str) == Some(name))
}

fn number(item: Option<&Value>, pointer: &str) -> u64 {
    item.and_then(|item| item.pointer(pointer)).and_then(Value::as_u64).unwrap_or_default()
}

/// The ticks alone (proc(5), `/proc/stat`).
fn processor_ticks() -> Result<Usage> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        first.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or_default();
    Ok(Usage {
        // Waiting for a disk is idle as well, and whoever is niced gives way at once.
        idle_ticks: at(1) + at(3) + at(4),
        softirq_ticks: at(6),
        steal_ticks: at(7),
        all_ticks: ticks.iter().sum(),
        ..Usage::default()
    })
}
