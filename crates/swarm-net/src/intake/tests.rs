//! The stream is the same however the network cuts it; the oracle is the plain decoder.

use super::*;
use proptest::prelude::*;
use swarm::BLOCK_BYTES;

const PIECES: u32 = 300;

fn intake() -> Intake {
    Intake::new(Decoder::new(PIECES), Pool::new(BLOCK_BYTES as usize, 32))
}

fn message() -> impl Strategy<Value = Message> {
    let block = (0..PIECES, 0..9_u32, prop_oneof![3 => Just(BLOCK_BYTES), 1 => 1..=BLOCK_BYTES]);
    let block = block.prop_map(|(piece, begin, len)| RawBlock { piece, begin, len });
    prop_oneof![
        6 => block.clone().prop_map(Message::Piece),
        2 => block.prop_map(Message::Request),
        1 => Just(Message::KeepAlive),
        1 => Just(Message::Unchoke),
        1 => any::<u32>().prop_map(Message::Have),
        1 => prop::collection::vec(any::<u8>(), 38).prop_map(Message::Bitfield),
        1 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..3000))
            .prop_map(|(id, payload)| Message::Extended { id, payload }),
    ]
}

/// The messages' bytes; a block's are its number in the stream.
fn stream(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, message) in (0_u32..).zip(messages) {
        message.encode(&mut bytes);
        if let Message::Piece(raw) = message {
            bytes.extend((0..raw.len).map(|at| (number ^ at ^ (at >> 8)).to_le_bytes()[0]));
        }
    }
    bytes
}

/// Each message and block as its bytes, by the plain decoder.
fn expected(mut bytes: &[u8]) -> Vec<(Message, Vec<u8>)> {
    let decoder = Decoder::new(PIECES);
    let mut all = Vec::new();
    while let Some(decoded) = decoder.decode(bytes).unwrap() {
        all.push((decoded.message, decoded.data.to_vec()));
        bytes = &bytes[decoded.used..];
    }
    assert!(bytes.is_empty());
    all
}

/// Fills the room with at most `most` bytes, as a socket would.
fn read(intake: &mut Intake, bytes: &[u8], most: usize) -> usize {
    let mut read = 0;
    let end = bytes.len().min(most);
    for slice in &mut intake.room() {
        let length = slice.len().min(end - read);
        slice[..length].copy_from_slice(&bytes[read..read + length]);
        read += length;
    }
    intake.filled(read);
    read
}

fn taken(intake: &mut Intake, all: &mut Vec<(Message, Vec<u8>)>) {
    loop {
        let messages = intake.take().unwrap();
        if messages.is_empty() {
            return;
        }
        all.extend(messages.into_iter().map(|incoming| match incoming {
            Incoming::Message(message) => (message, Vec::new()),
            Incoming::Block(block) => {
                let raw = block.raw;
                (Message::Piece(raw), block.into_buffer().bytes()[..raw.len as usize].to_vec())
            }
        }));
    }
}

proptest! {
    #[test]
    fn the_stream_is_cut_alike_however_it_arrives(
        messages in prop::collection::vec(message(), 0..24),
        cuts in prop::collection::vec(prop_oneof![1..30_usize, 1..60_000_usize, Just(1_000_000)], 1..40),
        pauses in prop::collection::vec(any::<bool>(), 1..10),
    ) {
        let bytes = stream(&messages);
        let mut intake = intake();
        let (mut at, mut all) = (0, Vec::new());
        for (cut, pause) in cuts.iter().cycle().zip(pauses.iter().cycle()) {
            if at == bytes.len() {
                break;
            }
            if *pause {
                // The socket had nothing.
                let _ = intake.room();
                intake.rest();
            }
            at += read(&mut intake, &bytes[at..], *cut);
            taken(&mut intake, &mut all);
        }
        prop_assert!(all == expected(&bytes));
    }

    #[test]
    fn any_bytes_are_cut_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1..50_usize) {
        let mut intake = intake();
        let mut at = 0;
        while at < bytes.len() {
            at += read(&mut intake, &bytes[at..], cut);
            if intake.take().is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_stream_of_whole_blocks_is_not_copied_and_fills_the_rope() {
    let messages: Vec<Message> =
        (0..40).map(|piece| Message::Piece(RawBlock { piece, begin: 0, len: BLOCK_BYTES })).collect();
    let bytes = stream(&messages);
    let mut intake = intake();
    let (mut at, mut reads, mut all) = (0, 0, Vec::new());
    while at < bytes.len() {
        at += read(&mut intake, &bytes[at..], 100_000);
        reads += 1;
        taken(&mut intake, &mut all);
    }
    assert!(reads <= 10, "{reads} reads");
    assert!(all == expected(&bytes));
}

#[test]
fn a_flood_of_small_messages_comes_in_bounded_portions() {
    let mut intake = intake();
    let flood = vec![0; 100_000];
    let mut at = 0;
    while at < flood.len() {
        at += read(&mut intake, &flood[at..], usize::MAX);
        loop {
            let taken = intake.take().unwrap().len();
            assert!(taken <= MESSAGES_AT_ONCE);
            if taken == 0 {
                break;
            }
        }
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
    for bad in [[0xff, 0, 0, 0, 20], [0, 1, 0, 4, 5], [0, 0, 0x80, 0, 7]] {
        let mut intake = intake();
        let bytes = [bad.as_slice(), &[0; 8]].concat();
        read(&mut intake, &bytes, usize::MAX);
        assert!(intake.take().is_err(), "{bad:?}");
    }
}
