//! A node that nobody reaches: the web seed must serve it as plain HTTP would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate

use std::time::Duration;
use swarm::{
    Action, CheckOutcome, Geometry, HavePolicy, InfoHash, Limits, Moment, PieceIndex, PieceSet, Swarm,
    SwarmConfig,
};

const PIECES: u32 = 40;

fn engine() -> Swarm {
    let geometry = Geometry::new(u64::from(PIECES) << 18, 1 << 18).unwrap();
    let config = SwarmConfig {
        info_hash: InfoHash([1; 20]),
        geometry,
        peer_id: [9; 20],
        seed: [4; 32],
        have: PieceSet::empty(PIECES),
        secret: None,
        open: true,
        super_seed: false,
        first_pieces: 0..0,
        container_pieces: 1,
        have_policy: HavePolicy::Adaptive,
        listen_port: Some(1),
        first_peers: Vec::new(),
        has_tracker: false,
        has_web_seed: true,
        limits: Limits::default(),
    };
    Swarm::new(Moment::ZERO, config).unwrap()
}

/// What the engine wants to fetch now; checks are answered at once.
fn wanted(engine: &mut Swarm, now: Moment) -> Vec<PieceIndex> {
    let mut pieces = Vec::new();
    while let Some(action) = engine.poll_action() {
        match action {
            Action::FetchWeb { piece } => pieces.push(piece),
            Action::Check { piece } => engine.handle_checked(now, piece, CheckOutcome::Stored),
            _ => {}
        }
    }
    pieces
}

#[test]
fn it_turns_to_http_within_a_second_and_leaves_no_gap_between_pieces() {
    let mut engine = engine();
    let mut now = Moment::ZERO;
    let mut under_way = Vec::new();
    while under_way.is_empty() {
        now = engine.poll_timeout().unwrap().max(now);
        assert!(now.since(Moment::ZERO) < Duration::from_secs(1), "too patient");
        engine.handle_timeout(now);
        under_way = wanted(&mut engine, now);
    }
    let at_once = under_way.len();
    assert!(at_once > 1, "one piece at a time leaves the link idle between two");
    for left in (0..PIECES).rev() {
        now = now.plus(Duration::from_millis(3));
        let piece = under_way.remove(0);
        engine.handle_fetched(now, piece, true);
        under_way.extend(wanted(&mut engine, now));
        assert_eq!(under_way.len(), at_once.min(left as usize), "{left} pieces left");
    }
    assert!(engine.is_complete());
}

#[test]
fn a_web_seed_that_fails_is_not_asked_in_a_loop() {
    let mut engine = engine();
    let (mut now, mut asked) = (Moment::ZERO, 0);
    while now.since(Moment::ZERO) < Duration::from_secs(60) {
        now = engine.poll_timeout().unwrap().max(now);
        engine.handle_timeout(now);
        let mut pieces = wanted(&mut engine, now);
        while let Some(piece) = pieces.pop() {
            asked += 1;
            engine.handle_fetched(now, piece, false);
            pieces.extend(wanted(&mut engine, now));
        }
    }
    assert!((5..60).contains(&asked), "asked {asked} times in a minute");
}
