//! What a deployment of the two machines took, for people (Markdown) and for programs (JSON).
//!
//! Never holds a figure that nobody measured: what is unknown is absent.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::process::Command;

use node_api::{Stage, TrafficCounts};
use serde::Serialize;

use crate::admin::node::NodeView;
use crate::demo::Resident;

/// Least share of the slower node's bytes that comes from the other node.
pub const SHARE_MIN: f64 = 0.3;
/// Fetches whose times differ by less than this part took equally long: progress is looked at twice a second.
const EQUALLY_SLOW: f64 = 0.95;
/// Both nodes begin to fetch within so many seconds; otherwise there is little to share.
pub const FETCH_APART_MAX_S: f64 = 30.0;

/// One run with two machines.
#[derive(Clone, Debug, Serialize)]
pub struct DeployReport {
    /// Name of the benchmark.
    pub name: &'static str,
    /// What was built.
    pub commit: String,
    /// Where it ran.
    pub machine: String,
    /// Bytes of the image file.
    pub image_bytes: u64,
    /// From both powers on to both systems settled and reached over ssh, seconds.
    pub total_s: f64,
    /// From both powers on again to both systems settled again, seconds.
    pub power_cycle_s: f64,
    /// One per node.
    pub rows: Vec<NodeReport>,
    /// What the time went into.
    pub limited_by: String,
    /// What must hold.
    pub bars: Vec<Bar>,
}

/// How one node fared.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Who it is now.
    #[serde(flatten)]
    pub resident: Resident,
    /// Seconds per stage by the node's clock, in order.
    pub stages: Vec<(Stage, f64)>,
    /// Image bytes by source.
    pub traffic: TrafficCounts,
    /// Share of its image bytes that came from the other node.
    pub share_from_nodes: f64,
    /// When it began to fetch, milliseconds since 1970 by the server's clock.
    pub fetch_began_unix_ms: Option<u64>,
}

/// A limit and how the run stands to it.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// What is limited.
    pub name: Cow<'static, str>,
    /// Measured.
    pub value: f64,
    /// The limit.
    pub limit: f64,
    /// Whether it is kept.
    pub holds: bool,
    /// Measured by a clock: no test fails on it.
    #[serde(skip)]
    pub is_time: bool,
}

impl NodeReport {
    /// From what the server knows and what the installed system says.
    #[must_use]
    pub fn new(resident: Resident, view: &NodeView) -> Self {
        let took = |span: &crate::admin::node::StageSpan| Some((span.stage, seconds(span.took_ms?)));
        let fetch = view.stages.iter().find(|span| span.stage == Stage::Fetch);
        Self {
            resident,
            stages: view.stages.iter().filter_map(took).collect(),
            traffic: view.traffic,
            share_from_nodes: view.share_from_nodes(),
            fetch_began_unix_ms: fetch.map(|span| span.began_unix_ms),
        }
    }

    fn seconds_in(&self, stage: Stage) -> Option<f64> {
        let times = self.stages.iter().filter(|(at, _)| *at == stage).map(|(_, seconds)| seconds);
        times.copied().reduce(|sum, one| sum + one)
    }
}

impl DeployReport {
    /// Puts a run's figures together.
    #[must_use]
    pub fn new(image_bytes: u64, total_s: f64, power_cycle_s: f64, rows: Vec<NodeReport>) -> Self {
        let mut bars = Vec::new();
        if let Some(value) = share_of_the_slower(&rows) {
            let name = "share of the slower node's bytes from the other node";
            bars.push(Bar {
                name: name.into(),
                value,
                limit: SHARE_MIN,
                holds: value >= SHARE_MIN,
                is_time: false,
            });
        }
        let begins: Vec<u64> = rows.iter().filter_map(|row| row.fetch_began_unix_ms).collect();
        if let (Some(first), Some(last)) = (begins.iter().min(), begins.iter().max()) {
            let value = seconds(last - first);
            let name = "seconds between the two beginnings of fetch";
            bars.push(Bar {
                name: name.into(),
                value,
                limit: FETCH_APART_MAX_S,
                holds: value <= FETCH_APART_MAX_S,
                is_time: true,
            });
        }
        let limited_by = limited_by(&rows);
        let (commit, machine) = (commit(), machine());
        Self { name: "deploy", commit, machine, image_bytes, total_s, power_cycle_s, rows, limited_by, bars }
    }

