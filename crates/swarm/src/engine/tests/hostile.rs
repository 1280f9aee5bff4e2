//! A peer that says anything: no sequence of messages breaks an invariant or makes the engine grow.

use super::*;
use crate::geometry::Geometry;
use crate::metainfo::InfoHash;
use crate::wire::{Handshake, RawBlock};
use proptest::prelude::*;

const PIECES: u32 = 6;
const PIECE_BYTES: u32 = 40_000;

#[derive(Clone, Debug)]
enum Move {
    Says(Message),
    SendsBlock(RawBlock),
    AnswersRequest(usize),
    RejectsRequest(usize),
    Waits(u64),
    Leaves,
    Checked(u32, u8),
    Sent(u64),
}

fn raw_block() -> impl Strategy<Value = RawBlock> {
    let begins = prop::sample::select(vec![0, 16_384, 32_768, 7, 40_000, u32::MAX]);
    let lens = prop::sample::select(vec![16_384, 7_232, 0, 1, 16_385, u32::MAX]);
    (0..PIECES + 2, begins, lens).prop_map(|(piece, begin, len)| RawBlock { piece, begin, len })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        Just(Message::NotInterested),
        Just(Message::HaveAll),
        Just(Message::HaveNone),
        Just(Message::KeepAlive),
        (0..PIECES + 1).prop_map(Message::Have),
        prop::collection::vec(prop::sample::select(vec![0, 0x54, 0xfc, 0xff]), 1..=2)
            .prop_map(Message::Bitfield),
        raw_block().prop_map(Message::Request),
        raw_block().prop_map(Message::Cancel),
        raw_block().prop_map(Message::Reject),
        (0_u8..4, prop::collection::vec(0_u8..8, 0..5))
            .prop_map(|(id, payload)| Message::Extended { id, payload }),
        Just(Message::Extended { id: 0, payload: b"d1:md7:es_havei1eee".to_vec() }),
        Just(Message::Extended { id: 0, payload: b"d4:reqqi1e11:upload_onlyi1ee".to_vec() }),
    ]
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => message().prop_map(Move::Says),
        1 => raw_block().prop_map(Move::SendsBlock),
        8 => (0_usize..9).prop_map(Move::AnswersRequest),
        2 => (0_usize..9).prop_map(Move::RejectsRequest),
        2 => (0_u64..3000).prop_map(Move::Waits),
        1 => Just(Move::Leaves),
        2 => (0..PIECES, 0_u8..3).prop_map(|(piece, outcome)| Move::Checked(piece, outcome)),
        1 => (0_u64..99_999).prop_map(Move::Sent),
    ]
}

fn engine(complete: bool) -> Swarm {
    let geometry = Geometry::new(u64::from(PIECES * PIECE_BYTES) - 9_999, PIECE_BYTES).unwrap();
    let have = if complete { PieceSet::full(PIECES) } else { PieceSet::empty(PIECES) };
    let config = SwarmConfig {
        info_hash: InfoHash([1; 20]),
        geometry,
        peer_id: [9; 20],
        seed: [4; 32],
        super_seed: complete,
        have,
        secret: None,
        open: true,
        first_pieces: 0..1,
        container_pieces: 2,
        have_policy: HavePolicy::Adaptive,
        listen_port: Some(1),
        first_peers: Vec::new(),
        has_tracker: true,
        has_web_seed: true,
        limits: Limits::default(),
    };
    Swarm::new(Moment::ZERO, config).unwrap()
}

struct Play {
    engine: Swarm,
    now: Moment,
    peers: [Option<PeerKey>; 2],
    requests: [Vec<RawBlock>; 2],
    names: u8,
}

impl Play {
    fn join(&mut self, who: usize) {
        let address = SocketAddr::from(([10, 0, 0, u8::try_from(who + 1).unwrap()], 5));
        self.names = self.names.wrapping_add(1);
        let fast = !self.names.is_multiple_of(3);
        let handshake =
            Handshake { info_hash: InfoHash([1; 20]), peer_id: [self.names; 20], fast, extended: true };
        self.requests[who].clear();
        self.peers[who] = self.engine.handle_connected(self.now, address, Side::Inbound).ok();
        if let Some(key) = self.peers[who] {
            self.engine.handle_handshake(self.now, key, handshake);
        }
    }

    fn play(&mut self, who: usize, action: Move) {
        let Some(key) = self.peers[who] else { return self.join(who) };
        match action {
            Move::Says(message) => self.engine.handle_message(self.now, key, message),
            Move::SendsBlock(raw) => drop(self.engine.handle_block(self.now, key, raw)),
            Move::AnswersRequest(at) if at < self.requests[who].len() => {
                let raw = self.requests[who].remove(at);
                let _ = self.engine.handle_block(self.now, key, raw);
            }
            Move::RejectsRequest(at) if at < self.requests[who].len() => {
                let raw = self.requests[who].remove(at);
                self.engine.handle_message(self.now, key, Message::Reject(raw));
            }
            Move::AnswersRequest(_) | Move::RejectsRequest(_) => {}
            Move::Waits(ms) => {
                self.now = self.now.plus(Duration::from_millis(ms));
                self.engine.handle_timeout(self.now);
            }
            Move::Leaves => {
                self.engine.handle_disconnected(self.now, key);
                self.peers[who] = None;
            }
            Move::Checked(raw, outcome) => {
                let piece = self.engine.config.geometry.piece(raw).unwrap();
                let outcomes = [CheckOutcome::Stored, CheckOutcome::Corrupt, CheckOutcome::NotStored];
                self.engine.handle_checked(self.now, piece, outcomes[usize::from(outcome)]);
                self.engine.handle_fetched(self.now, piece, outcome == 0);
            }
            Move::Sent(bytes) => self.engine.handle_sent(self.now, key, bytes),
        }
    }

    fn drain(&mut self) -> usize {
        let mut count = 0;
        while let Some(action) = self.engine.poll_action() {
            count += 1;
            match action {
                Action::Send { to, message: Message::Request(raw) } => {
                    if let Some(who) = self.peers.iter().position(|peer| *peer == Some(to)) {
                        self.requests[who].push(raw);
                    }
                }
                Action::Close { peer, .. } => {
                    self.peers
                        .iter_mut()
                        .filter(|known| **known == Some(peer))
                        .for_each(|known| *known = None);
                }
                Action::SendBlock { block, .. } => {
                    assert!(self.engine.verified().contains(block.piece().get()));
                }
                _ => {}
            }
        }
        count
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn anything_a_peer_says_keeps_the_invariants(
        complete: bool,
        moves in prop::collection::vec((0_usize..2, a_move()), 0..200),
    ) {
        let mut play = Play {
            engine: engine(complete),
            now: Moment::ZERO,
            peers: [None; 2],
            requests: [Vec::new(), Vec::new()],
            names: 0,
        };
        for (who, action) in moves {
            play.play(who, action.clone());
            let actions = play.drain();
            prop_assert!(actions < 5000, "{actions} actions after {action:?}");
            prop_assert_eq!(play.engine.check_invariants(), Ok(()), "after {:?}", action);
        }
    }
}
