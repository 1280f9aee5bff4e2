//! The server's side against the node's side over a network that loses, repeats, delays and reorders.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // a test crate

mod world;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tftp::{Burst, Fetch, FetchOptions, FetchOutcome, Outcome, ReadRequest, Transfer};
use world::{dice, file};

/// What happens to datagrams, in percent of them, and how far apart their delays are.
#[derive(Clone, Copy, Debug)]
struct Network {
    lost: u64,
    repeated: u64,
    delay_ms_max: u64,
}

struct Ended {
    node: FetchOutcome,
    server: Option<Outcome>,
    content: Vec<u8>,
    took: Duration,
    resent: u64,
}

/// When it arrives, in which order it was sent, whether to the server, and what it is.
type OnTheWay = (Instant, u64, bool, Vec<u8>);

/// Runs one fetch to its end. Every datagram has its own delay, so they overtake each other.
fn fetch(content: &[u8], request: &ReadRequest, network: Network, seed: u64) -> Ended {
    let began = Instant::now();
    let (mut now, mut roll) = (began, dice(seed, 100));
    let mut fetch = Fetch::start(FetchOptions { request: request.clone(), size_only: false }, now);
    let mut transfer: Option<Transfer<Vec<u8>>> = None;
    let mut wire: BinaryHeap<Reverse<OnTheWay>> = BinaryHeap::new();
    let (mut number, mut received, mut burst) = (0, Vec::new(), Burst::default());
    for _ in 0..200_000 {
        let mut out: Vec<(bool, Vec<u8>)> = fetch.poll_send().map(|sent| (true, sent)).into_iter().collect();
        while transfer.as_mut().is_some_and(|transfer| transfer.poll_send(now, &mut burst)) {
            out.extend(burst.datagrams().map(|datagram| (false, datagram.to_vec())));
        }
        for (to_server, datagram) in out {
            let copies = match roll() {
                rolled if rolled < network.lost => 0,
                rolled if rolled < network.lost + network.repeated => 2,
                _ => 1,
            };
            for _ in 0..copies {
                number += 1;
                let delay = Duration::from_millis(1 + roll() % (network.delay_ms_max + 1));
                wire.push(Reverse((now + delay, number, to_server, datagram.clone())));
            }
        }
        let node = fetch.outcome();
        let server = transfer.as_ref().and_then(Transfer::outcome);
        if let Some(node) = node
            && (server.is_some() || wire.is_empty())
        {
            let resent = transfer.map_or(0, |transfer| transfer.resent_blocks());
            return Ended { node, server, content: received, took: now - began, resent };
        }
        let timers = [fetch.poll_timeout(), transfer.as_ref().and_then(Transfer::poll_timeout)];
        let arrives = wire.peek().map(|Reverse((at, ..))| *at);
        now = timers.into_iter().flatten().chain(arrives).min().unwrap();
        if arrives == Some(now) {
            let Reverse((_, _, to_server, datagram)) = wire.pop().unwrap();
            match &mut transfer {
                Some(transfer) if to_server => transfer.handle_packet(now, &datagram),
                // A request that comes again, or only now, is answered by the listener; one transfer is enough here.
                None => transfer = Some(Transfer::start(request, content.to_vec(), now)),
                Some(_) => {
                    fetch.handle_packet(now, &datagram, &mut |block| received.extend_from_slice(block))
                }
            }
        } else {
            fetch.handle_timeout(now);
            if let Some(transfer) = &mut transfer {
                transfer.handle_timeout(now);
            }
        }
    }
    panic!("no end after 200,000 steps");
}

fn request(blksize: u16, windowsize: u16) -> ReadRequest {
    ReadRequest {
        name: "f".into(),
        blksize: Some(blksize),
        windowsize: Some(windowsize),
        tsize: true,
        timeout: None,
    }
}

#[test]
fn quiet_network_carries_each_block_once() {
    let quiet = Network { lost: 0, repeated: 0, delay_ms_max: 0 };
    for (blksize, window) in [(512, 1), (1468, 4), (1468, 16), (8, 16)] {
        let content = file(100_000);
        let ended = fetch(&content, &request(blksize, window), quiet, 1);
        assert_eq!((ended.node, ended.server), (FetchOutcome::Complete, Some(Outcome::Complete)));
        assert!(ended.content == content && ended.resent == 0, "{} blocks resent", ended.resent);
    }
}

#[test]
fn lost_packets_cost_round_trips_and_not_seconds() {
    // 1.5 MB in 64 windows over 2 ms; one packet in 50 is lost.
    let network = Network { lost: 2, repeated: 0, delay_ms_max: 0 };
    let content = file(1_500_000);
    let mut took: Vec<Duration> = (1..=9)
        .map(|seed| {
            let ended = fetch(&content, &request(1468, 16), network, seed);
            assert!(ended.content == content);
            ended.took
        })
        .collect();
    took.sort();
    // Only the loss of a window's end, or of an acknowledgement, waits for a timer.
    assert!(took[4] < Duration::from_secs(8), "{took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn whatever_arrives_is_the_file(
        len in prop_oneof![Just(0_usize), 1_usize..2000, 1_usize..60_000],
        blksize in 8_u16..2000,
        window in 1_u16..40,
        lost in 0_u64..15,
        repeated in 0_u64..30,
        delay_ms_max in 0_u64..60,
        seed in any::<u64>(),
    ) {
        let content = file(len);
        let network = Network { lost, repeated, delay_ms_max };
        let blksize = blksize.max(u16::try_from(len / 4000).unwrap());
        let ended = fetch(&content, &request(blksize, window), network, seed);
        if ended.node == FetchOutcome::Complete {
            prop_assert!(ended.content == content, "another file came");
        } else {
            // Six silences in a row can happen; an error cannot.
            prop_assert_eq!(ended.node, FetchOutcome::TimedOut);
            prop_assert!(lost > 0);
        }
    }
}
