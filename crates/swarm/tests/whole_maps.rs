//! A peer that says again and again, in a few bytes, what it has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate

use swarm::wire::{Handshake, Message};
use swarm::{
    Action, CloseReason, Geometry, HavePolicy, InfoHash, Limits, Moment, PeerKey, PieceSet, Side, Swarm,
    SwarmConfig,
};

const PIECES: u32 = 1500;

fn engine_with_a_peer() -> (Swarm, PeerKey) {
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
        has_web_seed: false,
        limits: Limits::default(),
    };
    let mut engine = Swarm::new(Moment::ZERO, config).unwrap();
    let address = "10.0.0.1:5".parse().unwrap();
    let peer = engine.handle_connected(Moment::ZERO, address, Side::Inbound).unwrap();
    let theirs = Handshake { info_hash: InfoHash([1; 20]), peer_id: [3; 20], fast: true, extended: true };
    engine.handle_handshake(Moment::ZERO, peer, theirs);
    (engine, peer)
}

fn closed(engine: &mut Swarm) -> Option<CloseReason> {
    let mut reason = None;
    while let Some(action) = engine.poll_action() {
        if let Action::Close { reason: why, .. } = action {
            reason = Some(why);
        }
    }
    reason
}

#[test]
fn what_is_said_again_changes_nothing_and_what_is_taken_back_whole_ends_the_connection() {
    let (mut engine, peer) = engine_with_a_peer();
    engine.handle_message(Moment::ZERO, peer, Message::HaveNone);
    for _ in 0..10_000 {
        engine.handle_message(Moment::ZERO, peer, Message::HaveAll);
        assert_eq!(closed(&mut engine), None);
    }
    assert_eq!(engine.check_invariants(), Ok(()));
    engine.handle_message(Moment::ZERO, peer, Message::HaveNone);
    assert_eq!(closed(&mut engine), Some(CloseReason::Malformed));
}
