use super::*;
use crate::network::LinkRates;
use crate::scenario::Character;
use swarm::HavePolicy;

fn run(scenario: Scenario) -> Outcome {
    let limit = Duration::from_secs_f64(scenario.bound_s() * 20.0 + 60.0);
    World::new(scenario).unwrap().run(limit)
}

/// 16 nodes, 16 MiB at 25 Mbit/s: a bound of 5.6 s; every invariant checked after each 211 events.
fn crowd() -> Scenario {
    let rate = 3_125_000 * 1448 / 1514;
    Scenario {
        piece_bytes: 128 << 10,
        rates: LinkRates { egress_bytes_s: rate, ingress_bytes_s: rate },
        checked_every: 211,
        ..Scenario::new(16, 16 << 20)
    }
}

/// Runs it to its end, in which everyone has everything and nothing that must hold did not.
fn check(scenario: Scenario) -> Outcome {
    let bound = scenario.bound_s();
    let outcome = run(scenario);
    assert_eq!(outcome.broken, None);
    let last = outcome.last_s() / bound;
    println!("last {last:.3} x bound, {} corrupt, seed {:.2}", outcome.corrupt_pieces, outcome.seed_copies);
    assert!(last.is_finite(), "{:?}", outcome.complete_s);
    outcome
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn with(node: usize, character: Character) -> Scenario {
    Scenario { characters: BTreeMap::from([(node, character)]), ..crowd() }
}

#[test]
fn one_node_takes_the_time_of_its_link() {
    let scenario = Scenario::new(1, 32 << 20);
    let bound = scenario.bound_s();
    let ratio = check(scenario).last_s() / bound;
    assert!((0.99..1.05).contains(&ratio), "{ratio}");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let first = run(crowd());
    assert_eq!(first.trace, run(crowd()).trace);
    assert_eq!(first.trace, run(Scenario { measured: true, ..crowd() }).trace, "measuring changes something");
    assert_ne!(first.trace, run(Scenario { seed: 2, ..crowd() }).trace);
}

#[test]
fn invariants_hold_under_every_have_policy_and_in_a_full_mesh() {
    for have_policy in
        [HavePolicy::Bep3, HavePolicy::Suppress, HavePolicy::Fixed(at(0.02)), HavePolicy::Adaptive]
    {
        check(Scenario { have_policy, ..crowd() });
        check(Scenario { have_policy, meeting: Meeting::All, ..crowd() });
    }
}

#[test]
fn a_third_is_killed_and_rejoins() {
    for (keeps, gone) in
        [(true, Incident::Kill as fn(_) -> _), (false, Incident::Kill), (true, Incident::CutPower)]
    {
        let killed = [2, 5, 8, 11, 14].map(NodeId);
        let kills = killed.map(|node| (at(2.0), gone(node)));
        let restarts = killed.map(|node| (at(2.5), Incident::Restart { node, keeps }));
        check(Scenario { incidents: kills.into_iter().chain(restarts).collect(), ..crowd() });
    }
}

#[test]
fn the_dead_are_missed_by_nobody() {
    let incidents = [3, 7, 9].map(|node| (at(1.5), Incident::CutPower(NodeId(node)))).to_vec();
    let outcome = run(Scenario { incidents, ..crowd() });
    assert_eq!(outcome.broken, None);
    assert_eq!(outcome.complete_s.iter().flatten().count(), 13);
}

#[test]
fn once_the_nodes_have_every_piece_the_seed_is_not_needed() {
    let spread = run(Scenario { measured: true, ..crowd() }).measures.unwrap().spread_s;
    let incidents = vec![(at(spread + 0.001), Incident::Kill(NodeId(0)))];
    let outcome = check(Scenario { incidents, ..crowd() });
    assert!(outcome.last_s() > spread, "the seed died too late");
}

#[test]
fn the_seed_restarts_midway() {
    let incidents = vec![
        (at(2.0), Incident::Kill(NodeId(0))),
        (at(4.0), Incident::Restart { node: NodeId(0), keeps: true }),
    ];
    check(Scenario { incidents, ..crowd() });
}

#[test]
fn a_tracker_that_restarts_weaves_a_new_graph_with_those_who_join_meanwhile() {
    let late = (10..=16).map(|node| (node, Character { joins_at: at(3.0), ..Character::default() }));
    let incidents = vec![(at(2.0), Incident::StopTracker), (at(4.0), Incident::StartTracker)];
    let outcome = check(Scenario { incidents, characters: late.collect(), ..crowd() });
    assert!(outcome.complete_s.iter().skip(9).flatten().all(|seconds| *seconds > 4.0));
}

#[test]
fn late_joiners_are_served_by_the_others() {
    let late = (13..=16).map(|node| (node, Character { joins_at: at(7.0), ..Character::default() }));
    let outcome = check(Scenario { characters: late.collect(), ..crowd() });
    assert!(outcome.seed_copies < 3.0, "the seed sent {}", outcome.seed_copies);
}

#[test]
fn a_node_at_a_tenth_of_the_speed_does_not_hold_up_the_others() {
    let slow = LinkRates { egress_bytes_s: 300_000, ingress_bytes_s: 300_000 };
    let outcome = check(with(4, Character { rates: Some(slow), ..Character::default() }));
    let others = outcome.complete_s.iter().enumerate().filter(|(place, _)| *place != 3);
    let others = others.filter_map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    let even = check(crowd()).last_s();
    println!("others {others:.2} s, even {even:.2} s");
    assert!(others < even * 1.25, "{others} s against {even} s");
}

#[test]
fn slow_disks_and_slow_hashes_take_their_time_and_no_more() {
    let disk = check(Scenario { disk_bytes_s: 1_500_000, ..crowd() });
    let least = (16 << 20) as f64 / 1_500_000.0;
    assert!((least..least * 1.3).contains(&disk.last_s()), "{} s against {least} s", disk.last_s());
    check(with(3, Character { hash_bytes_s: Some(1_500_000), ..Character::default() }));
}

#[test]
fn what_a_corrupting_node_sends_reaches_no_disk() {
    let outcome = check(with(6, Character { corrupts_every: 10, ..Character::default() }));
    assert!(outcome.corrupt_pieces > 0);
}

#[test]
fn a_stalled_node_is_waited_for_by_nobody() {
    let incidents = vec![(at(1.0), Incident::Stall(NodeId(5))), (at(40.0), Incident::Resume(NodeId(5)))];
    let outcome = check(Scenario { incidents, ..crowd() });
    let others = outcome.complete_s.iter().enumerate().filter(|(place, _)| *place != 4);
    let others = others.filter_map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    println!("others {others:.2} s");
    assert!(others < 30.0, "{others} s");
}

#[test]
fn oversubscribed_racks_carry_each_piece_in_few_times() {
    let rate = crowd().rates.egress_bytes_s;
    let outcome = check(Scenario { nodes: 32, racks: Some((8, rate * 2)), ..crowd() });
    assert!(outcome.last_s() < crowd().bound_s() * 2.0, "{} s", outcome.last_s());
}

#[test]
fn every_node_that_knows_the_seed_from_the_start_may_use_it() {
    let meeting = Meeting::Tracker { degree: 10, seed_degree: 8, seed_is_known: true };
    check(Scenario { meeting, ..crowd() });
}
