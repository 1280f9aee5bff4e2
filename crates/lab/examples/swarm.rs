//! Prints the outcome of some scenarios: `cargo run --release -p lab --example swarm [NODES [MIB [SEEDS]]]`.

use std::time::Duration;

use lab::{Scenario, World};

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    for seed in 0..number(2, 1) {
        let nodes = usize::try_from(number(0, 8)).unwrap_or(8);
        let scenario = Scenario { seed, ..Scenario::new(nodes, number(1, 64) << 20) };
        let (bound, began) = (scenario.bound_s(), std::time::Instant::now());
        let Some(world) = World::new(scenario) else { continue };
        let outcome = world.run(Duration::from_secs_f64(bound * 30.0 + 60.0));
        println!(
            "N {nodes} last/bound {:.3} seed copies {:.3} redundant {:.4} have {} D50 {:.3} D100 {:.3} events {} in {:.1?} trace {:x}",
            outcome.last_s() / bound,
            outcome.seed_copies,
            outcome.redundant_copies,
            outcome.have_messages,
            outcome.diffusion_s.0,
            outcome.diffusion_s.1,
            outcome.events,
            began.elapsed(),
            outcome.trace
        );
    }
}
