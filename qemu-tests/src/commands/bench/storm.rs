//! `bench storm`: a thousand nodes powered on at once, each from DHCP to its kernel and initrd; with faults, and with
//! nodes that serve others.
//!
//! Never starts a virtual machine: nodes are sockets, each with an address of its own behind one relay.

mod agent;
mod faults;
mod http;
mod node;
mod relay;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bed::{Mbit, Place};
use node_api::paths::BOOT_SHARE_PORT;
use qemu_tests::command::output;
use qemu_tests::programs::Programs;
use qemu_tests::report::Bar;
use qemu_tests::session;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::boot_bed::{BootBed, INITRD_BYTES, KERNEL_BYTES, NODES, RELAY, Running, noise};
use super::choice::Choice;
use super::print::print_columns;
use super::quiet::others_are_quiet;
use faults::Faults;
use http::{Got, Peers};
use node::{Counts, World};
use relay::{Class, Relay};

/// The server's link: what servers of a rack have at least.
const RATE: Mbit = Mbit(1000.0);
/// `snponly.efi` as Debian has it.
const PROGRAM: &str = "snponly.efi";
const PROGRAM_BYTES: usize = 173_792;
/// Whoever has no files by then never will.
const DEADLINE: Duration = Duration::from_secs(900);
/// The server's memory: two files, and what connections and transfers are bounded to.
const SERVER_KIB_MAX: u64 = 256 << 10;
/// Time over bytes / rate, without faults: waiting nodes are spread over some seconds, and the last one waits longest.
const TIME_RATIO_MAX: f64 = 1.25;
/// With faults: nodes that stall or are reset come back later.
const TIME_RATIO_FAULTS_MAX: f64 = 1.5;
/// Bytes from the server per node when nodes serve others, over those of the plain storm.
const EGRESS_RATIO_MAX: f64 = 0.1;
/// From so many nodes on: the copies that the first of a rack need are a large part of a small storm.
const EGRESS_NODES_MIN: u32 = 100;
const COLUMNS: [&str; 9] =
    ["nodes", "faults %", "peers", "served", "s", "bytes/rate s", "server MB/node", "server MiB", "put off"];

