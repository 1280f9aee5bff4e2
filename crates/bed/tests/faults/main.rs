//! What goes wrong on a cluster, done to the real programs on shaped links; every file is compared at the end.
//!
//! Skipped, and said so, without root or when `ESIR_SKIP_VM` is set.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate

mod swarm;

use std::thread::sleep;
use std::time::Duration;

use bed::peers::Http;
use bed::{Place, race};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use swarm::{PEER_PORT, Swarm, why_skipped};

/// A swarm of so many nodes at 50 Mbit/s; none where it can't be run.
fn swarm(nodes: usize, mib: u64) -> Option<Swarm> {
    match why_skipped() {
        Some(why) => {
            println!("skipped: {why}");
            None
        }
        None => Some(Swarm::new(nodes, 50.0, mib)),
    }
}

/// Whether a story of more than half a minute is left out.
fn slow_is_skipped() -> bool {
    let skipped = std::env::var_os("ESIR_SKIP_SLOW").is_some();
    if skipped {
        println!("skipped: ESIR_SKIP_SLOW is set");
    }
    skipped
}

#[test]
fn a_third_of_the_nodes_is_killed_and_comes_back_and_goes_on_where_it_was() {
    let Some(mut swarm) = swarm(9, 64) else { return };
    swarm.start_server();
    swarm.start_all_nodes();
    let (victims, bytes) = ([1, 4, 7], swarm.source.bytes);
    let reached = |swarm: &mut Swarm| victims.iter().all(|&node| swarm.node(node).done_bytes() > bytes / 3);
    swarm.wait("a third of the file is at the victims", reached);
    let stored = victims.map(|node| swarm.node(node).done_bytes());
    assert!(stored.iter().all(|&stored| stored < bytes), "too quick to be killed midway: {stored:?}");
    victims.iter().for_each(|&node| swarm.node(node).kill());
    sleep(Duration::from_secs(1));
    victims.iter().for_each(|&node| swarm.start_node(node, &[]));
    swarm.complete_and_right(0..9);
    for (node, stored) in victims.into_iter().zip(stored) {
        let stats = swarm.node(node).complete().unwrap()["stats"].clone();
        let fetched = stats["downloaded"].as_u64().unwrap() + stats["web_seed_bytes"].as_u64().unwrap();
        println!("node {node}: {stored} of {bytes} bytes before, {fetched} fetched after");
        assert!(fetched <= bytes - stored, "node {node} fetched again what it had");
    }
}

#[test]
fn the_server_is_killed_once_the_nodes_together_hold_everything() {
    let Some(mut swarm) = swarm(8, 64) else { return };
    swarm.start_server();
    (0..5).for_each(|node| swarm.start_node(node, &[]));
    let bytes = swarm.source.bytes;
    swarm.wait("half is here", |swarm| swarm.node(0).done_bytes() > bytes / 2);
    // All who begin together end together; these three still need most of it from the others.
    (5..8).for_each(|node| swarm.start_node(node, &[]));
    swarm.wait("the nodes hold everything", |swarm| swarm.nodes_hold_everything());
    swarm.server().kill();
    let missing = (0..8).filter(|&node| swarm.node(node).complete().is_none()).count();
    println!("{missing} of 8 nodes were not complete when the server was killed");
    assert!(missing > 0, "too late to be a test");
    swarm.complete_and_right(0..8);
}

#[test]
fn the_server_with_its_tracker_is_restarted_midway() {
    let Some(mut swarm) = swarm(8, 64) else { return };
    swarm.start_server();
    (0..7).for_each(|node| swarm.start_node(node, &[]));
    let bytes = swarm.source.bytes;
    swarm.wait("a quarter is here", |swarm| (0..7).all(|node| swarm.node(node).done_bytes() > bytes / 4));
    assert!((0..7).all(|node| swarm.node(node).complete().is_none()), "too quick to be interrupted");
    swarm.server().kill();
    sleep(Duration::from_secs(2));
    swarm.start_server();
    // Whoever comes now gets to know the others by the new tracker.
    swarm.start_node(7, &[]);
    swarm.complete_and_right(0..8);
    let sent = swarm.server().events("stats").last().unwrap()["stats"]["uploaded"].as_u64().unwrap();
    println!("the new server sent {:.2} copies", sent as f64 / bytes as f64);
    let members = |swarm: &mut Swarm| {
        let stats = swarm.server().events("stats").pop().unwrap();
        stats["members"]["complete"].as_u64() >= Some(9)
    };
    swarm.wait("the new tracker knows all nine", members);
}

