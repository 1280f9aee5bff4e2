//! Transfers against a node of the RFCs over a network that loses, repeats and delays; the clock is virtual.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // a test crate

mod world;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tftp::{
    BLOCK_BYTES_MAX, Burst, Outcome, Packet, ReadRequest, TIMEOUTS_MAX, TIMEOUTS_UNPROVEN_MAX, Transfer,
    WINDOW_BLOCKS_MAX, error_packet,
};
use world::{dice, file};

const MILLISECOND: Duration = Duration::from_millis(1);

fn read(bytes: &[u8]) -> Option<ReadRequest> {
    match Packet::parse(&[&[0, 1][..], bytes].concat())? {
        Packet::Read(request) => Some(request),
        _ => None,
    }
}

#[test]
fn names_are_taken_as_firmware_means_them() {
    let name = |raw: &[u8]| read(&[raw, b"\0octet\0"].concat()).map(|request| request.name);
    assert_eq!(name(b"undionly.kpxe").as_deref(), Some("undionly.kpxe"));
    assert_eq!(name(b"undionly.kpxe\xff").as_deref(), Some("undionly.kpxe"), "unterminated option 67");
    assert_eq!(name(b"undionly.kpxe \xff ").as_deref(), Some("undionly.kpxe"));
    assert_eq!(name(b"//boot/x.efi").as_deref(), Some("boot/x.efi"));
    assert_eq!(name(br"\Boot\x.efi").as_deref(), Some("Boot/x.efi"));
    assert_eq!(name(b"caf\xe9.efi"), None, "no name of ours");
    assert_eq!((name(b""), name(b"/"), name(b"\xff")), (None, None, None));
    assert_eq!(name(&[b'a'; 256]), None);
    for path in ["../x", "a/../x", "..", "./x", "a/.", r"..\x", "a\nb", "a\x7fb"] {
        assert_eq!(name(path.as_bytes()), None, "{path:?}");
    }
    assert_eq!(name(b"a..b/...").as_deref(), Some("a..b/..."));
}

#[test]
fn options_are_taken_where_they_make_sense() {
    let request =
        read(b"f\0OCTET\0BlkSize\x001468\0tsize\x000\0windowsize\x004\0timeout\x003\0multicast\0\0").unwrap();
    let expected = ReadRequest {
        name: "f".into(),
        blksize: Some(1468),
        tsize: true,
        timeout: Some(3),
        windowsize: Some(4),
    };
    assert_eq!(request, expected);
    let plain = ReadRequest { name: "f".into(), ..ReadRequest::default() };
    for odd in [
        &b"f\0octet"[..],
        b"f\0octet\0blksize\x007\0",
        b"f\0octet\0blksize\x0099999\0",
        b"f\0octet\0timeout\x000\0\0\0\0",
    ] {
        assert_eq!(read(odd).as_ref(), Some(&plain), "{}", String::from_utf8_lossy(odd));
    }
    assert_eq!(read(b"f\0netascii\0"), Some(plain));
    assert_eq!((read(b"f\0mail\0"), read(b"f\0"), read(b"")), (None, None, None));
}

/// A node as the RFCs have it, and the network between it and the transfer.
struct World {
    now: Instant,
    transfer: Transfer<Vec<u8>>,
    to_node: VecDeque<Vec<u8>>,
    node: Node,
    /// How many datagrams the server has sent.
    sent: usize,
}

struct Node {
    block_bytes: usize,
    window: u64,
    options: bool,
    received: Vec<u8>,
    /// Block that is expected next, without roll-over.
    expected: u64,
    last_ack: u64,
    gap_reported: bool,
    complete: bool,
}

impl World {
    fn new(file: &[u8], block_bytes: u16, window: u16) -> Self {
        let request = ReadRequest {
            name: "f".into(),
            blksize: Some(block_bytes),
            tsize: true,
            timeout: None,
            windowsize: Some(window),
        };
        let now = Instant::now();
        let node = Node {
            block_bytes: usize::from(block_bytes.min(BLOCK_BYTES_MAX)),
            window: u64::from(window.min(WINDOW_BLOCKS_MAX)),
            options: false,
            received: Vec::new(),
            expected: 1,
            last_ack: 0,
            gap_reported: false,
            complete: false,
        };
        let transfer = Transfer::start(&request, file.to_vec(), now);
        Self { now, transfer, to_node: VecDeque::new(), node, sent: 0 }
    }

    /// What the server sends now.
    fn send(&mut self) -> Vec<Vec<u8>> {
        let (mut burst, mut all) = (Burst::default(), Vec::new());
        while self.transfer.poll_send(self.now, &mut burst) {
            all.extend(burst.datagrams().map(<[u8]>::to_vec));
        }
        self.sent += all.len();
        all
    }