/// One storm.
#[derive(Clone, Copy, Debug)]
struct Case {
    nodes: u32,
    faults_percent: u32,
    peers: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
struct Storm {
    case: Case,
    served: u32,
    failures: Vec<String>,
    took_s: f64,
    egress_bytes: u64,
    server_kib: u64,
    put_off: u64,
    redirects: u64,
    again: u64,
}

pub(super) fn storm(choice: &Choice) -> Result<()> {
    let programs = Programs::find_peers()?;
    session::before_exit(bed::sweep_own);
    let mut storms = Vec::new();
    for case in cases(&sizes(choice)?) {
        others_are_quiet()?;
        let storm = run(&programs, case)?;
        eprintln!("{case:?}: {}/{} in {:.1} s", storm.served, case.nodes, storm.took_s);
        storm.failures.iter().take(5).for_each(|failure| eprintln!("  {failure}"));
        storms.push(storm);
    }
    let left_out = if choice.quick { "300 and 1,000 nodes" } else { "nothing that was asked for" };
    let limited_by = format!(
        "the server's link of {RATE} Mbit/s; with peers, nodes that serve share this machine's memory instead of links of \
         their own, so that its time says nothing; left out: {left_out}"
    );
    let lines: Vec<Value> = storms.iter().map(Storm::line).collect();
    print_columns("storm", choice.json, &COLUMNS, &lines, &limited_by, &bars(&storms))
}

fn sizes(choice: &Choice) -> Result<Vec<u32>> {
    if choice.cases.is_empty() {
        return Ok(if choice.quick { vec![100] } else { vec![100, 300, 1000] });
    }
    choice
        .cases
        .iter()
        .map(|nodes| nodes.parse().with_context(|| format!("{nodes} is no number of nodes")))
        .collect()
}

fn cases(sizes: &[u32]) -> Vec<Case> {
    let kinds = [(0, false), (2, false), (0, true), (2, true)];
    let all =
        sizes.iter().flat_map(|nodes| kinds.map(|(faults_percent, peers)| (*nodes, faults_percent, peers)));
    all.map(|(nodes, faults_percent, peers)| Case { nodes, faults_percent, peers }).collect()
}

fn run(programs: &Programs, case: Case) -> Result<Storm> {
    let bed = BootBed::new(Some(RATE))?;
    for name in [PROGRAM, "undionly.kpxe", "ipxe.efi"] {
        bed.boot_file(name, PROGRAM_BYTES)?;
    }
    let server = bed.address(Place::Server);
    let site = format!(
        "[server]\ninterface = \"eth0\"\naddress = \"{server}\"\nadmin = \"127.0.0.1:8080\"\n\
         [boot]\nfrom_peers = {}\n[[dhcp.subnet]]\nnetwork = \"{NODES}\"\npool = \"10.79.1.0-10.79.16.255\"\n",
        case.peers
    );
    let running = bed.start_ours(programs, server, &site)?;
    let before = egress(&bed)?;
    let outcome = bed.in_load(move || all_nodes(server, case))?;
    let egress_bytes = egress(&bed)?.saturating_sub(before);
    let server_kib = memory(running)?;
    Ok(Storm { egress_bytes, server_kib, ..outcome })
}

/// Powers all on and waits for the last; without what only the server knows.
async fn all_nodes(server: Ipv4Addr, case: Case) -> Result<Storm> {
    let relay = Relay::start(server).await?;
    let kernel: Arc<[u8]> = noise("vmlinuz", KERNEL_BYTES).into();
    let initrd: Arc<[u8]> = reference_initrd(server, &relay).await?.into();
    let peers = case.peers.then(Peers::default);
    if let Some(peers) = &peers {
        peers.serve(BOOT_SHARE_PORT, Arc::clone(&kernel), Arc::clone(&initrd)).await?;
    }
    let world = Arc::new(World {
        server,
        relay,
        faults_percent: case.faults_percent,
        peers,
        program: noise(PROGRAM, PROGRAM_BYTES),
        kernel,
        initrd,
        counts: Counts::default(),
    });
    let (began, mut nodes) = (Instant::now(), JoinSet::new());
    for number in 0..case.nodes {
        nodes.spawn_local(tokio::time::timeout(DEADLINE, node::boot(Arc::clone(&world), number)));
    }
    let (mut served, mut failures, mut last) = (0, Vec::new(), began);
    while let Some(ended) = nodes.join_next().await {
        match ended.context("a node panicked")?.context("not done in time").and_then(|ended| ended) {
            Ok(done) => (served, last) = (served + 1, last.max(done)),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Storm {
        case,
        served,
        failures,
        took_s: last.duration_since(began).as_secs_f64(),
        egress_bytes: 0,
        server_kib: 0,
        put_off: count(&world.counts.put_off),
        redirects: count(&world.counts.redirects),
        again: count(&world.counts.again),
    })
}

/// The initrd as the server has it: the site's archive, and then the bundle's initrd. Fetched by one more node, before
/// the storm and as a loader that knows no peers.
async fn reference_initrd(server: Ipv4Addr, relay: &Relay) -> Result<Vec<u8>> {
    let (mut faults, to) = (Faults::new(0, 0), SocketAddrV4::new(server, 80));
    let mac = dhcp_wire::MacAddr([0x52, 0x54, 0, 0x57, 0xff, 0xff]);
    relay.lease(mac, u32::MAX, Class::Ipxe, &mut faults).await.context("the first lease")?;
    let path = format!("/boot.ipxe?mac={}&platform=efi", mac.hyphenated());
    let script = http::get_text(RELAY, to, &path, &mut faults).await?;
    let url = script.split(' ').find(|word| word.starts_with("http://") && word.contains("/initrd.img"));
    let url = url.with_context(|| format!("no initrd in {script:?}"))?.trim_start_matches("http://");
    let path = format!("/{}", url.split_once('/').context("no path")?.1);
    let mut initrd = Vec::new();
    let mut keep = |bytes: &[u8]| {
        initrd.extend_from_slice(bytes);
        true
    };
    match http::get(RELAY, to, (&path, "reference"), &mut faults, &mut keep).await? {
        Got::Done => {}
        other => bail!("the reference initrd: {other:?}"),
    }
    ensure!(initrd.ends_with(&noise("initrd.img", INITRD_BYTES)), "the initrd is not the bundle's");
    Ok(initrd)
}

/// Bytes that left the server's link (proc(5), `/proc/net/dev`).
fn egress(bed: &BootBed) -> Result<u64> {
    let text = output(bed.command(Place::Server, "cat").arg("/proc/self/net/dev"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
    line.split_whitespace().nth(8).and_then(|bytes| bytes.parse().ok()).context("no count of bytes")
}

/// Its peak; the server must not have ended before.
fn memory(mut running: Running) -> Result<u64> {
    ensure!(running.is_alive(), "{} has ended", running.name());
    running.peak_kib().context("no memory figure")
}

#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
impl Storm {
    /// What all nodes need in bytes, over what the link carries.
    fn bound_s(&self) -> f64 {
        RATE.seconds_for(u64::from(self.case.nodes) * (PROGRAM_BYTES + KERNEL_BYTES + INITRD_BYTES) as u64)
    }

    fn egress_per_node(&self) -> f64 {
        self.egress_bytes as f64 / f64::from(self.case.nodes)
    }

    fn line(&self) -> Value {
        json!({
            "nodes": self.case.nodes, "faults %": self.case.faults_percent, "peers": self.case.peers,
            "served": format!("{}/{}", self.served, self.case.nodes), "s": format!("{:.1}", self.took_s),
            "bytes/rate s": format!("{:.1}", self.bound_s()),
            "server MB/node": format!("{:.2}", self.egress_per_node() / 1e6),
            "server MiB": self.server_kib >> 10, "put off": self.put_off,
            "redirects": self.redirects, "steps made again": self.again, "failures": self.failures,
        })
    }

    fn name(&self, what: &str) -> String {
        let Case { nodes, faults_percent, peers } = self.case;
        format!("{nodes} nodes, {faults_percent} % faults{}: {what}", if peers { ", peers" } else { "" })
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
fn bars(storms: &[Storm]) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut bar = |name: String, value: f64, limit: f64, holds: bool, is_time: bool| {
        bars.push(Bar { name: name.into(), value, limit, holds, is_time });
    };
    for storm in storms {
        let (served, nodes) = (f64::from(storm.served), f64::from(storm.case.nodes));
        bar(
            storm.name("nodes with all files, at least"),
            served,
            nodes,
            storm.served == storm.case.nodes,
            false,
        );
        let (memory, memory_max) = (storm.server_kib as f64 / 1024.0, (SERVER_KIB_MAX >> 10) as f64);
        bar(storm.name("server memory, MiB"), memory, memory_max, storm.server_kib <= SERVER_KIB_MAX, false);
        if storm.case.peers {
            let plain = storms.iter().find(|other| {
                let (ours, other) = (storm.case, other.case);
                !other.peers && (other.nodes, other.faults_percent) == (ours.nodes, ours.faults_percent)
            });
            if let Some(plain) = plain
                && storm.case.nodes >= EGRESS_NODES_MIN
            {
                let ratio = storm.egress_per_node() / plain.egress_per_node().max(1.0);
                let what = "bytes from the server over the plain storm's";
                bar(storm.name(what), ratio, EGRESS_RATIO_MAX, ratio <= EGRESS_RATIO_MAX, false);
            }
        } else {
            let ratio = storm.took_s / storm.bound_s();
            let limit = if storm.case.faults_percent == 0 { TIME_RATIO_MAX } else { TIME_RATIO_FAULTS_MAX };
            bar(storm.name("time over bytes / rate"), ratio, limit, ratio <= limit, true);
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storm(peers: bool, egress_bytes: u64) -> Storm {
        Storm {
            case: Case { nodes: 100, faults_percent: 0, peers },
            served: 100,
            failures: Vec::new(),
            took_s: 12.0,
            egress_bytes,
            server_kib: 100 << 10,
            put_off: 0,
            redirects: 0,
            again: 0,
        }
    }

    #[test]
    fn every_plain_storm_has_its_counterpart_with_peers() {
        let cases = cases(&[100, 1000]);
        let with = cases.iter().filter(|case| case.peers).count();
        assert_eq!((with, cases.len()), (4, 8));
    }

    #[test]
    fn egress_is_compared_with_the_plain_storm_of_the_same_size() {
        let bars = bars(&[storm(false, 1_000_000_000), storm(true, 90_000_000)]);
        let egress: Vec<_> = bars.iter().filter(|bar| bar.name.contains("bytes from the server")).collect();
        assert_eq!(egress.len(), 1);
        assert!(egress[0].holds && (egress[0].value - 0.09).abs() < 1e-9, "{}", egress[0].value);
        assert!(bars.iter().all(|bar| bar.holds), "{bars:?}");
    }
}
