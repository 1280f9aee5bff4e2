//! The links over time: where a race loses its time shows as links that carry nothing.
//!
//! Never costs a process: one file of the bridge's namespace is read on a thread.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::leftovers::namespace_path;
use crate::network::{Bed, port};

/// Half a second at 25 Mbit/s is six pieces.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(500);

/// Bytes by then, since go; without the headers of merged segments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Glance {
    /// Seconds since go.
    pub at_s: f64,
    /// The server sent.
    pub server_sent: u64,
    /// Each node received and sent.
    pub nodes: Vec<(u64, u64)>,
}

/// A thread that looks until it is stopped.
pub(crate) struct Watcher {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Glance>>,
}

impl Watcher {
    pub(crate) fn start(bed: &Bed, go: Instant) -> Result<Self> {
        let path = namespace_path(&bed.bridge());
        let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let ports: Vec<String> = bed.places().map(port).collect();
        let (stop, stopped) = channel();
        let thread = thread::Builder::new().name("timeline".into()).spawn(move || {
            let mut glances = Vec::new();
            if setns(&namespace, CloneFlags::CLONE_NEWNET).is_err() {
                return glances;
            }
            let before = counts();
            while stopped.recv_timeout(LOOKED_AT_EVERY) == Err(RecvTimeoutError::Timeout) {
                glances.push(glance(&ports, &before, go));
            }
            glances
        })?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn stop(self) -> Vec<Glance> {
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

fn glance(ports: &[String], before: &BTreeMap<String, (u64, u64)>, go: Instant) -> Glance {
    let (at_s, now) = (go.elapsed().as_secs_f64(), counts());
    let since = |port: &String| {
        let (now, then) = (now.get(port).copied(), before.get(port).copied());
        let ((received, sent), (received_then, sent_then)) =
            (now.unwrap_or_default(), then.unwrap_or_default());
        (received.saturating_sub(received_then), sent.saturating_sub(sent_then))
    };
    let mut links = ports.iter().map(since);
    let (_, server_sent) = links.next().unwrap_or_default();
    // The manager's is of no interest.
    Glance { at_s, server_sent, nodes: links.skip(1).collect() }
}

/// Per port, what its place received and sent (the port itself sent and received it).
fn counts() -> BTreeMap<String, (u64, u64)> {
    parse_counts(&fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default())
}

fn parse_counts(text: &str) -> BTreeMap<String, (u64, u64)> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Some((name.trim().to_owned(), (*numbers.get(8)?, *numbers.first()?)))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ports_receiving_is_its_places_sending() {
        let text =
            "Inter-|   Receive  |  Transmit\n face |bytes packets\n   p10: 7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n";
        assert_eq!(parse_counts(text).get("p10"), Some(&(9, 7)));
    }
}