    fn ack(&mut self, block: u16) {
        self.transfer.handle_packet(self.now, &[&[0, 4][..], &block.to_be_bytes()].concat());
    }

    /// Runs until the end; `fate` says how often each datagram arrives, in either direction.
    fn run(&mut self, mut fate: impl FnMut() -> usize) -> Option<Outcome> {
        for _ in 0..1_000_000 {
            for datagram in self.send() {
                for _ in 0..fate() {
                    self.to_node.push_back(datagram.clone());
                }
            }
            self.now += MILLISECOND;
            if let Some(datagram) = self.to_node.pop_front() {
                for ack in self.node.hear(&datagram) {
                    for _ in 0..fate() {
                        self.ack(ack);
                    }
                }
            } else if let Some(deadline) = self.transfer.poll_timeout() {
                self.now = self.now.max(deadline);
                // By now the node's own timer has run out too: it will speak again.
                self.node.gap_reported = false;
                self.transfer.handle_timeout(self.now);
            }
            if let Some(outcome) = self.transfer.outcome() {
                return Some(outcome);
            }
        }
        None
    }
}

impl Node {
    /// The acknowledgements that a datagram leads to.
    fn hear(&mut self, datagram: &[u8]) -> Vec<u16> {
        let kind = u16::from_be_bytes([datagram[0], datagram[1]]);
        if kind == 6 {
            self.options = true;
            return if self.expected == 1 { vec![0] } else { Vec::new() };
        }
        assert_eq!(kind, 3);
        assert!(self.options, "data before the node agreed to the options");
        let number = u16::from_be_bytes([datagram[2], datagram[3]]);
        let wire = |block: u64| u16::try_from(block % 65536).unwrap();
        if self.complete || number != wire(self.expected) {
            // A repeated block is acknowledged again; a gap is told once, with the last block before it.
            let repeated = self.window == 1 || self.complete;
            if !repeated && self.gap_reported {
                return Vec::new();
            }
            self.gap_reported = true;
            self.last_ack = self.expected - 1;
            return vec![wire(self.last_ack)];
        }
        self.gap_reported = false;
        self.received.extend_from_slice(&datagram[4..]);
        self.complete = datagram.len() - 4 < self.block_bytes;
        self.expected += 1;
        if self.complete || self.expected - 1 - self.last_ack == self.window {
            self.last_ack = self.expected - 1;
            return vec![wire(self.last_ack)];
        }
        Vec::new()
    }
}

