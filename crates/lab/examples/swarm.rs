//! Runs one scenario for several seeds and prints what came of it.
//!
//! `cargo run --release -p lab --example swarm -- [nodes=32] [mib=149] [piece-kib=64] [mbit=25] [coarser=1]
//! [seeds=1] [have=adaptive|bep3|suppress|fixed] [degree=8] [seed-degree=24] [known=0] [all=0] [rack=0]
//! [measured=0] [checked=0] [latency-us=100]`; `rack=32` makes racks of 32 nodes whose uplink carries a quarter of their links.

use std::collections::BTreeMap;
use std::time::Duration;

use lab::{LinkRates, Meeting, Scenario, World};
use swarm::HavePolicy;
use swarm::tracker::{DEGREE, SEED_DEGREE};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: BTreeMap<&str, &str> = arguments.iter().filter_map(|word| word.split_once('=')).collect();
    let number =
        |name: &str, default: u64| words.get(name).and_then(|word| word.parse().ok()).unwrap_or(default);
    let small = |name: &str, default: u64| usize::try_from(number(name, default)).unwrap_or(usize::MAX);
    let rate = number("mbit", 25) * 125_000 * 1448 / 1514;
    let nodes = small("nodes", 32);
    for seed in 1..=number("seeds", 1) {
        let scenario = Scenario {
            seed,
            piece_bytes: u32::try_from(number("piece-kib", 64) << 10).unwrap_or(u32::MAX),
            rates: LinkRates { egress_bytes_s: rate, ingress_bytes_s: rate },
            racks: (small("rack", 0) > 0).then(|| (small("rack", 0), rate * number("rack", 0) / 4)),
            meeting: if number("all", 0) > 0 {
                Meeting::All
            } else {
                Meeting::Tracker {
                    degree: small("degree", DEGREE as u64),
                    seed_degree: small("seed-degree", SEED_DEGREE as u64),
                    seed_is_known: number("known", 0) > 0,
                }
            },
            have_policy: match words.get("have").copied() {
                Some("bep3") => HavePolicy::Bep3,
                Some("suppress") => HavePolicy::Suppress,
                Some("fixed") => HavePolicy::Fixed(Duration::from_millis(20)),
                _ => HavePolicy::Adaptive,
            },
            latency: Duration::from_micros(number("latency-us", 100)),
            measured: number("measured", 0) > 0,
            checked_every: number("checked", 0),
            ..Scenario::new(nodes, number("mib", 149) << 20)
        };
        let scenario = scenario.coarser(u32::try_from(number("coarser", 1)).unwrap_or(1));
        let (bound, began) = (scenario.bound_s(), std::time::Instant::now());
        let Some(world) = World::new(scenario) else { continue };
        let outcome = world.run(Duration::from_secs_f64(bound * 30.0 + 60.0));
        println!(
            "N {nodes} bound {bound:.1} s last {:.4} median {:.4} seed copies {:.3} redundant {:.4} have {} ({:.2}/s/node) events {} in {:.1?} trace {:x} {:?} {:?}",
            outcome.last_s() / bound,
            outcome.median_s() / bound,
            outcome.seed_copies,
            outcome.redundant_copies,
            outcome.have_messages,
            outcome.have_messages as f64 / outcome.last_s() / nodes as f64,
            outcome.events,
            began.elapsed(),
            outcome.trace,
            outcome.measures,
            outcome.broken,
        );
        let sum = |kind: fn(&lab::Uplinks) -> u32| outcome.uplinks.iter().map(kind).sum::<u32>();
        if number("uplinks", 0) > 0 {
            for (second, uplinks) in outcome.uplinks.iter().enumerate() {
                println!("{second:4} s {uplinks:?}");
            }
        }
        if !outcome.uplinks.is_empty() {
            println!(
                "uplink samples: busy {} useless {} untold {} unasked {} full {}",
                sum(|uplinks| uplinks.busy),
                sum(|uplinks| uplinks.useless),
                sum(|uplinks| uplinks.untold),
                sum(|uplinks| uplinks.unasked),
                sum(|uplinks| uplinks.full)
            );
        }
    }
}