    /// A table per subject.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "Two bare machines became two running servers in {:.0} s;", self.total_s);
        let _ = writeln!(text, "switched off and on, both ran again after {:.0} s.", self.power_cycle_s);
        let _ = writeln!(
            text,
            "Image {:.1} MB; commit {}; {}.\n",
            megabytes(self.image_bytes),
            self.commit,
            self.machine
        );
        self.write_residents(&mut text);
        self.write_stages(&mut text);
        self.write_traffic(&mut text);
        for bar in &self.bars {
            let verdict = if bar.holds { "holds" } else { "DOES NOT HOLD" };
            let _ = writeln!(text, "- {}: {:.2} (limit {}): {verdict}", bar.name, bar.value, bar.limit);
        }
        let _ = writeln!(text, "- limited by: {}", self.limited_by);
        text
    }

    fn write_residents(&self, text: &mut String) {
        text.push_str("| machine | firmware | hostname | machine-id | root disk | kernel | host keys |\n");
        text.push_str("|---|---|---|---|---|---|---|\n");
        for NodeReport { resident: r, .. } in &self.rows {
            let keys = r.host_keys.len();
            let (host, id) = (&r.hostname, &r.machine_id);
            let _ = writeln!(
                text,
                "| {} | {} | {host} | {id} | {} | {} | {keys}, its own |",
                r.machine, r.firmware, r.root_disk, r.kernel
            );
        }
        text.push('\n');
    }

    fn write_stages(&self, text: &mut String) {
        text.push_str("| stage |");
        self.rows.iter().for_each(|row| text.push_str(&format!(" {}, s |", row.resident.machine)));
        text.push_str("\n|---|");
        self.rows.iter().for_each(|_| text.push_str("---:|"));
        text.push('\n');
        for stage in Stage::ALL {
            let times: Vec<Option<f64>> = self.rows.iter().map(|row| row.seconds_in(stage)).collect();
            if times.iter().any(Option::is_some) {
                let _ = write!(text, "| {stage} |");
                for time in times {
                    let _ = match time {
                        Some(seconds) => write!(text, " {seconds:.1} |"),
                        None => write!(text, " |"),
                    };
                }
                text.push('\n');
            }
        }
        text.push('\n');
    }

    fn write_traffic(&self, text: &mut String) {
        let all =
            |bytes: fn(&TrafficCounts) -> u64| self.rows.iter().map(|row| bytes(&row.traffic)).sum::<u64>();
        let from_server = megabytes(all(|traffic| traffic.from_server_bytes)) / megabytes(self.image_bytes);
        let _ = writeln!(text, "The server sent each byte of the image {from_server:.2} times.\n");
        text.push_str("| node | from server, MB | from the other node, MB | share | sent, MB |\n");
        text.push_str("|---|---:|---:|---:|---:|\n");
        for row in &self.rows {
            let server = megabytes(row.traffic.from_server_bytes);
            let nodes = megabytes(row.traffic.from_nodes_bytes);
            let sent = megabytes(row.traffic.sent_bytes);
            let (name, share) = (&row.resident.machine, row.share_from_nodes * 100.0);
            let _ = writeln!(text, "| {name} | {server:.1} | {nodes:.1} | {share:.0} % | {sent:.1} |");
        }
        text.push('\n');
    }
}

/// What part of its bytes the node whose fetch took longest got from the other. Nodes that end together are equally
/// slow, whichever the clock names; then the one counts that was helped more.
fn share_of_the_slower(rows: &[NodeReport]) -> Option<f64> {
    let fetch = |node: &NodeReport| node.seconds_in(Stage::Fetch).unwrap_or_default();
    let slowest = rows.iter().map(fetch).reduce(f64::max)?;
    let slow = rows.iter().filter(|node| fetch(node) >= slowest * EQUALLY_SLOW);
    slow.map(|node| node.share_from_nodes).reduce(f64::max)
}

/// The stage that took longest on any node.
fn limited_by(rows: &[NodeReport]) -> String {
    let all = rows.iter().flat_map(|row| row.stages.iter().map(move |time| (row, time)));
    // Waiting for a person and for other nodes is no work.
    let work = all.filter(|(_, (stage, _))| !matches!(stage, Stage::Await | Stage::Linger));
    match work.max_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b)) {
        Some((row, (stage, seconds))) => {
            format!(
                "emulated processors; the longest stage is {stage} on {}, {seconds:.1} s",
                row.resident.machine
            )
        }
        None => "unknown: no stage was reported".to_owned(),
    }
}

/// Short hash of what is checked out, with a mark when files differ from it.
#[must_use]
pub fn commit() -> String {
    let git = |words: &[&str]| {
        let output =
            Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    if changed { format!("{hash}+changes") } else { hash }
}

/// Processors and memory of this computer.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?.to_owned();
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{processors} x {model}, {} GiB, QEMU without KVM", kib >> 20)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

/// For people: without the last digits of large numbers.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(
        machine: &str,
        fetch_s: f64,
        from_server_bytes: u64,
        from_nodes_bytes: u64,
        began: u64,
    ) -> NodeReport {
        let text = || machine.to_owned();
        let resident = Resident {
            machine: text(),
            hostname: text(),
            machine_id: text(),
            host_keys: vec![text()],
            root_disk: text(),
            firmware: text(),
            kernel: text(),
        };
        let traffic = TrafficCounts { from_server_bytes, from_nodes_bytes, sent_bytes: 0 };
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let share_from_nodes = from_nodes_bytes as f64 / (from_nodes_bytes + from_server_bytes) as f64;
        let stages = vec![(Stage::Prepare, 2.0), (Stage::Fetch, fetch_s), (Stage::Linger, 500.0)];
        NodeReport { resident, stages, traffic, share_from_nodes, fetch_began_unix_ms: Some(began) }
    }

    #[test]
    fn the_slower_node_decides_whether_neighbours_gave_enough() {
        let rows = vec![node("a", 30.0, 10, 90, 1_000), node("b", 40.0, 80, 20, 9_000)];
        let report = DeployReport::new(100, 90.0, 30.0, rows);
        let holds: Vec<bool> = report.bars.iter().map(|bar| bar.holds).collect();
        assert_eq!(holds, [false, true]);
        assert!(report.limited_by.contains("fetch on b, 40.0 s"), "{}", report.limited_by);
        let text = report.markdown();
        assert!(text.contains("| fetch | 30.0 | 40.0 |"), "{text}");
        assert!(text.contains("DOES NOT HOLD"), "{text}");
    }

    #[test]
    fn of_two_nodes_that_end_together_the_one_counts_that_was_helped_more() {
        let rows = vec![node("a", 42.6, 50, 150, 0), node("b", 42.8, 150, 50, 0)];
        let share = share_of_the_slower(&rows);
        assert_eq!(share, Some(0.75));
    }
}