#[test]
fn every_file_arrives_whole_whatever_the_network_does() {
    for len in [0, 1, 511, 512, 513, 1468 * 16, 100_000] {
        for (block, window) in [(512, 1), (1468, 1), (1468, 4), (512, 16), (1468, 64)] {
            for (lost, repeated) in [(0, 0), (5, 0), (10, 5), (0, 50)] {
                for seed in 1..=4 {
                    let story = format!(
                        "{len} bytes, block {block}, window {window}, {lost} % lost, {repeated} % repeated, seed {seed}"
                    );
                    let content = file(len);
                    let mut world = World::new(&content, block, window);
                    let mut roll = dice(seed, 100);
                    let outcome = world.run(|| match roll() {
                        rolled if rolled < lost => 0,
                        rolled if rolled < lost + repeated => 2,
                        _ => 1,
                    });
                    // The last acknowledgement may be lost for ever; the node is content then.
                    let content_arrived = world.node.complete && world.node.received == content;
                    assert!(
                        content_arrived,
                        "{story}: {outcome:?} after {} bytes",
                        world.node.received.len()
                    );
                    if lost == 0 {
                        assert_eq!(outcome, Some(Outcome::Complete), "{story}");
                    }
                    if (lost, repeated) == (0, 0) {
                        assert_eq!(
                            world.sent,
                            len / usize::from(block.min(BLOCK_BYTES_MAX)) + 2,
                            "{story}: nothing sent twice"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn repeated_acknowledgements_of_single_blocks_are_not_answered() {
    let content = file(512 * 100);
    let mut world = World::new(&content, 512, 1);
    assert_eq!(world.run(|| 2), Some(Outcome::Complete));
    assert_eq!(world.sent, 102, "each block once, though every packet came twice");
}

#[test]
fn size_probe_ends_the_transfer_at_once() {
    let mut world = World::new(&file(1000), 1468, 4);
    assert_eq!(world.send(), [b"\0\x06tsize\x001000\0blksize\x001468\0windowsize\x004\0".to_vec()]);
    world.transfer.handle_packet(world.now, &error_packet(8, "User aborted the transfer"));
    assert_eq!(world.transfer.outcome(), Some(Outcome::Probed));
    assert_eq!((world.send().len(), world.transfer.poll_timeout()), (0, None));
}

#[test]
fn lost_first_packet_of_a_window_does_not_wait_for_the_timer() {
    let mut world = World::new(&file(100_000), 512, 4);
    world.send();
    world.ack(0);
    assert_eq!(world.send().len(), 4);
    // Block 1 is lost; the node has 2 to 4 and says that it still stands at 0, once for each.
    world.ack(0);
    assert_eq!(world.send().iter().map(|data| data[3]).collect::<Vec<_>>(), [1, 2, 3, 4]);
    world.ack(0);
    world.ack(0);
    assert_eq!(world.send().len(), 0, "echoes of the same gap are not answered again");
    world.ack(2);
    assert_eq!(
        world.send().iter().map(|data| data[3]).collect::<Vec<_>>(),
        [3, 4, 5, 6],
        "a gap inside the window"
    );
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_ignored() {
    let mut world = World::new(&file(100_000), 512, 4);
    world.send();
    world.ack(1);
    assert_eq!(world.send().len(), 0, "the options are not agreed");
    world.ack(0);
    world.send();
    for block in [5, 6, 1000, 65535] {
        world.ack(block);
        assert_eq!(world.send().len(), 0, "{block}");
    }
}

#[test]
fn silent_node_is_given_up() {
    let mut world = World::new(&file(100_000), 512, 16);
    let began = world.now;
    assert_eq!(world.run(|| 0), Some(Outcome::TimedOut));
    assert_eq!(world.sent, TIMEOUTS_UNPROVEN_MAX as usize + 1, "little is sent to who never answered");
    assert!(world.now - began < Duration::from_secs(15), "{:?}", world.now - began);

    let mut world = World::new(&file(100_000), 512, 16);
    world.send();
    world.ack(0);
    assert_eq!(world.run(|| 0), Some(Outcome::TimedOut));
    assert!(world.sent <= 1 + 16 * (TIMEOUTS_MAX as usize + 1), "{}", world.sent);
}

#[test]
fn numbers_roll_over_in_long_files() {
    let content = file(8 * 70_000 + 3);
    let mut world = World::new(&content, 8, 16);
    assert_eq!(world.run(|| 1), Some(Outcome::Complete));
    assert!(world.node.received == content);
}

#[test]
fn node_without_options_gets_plain_blocks() {
    let now = Instant::now();
    let request = ReadRequest { name: "f".into(), ..ReadRequest::default() };
    let mut transfer = Transfer::start(&request, file(600), now);
    let mut out = Burst::default();
    assert!(transfer.poll_send(now, &mut out));
    assert_eq!((&out.bytes()[..4], out.bytes().len()), (&[0, 3, 0, 1][..], 516));
    assert!(!transfer.poll_send(now, &mut out));
    transfer.handle_packet(now, &[0, 4, 0, 1]);
    assert!(transfer.poll_send(now, &mut out));
    assert_eq!((&out.bytes()[..4], out.bytes().len()), (&[0, 3, 0, 2][..], 92));
    transfer.handle_packet(now, &[0, 4, 0, 2]);
    assert_eq!((transfer.outcome(), transfer.acknowledged_bytes()), (Some(Outcome::Complete), 600));
}

#[test]
fn resends_come_when_the_node_asked_for_them() {
    let now = Instant::now();
    let request = ReadRequest { name: "f".into(), timeout: Some(30), ..ReadRequest::default() };
    let mut transfer = Transfer::start(&request, file(600), now);
    let mut out = Burst::default();
    assert!(transfer.poll_send(now, &mut out));
    assert_eq!(out.bytes(), b"\0\x06timeout\x0030\0");
    assert_eq!(transfer.poll_timeout(), Some(now + Duration::from_secs(30)));
    transfer.handle_timeout(now + Duration::from_secs(29));
    assert!(!transfer.poll_send(now, &mut out), "too early");
    transfer.handle_timeout(now + Duration::from_secs(30));
    assert!(transfer.poll_send(now, &mut out));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), opcode in 0..8_u8) {
        let _ = Packet::parse(&bytes);
        let packet = [&[0, opcode][..], &bytes].concat();
        let _ = Packet::parse(&packet);
        let mut world = World::new(&file(5000), 512, 4);
        world.send();
        world.ack(0);
        world.send();
        world.transfer.handle_packet(world.now, &packet);
        world.send();
    }
}
