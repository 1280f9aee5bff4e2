use super::*;

fn run(scenario: Scenario) -> Outcome {
    let limit = Duration::from_secs_f64(scenario.bound_s() * 20.0 + 60.0);
    World::new(scenario).unwrap().run(limit)
}

#[test]
fn one_node_takes_the_time_of_its_link() {
    let scenario = Scenario::new(1, 32 << 20);
    let bound = scenario.bound_s();
    let ratio = run(scenario).last_s() / bound;
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let scenario = Scenario { piece_bytes: 256 << 10, ..Scenario::new(6, 8 << 20) };
    let first = run(scenario.clone());
    assert_eq!(first.trace, run(scenario.clone()).trace);
    assert_ne!(first.trace, run(Scenario { seed: 2, ..scenario }).trace);
    assert!(first.complete_s.iter().all(Option::is_some));
}