#[test]
fn a_node_that_corrupts_every_tenth_block_is_banned_and_named() {
    let Some(mut swarm) = swarm(9, 64) else { return };
    swarm.start_server();
    // It has the whole file, so everybody asks it from the first moment on.
    std::fs::copy(&swarm.source.path, swarm.file(0)).unwrap();
    swarm.start_node(0, &["--corrupt-every", "10"]);
    swarm.wait("the liar is ready", |swarm| swarm.node(0).complete().is_some());
    (1..9).for_each(|node| swarm.start_node(node, &[]));
    swarm.complete_and_right(1..9);
    let liar = swarm.bed.address(Place::Node(0)).to_string();
    let mut alarms = 0;
    for node in 1..9 {
        for banned in swarm.node(node).events("banned") {
            let named = banned["peer"].as_str().unwrap().to_owned();
            assert!(named.starts_with(&format!("{liar}:")), "node {node} banned {named}, not {liar}");
            alarms += 1;
        }
        let stats = &swarm.node(node).complete().unwrap()["stats"];
        println!(
            "node {node}: {} corrupt pieces, {} redundant bytes",
            stats["corrupt_pieces"], stats["redundant_bytes"]
        );
    }
    assert!(alarms > 0, "nobody raised the alarm");
    println!("{alarms} of 8 nodes banned the liar");
}

/// A firewall in front of one node lets nothing through but HTTP.
#[test]
fn a_node_that_reaches_no_peer_gets_the_file_over_http() {
    let Some(mut swarm) = swarm(1, 64) else { return };
    let plain = race(&swarm.bed, &Http, &swarm.source, &[], &[], Duration::from_secs(100)).unwrap();
    let http = plain.finished_s[0].unwrap();
    let rules = format!(
        "table inet wall {{ chain out {{ type filter hook output priority 0; tcp dport {PEER_PORT} drop; \
         tcp sport {PEER_PORT} drop; }}; }}\n"
    );
    let file = swarm.bed.dir().join("rules");
    std::fs::write(&file, rules).unwrap();
    let argv = ["nft".into(), "-f".into(), file.into_os_string()];
    assert!(swarm.bed.command(Place::Node(0), &argv).status().unwrap().success());
    swarm.start_server();
    swarm.start_node(0, &[]);
    swarm.complete_and_right([0]);
    let complete = swarm.node(0).complete().unwrap();
    let seconds = complete["seconds"].as_f64().unwrap();
    println!("{seconds:.2} s; plain HTTP {http:.2} s");
    assert_eq!(complete["stats"]["web_seed_bytes"].as_u64(), Some(swarm.source.bytes));
    // To find out that nobody answers costs half a second; the rest is for busy processors.
    assert!(seconds < http * 1.2, "{seconds} s against {http} s");
}

/// Stopped programs keep their connections open and say nothing: the others go on without them.
#[test]
fn two_nodes_freeze_and_thaw() {
    if slow_is_skipped() {
        return;
    }
    let Some(mut swarm) = swarm(8, 64) else { return };
    swarm.start_server();
    swarm.start_all_nodes();
    let (frozen, bytes) = ([2, 5], swarm.source.bytes);
    swarm.wait("a quarter is here", |swarm| {
        frozen.iter().all(|&node| swarm.node(node).done_bytes() > bytes / 4)
    });
    let signal = |swarm: &mut Swarm, signal| {
        frozen.iter().for_each(|&node| kill(Pid::from_raw(swarm.node(node).id()), signal).unwrap());
    };
    signal(&mut swarm, Signal::SIGSTOP);
    swarm.complete_and_right((0..8).filter(|node| !frozen.contains(node)));
    assert!(frozen.iter().all(|&node| swarm.node(node).complete().is_none()), "frozen too late");
    signal(&mut swarm, Signal::SIGCONT);
    swarm.complete_and_right(frozen);
}
