//! TFTP: packets of strangers, and transfers whose other side does what it likes.
//!
//! Never depends on the fuzzer: the same functions replay the corpora in `crates/tftp/tests/corpus.rs`.

mod moves;

use std::time::{Duration, Instant};

use moves::Moves;
use tftp::{
    BLOCK_BYTES_MAX, Burst, Fetch, FetchOptions, NAME_BYTES_MAX, Packet, ReadRequest, Reply,
    TIMEOUTS_UNPROVEN_MAX, Transfer, WINDOW_BLOCKS_MAX,
};

/// Longest sequence; more moves find nothing that these don't.
const MOVES_MAX: usize = 400;

/// Names lead nowhere, options are in their bounds, and what was understood is written so that it is understood again.
pub fn tftp_packet(data: &[u8]) {
    let _ = Reply::parse(data);
    let Some(Packet::Read(request)) = Packet::parse(data) else { return };
    let name = &request.name;
    assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('/'));
    assert!(!name.contains('\\') && !name.chars().any(char::is_control));
    assert!(!name.split('/').any(|part| part == "." || part == ".."));
    assert!(request.blksize.is_none_or(|bytes| (8..=65_464).contains(&bytes)));
    assert!(request.windowsize != Some(0) && request.timeout != Some(0));
    assert_eq!(Packet::parse(&request.encode()), Some(Packet::Read(request)));
}

/// A node that says anything at any time. Input: blksize, window, options (1 byte), size of the file, then moves.
pub fn tftp_transfer(data: &[u8]) {
    let mut moves = Moves(data);
    let Some((blksize, window)) = moves.number().zip(moves.number()) else { return };
    let Some((options, size)) = moves.byte().zip(moves.number()) else { return };
    let request = ReadRequest {
        name: "f".into(),
        blksize: Some(blksize).filter(|bytes| options & 1 != 0 && *bytes >= 8),
        windowsize: Some(window).filter(|blocks| options & 2 != 0 && *blocks > 0),
        tsize: options & 4 != 0,
        timeout: Some(options >> 4).filter(|seconds| options & 8 != 0 && *seconds > 0),
    };
    let file: Vec<u8> = (0..usize::from(size)).map(|at| (at % 251) as u8).collect();
    let mut now = Instant::now();
    let mut transfer = Transfer::start(&request, file.as_slice(), now);
    let (mut acknowledged, mut unproven) = (0, 0);
    for _ in 0..MOVES_MAX {
        unproven += drain(&mut transfer, now);
        if !transfer.is_proven() {
            let window = usize::from(WINDOW_BLOCKS_MAX);
            assert!(unproven <= window * (TIMEOUTS_UNPROVEN_MAX as usize + 1), "much is sent to nobody");
        }
        assert!(transfer.acknowledged_bytes() >= acknowledged, "what was acknowledged stays so");
        acknowledged = transfer.acknowledged_bytes();
        assert!(acknowledged <= u64::from(size));
        assert_eq!(transfer.poll_timeout().is_none(), transfer.outcome().is_some());
        let Some(kind) = moves.byte() else { break };
        match kind % 4 {
            0 => transfer.handle_packet(now, moves.bytes().unwrap_or_default()),
            1 => {
                let [high, low] = moves.number().unwrap_or_default().to_be_bytes();
                transfer.handle_packet(now, &[0, 4, high, low]);
            }
            2 => now += Duration::from_millis(u64::from(moves.number().unwrap_or_default())),
            _ => {
                now = transfer.poll_timeout().unwrap_or(now).max(now);
                transfer.handle_timeout(now);
            }
        }
    }
    // Silence ends everything.
    for _ in 0..20 {
        drain(&mut transfer, now);
        now = transfer.poll_timeout().unwrap_or(now).max(now);
        transfer.handle_timeout(now);
    }
    assert!(transfer.outcome().is_some(), "it never ends");
    assert_eq!(drain(&mut transfer, now), 0, "it sends after its end");
}

/// Takes all that is to be sent; how many datagrams that was.
fn drain(transfer: &mut Transfer<&[u8]>, now: Instant) -> usize {
    let (mut burst, mut sent) = (Burst::default(), 0);
    while transfer.poll_send(now, &mut burst) {
        assert!(!burst.is_empty() && burst.len() <= usize::from(WINDOW_BLOCKS_MAX));
        assert!(burst.datagram_bytes() <= usize::from(BLOCK_BYTES_MAX) + 4);
        assert_eq!(burst.datagrams().map(<[u8]>::len).sum::<usize>(), burst.bytes().len());
        assert!(transfer.poll_timeout().is_some_and(|deadline| deadline > now), "a timer in the past");
        sent += burst.len();
        assert!(sent <= 2 * usize::from(WINDOW_BLOCKS_MAX), "one event, one window");
    }
    sent
}

/// A server that says anything at any time. Input: blksize, window, options (1 byte), then moves.
pub fn tftp_fetch(data: &[u8]) {
    let mut moves = Moves(data);
    let Some((blksize, window)) = moves.number().zip(moves.number()) else { return };
    let Some(options) = moves.byte() else { return };
    let request = ReadRequest {
        name: "f".into(),
        blksize: Some(blksize).filter(|bytes| *bytes >= 8),
        windowsize: Some(window).filter(|blocks| *blocks > 0),
        tsize: true,
        timeout: None,
    };
    let mut now = Instant::now();
    let mut fetch = Fetch::start(FetchOptions { request, size_only: options & 1 != 0 }, now);
    let mut kept = 0;
    for _ in 0..MOVES_MAX {
        let sent = fetch.poll_send();
        assert!(sent.is_none_or(|sent| sent.len() <= 600) && fetch.poll_send().is_none());
        let Some(kind) = moves.byte() else { break };
        match kind % 4 {
            0 => {
                fetch.handle_packet(now, moves.bytes().unwrap_or_default(), &mut |block| kept += block.len())
            }
            1 => {
                let ([high, low], fill) = (moves.number().unwrap_or_default().to_be_bytes(), moves.number());
                let mut packet = vec![0, 3, high, low];
                packet.resize(4 + usize::from(fill.unwrap_or_default()), 7);
                fetch.handle_packet(now, &packet, &mut |block| kept += block.len());
            }
            2 => now += Duration::from_millis(u64::from(moves.number().unwrap_or_default())),
            _ => {
                now = fetch.poll_timeout().unwrap_or(now).max(now);
                fetch.handle_timeout(now);
            }
        }
        assert_eq!(fetch.bytes(), kept as u64);
    }
}
