//! One file to one node, without socket or clock.
//!
//! ```text
//!   options asked: Offering --ACK 0--> Sending --last block acknowledged--> Finished(Complete)
//!   none asked:    ------------------> Sending
//!   ERROR from the node, or too many timeouts: any --> Finished
//! ```

use std::time::{Duration, Instant};

use axum::body::Bytes;

use super::request::{Packet, ReadRequest, parse};

const DATA: u16 = 3;
const OACK: u16 = 6;

/// Without the option (RFC 1350).
const BLOCK_BYTES_DEFAULT: u16 = 512;
/// Largest block that fits an Ethernet frame: some ROMs cannot put fragments together, some paths lose them.
pub(super) const BLOCK_BYTES_MAX: u16 = 1468;
/// Longer windows overrun the receive rings of small NICs.
pub(super) const WINDOW_BLOCKS_MAX: u16 = 16;
/// First wait for an answer, until the node's own pace is known.
const TIMEOUT_FIRST: Duration = Duration::from_secs(1);
/// A fast node may still pause, such as to draw on its console.
const TIMEOUT_MIN: Duration = Duration::from_millis(250);
/// Waits double up to this.
const TIMEOUT_MAX: Duration = Duration::from_secs(4);
/// Timeouts in a row before the node counts as gone: about 20 s.
pub(super) const TIMEOUTS_MAX: u32 = 7;

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The node has acknowledged the last block.
    Complete,
    /// The node said ERROR with this code. Code 8 or 0 right after the size is how firmware asks for the size.
    Aborted(u16),
    /// The node fell silent.
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The options are answered (OACK); the node has not agreed yet.
    Offering {
        due: bool,
    },
    Sending,
    Finished(Outcome),
}

/// One file on its way. Blocks are counted from 1 without bound; on the wire the number rolls over to 0.
#[derive(Debug)]
pub(super) struct Transfer {
    file: Bytes,
    options: Vec<u8>,
    block_bytes: usize,
    window: u64,
    /// The node's own wish for the time between resends.
    timeout_asked: Option<Duration>,
    last_block: u64,
    state: State,
    /// Every block up to this one is acknowledged.
    acknowledged: u64,
    /// The block to send next.
    next: u64,
    /// A gap after this block has been filled once; further reports of the same gap are echoes.
    refilled: Option<u64>,
    timeouts: u32,
    deadline: Instant,
    /// When the block `.0` was first sent, to measure the round trip; `None` after a resend (Karn).
    timed: Option<(u64, Instant)>,
    round_trip: Option<Duration>,
}

impl Transfer {
    /// Begins to send `file` as `request` wants it.
    pub(super) fn start(request: &ReadRequest, file: Bytes, now: Instant) -> Self {
        let block = request.blksize.map(|bytes| bytes.min(BLOCK_BYTES_MAX));
        let window = request.windowsize.map(|blocks| blocks.min(WINDOW_BLOCKS_MAX));
        let block_bytes = usize::from(block.unwrap_or(BLOCK_BYTES_DEFAULT));
        let mut options = OACK.to_be_bytes().to_vec();
        let mut answer = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                options.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
            }
        };
        // QUIRK(edk2): an OACK without the size that it asked for ends the boot.
        answer("tsize", request.tsize.then_some(file.len() as u64));
        answer("blksize", block.map(u64::from));
        answer("timeout", request.timeout.map(u64::from));
        answer("windowsize", window.map(u64::from));
        let asked = options.len() > OACK.to_be_bytes().len();
        // The last block is shorter than the others, if need be empty.
        let last_block = (file.len() / block_bytes) as u64 + 1;
        Self {
            file,
            options,
            block_bytes,
            window: u64::from(window.unwrap_or(1)),
            timeout_asked: request.timeout.map(|seconds| Duration::from_secs(u64::from(seconds))),
            last_block,
            state: if asked { State::Offering { due: true } } else { State::Sending },
            acknowledged: 0,
            next: 1,
            refilled: None,
            timeouts: 0,
            deadline: now + TIMEOUT_FIRST,
            timed: None,
            round_trip: None,
        }
    }

    /// Puts the next datagram into `out`; `false` if there is nothing to send before something happens.
    pub(super) fn poll_send(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        out.clear();
        match self.state {
            State::Offering { due: true } => {
                out.extend_from_slice(&self.options);
                self.state = State::Offering { due: false };
            }
            State::Sending if self.next <= self.last_block.min(self.acknowledged + self.window) => {
                let number = self.next;
                out.extend_from_slice(&DATA.to_be_bytes());
                out.extend_from_slice(&on_wire(number).to_be_bytes());
                out.extend_from_slice(self.block(number));
                self.next += 1;
                if self.timeouts == 0 && self.timed.is_none() && self.refilled.is_none() {
                    self.timed = Some((number, now));
                }
            }
            State::Offering { due: false } | State::Sending | State::Finished(_) => return false,
        }
        self.deadline = now + self.timeout();
        true
    }

    /// Takes what the node sent.
    pub(super) fn handle_packet(&mut self, now: Instant, bytes: &[u8]) {
        match parse(bytes) {
            Some(Packet::Ack(number)) => self.handle_ack(now, number),
            // QUIRK(firmware): most ask for the size only and then say ERROR; nothing more may be sent to them.
            Some(Packet::Error(code)) => self.finish(Outcome::Aborted(code)),
            Some(Packet::Read(_) | Packet::Write) | None => {}
        }
    }

    /// To be called at [`Self::poll_timeout`].
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if now < self.deadline || self.outcome().is_some() {
            return;
        }
        self.timeouts += 1;
        if self.timeouts > TIMEOUTS_MAX {
            return self.finish(Outcome::TimedOut);
        }
        self.timed = None;
        self.next = self.acknowledged + 1;
        self.deadline = now + self.timeout();
        if let State::Offering { due } = &mut self.state {
            *due = true;
        }
    }

    /// When to call [`Self::handle_timeout`]; `None` at the end.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.outcome().is_none().then_some(self.deadline)
    }

    /// How it ended, if it has.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::Finished(outcome) => Some(outcome),
            State::Offering { .. } | State::Sending => None,
        }
    }

    /// Bytes of the file that the node has acknowledged.
    pub(super) fn acknowledged_bytes(&self) -> u64 {
        (self.acknowledged * self.block_bytes as u64).min(self.file.len() as u64)
    }

    fn handle_ack(&mut self, now: Instant, number: u16) {
        if matches!(self.state, State::Offering { .. }) {
            if number == 0 {
                self.state = State::Sending;
                self.timeouts = 0;
            }
            return;
        }
        let ahead = u64::from(number.wrapping_sub(on_wire(self.acknowledged)));
        let block = self.acknowledged + ahead;
        if self.state != State::Sending || block >= self.next {
            return;
        }
        if ahead == 0 {
            // With a window the node says so when the first block of it is missing (RFC 7440 section 4), and waiting
            // for the timer would stall it. With single blocks it is an echo, and answering echoes doubles every
            // packet from then on (RFC 1123 section 4.2.3.1).
            if self.window > 1
                && self.next > self.acknowledged + 1
                && self.refilled != Some(self.acknowledged)
            {
                self.refilled = Some(self.acknowledged);
                self.timed = None;
                self.next = self.acknowledged + 1;
            }
            return;
        }
        if let Some((timed, sent)) = self.timed
            && timed <= block
        {
            let sample = now.duration_since(sent);
            self.round_trip = Some(self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8));
            self.timed = None;
        }
        self.acknowledged = block;
        // An acknowledgement inside the window asks for all that follows it.
        self.next = block + 1;
        self.refilled = None;
        self.timeouts = 0;
        if block == self.last_block {
            self.finish(Outcome::Complete);
        }
    }

    fn timeout(&self) -> Duration {
        let base = self.timeout_asked.unwrap_or_else(|| {
            self.round_trip.map_or(TIMEOUT_FIRST, |time| (time * 8).clamp(TIMEOUT_MIN, TIMEOUT_FIRST))
        });
        (base * 2_u32.saturating_pow(self.timeouts)).min(TIMEOUT_MAX.max(base))
    }

    fn block(&self, number: u64) -> &[u8] {
        let begin = usize::try_from(number - 1).unwrap_or(usize::MAX).saturating_mul(self.block_bytes);
        let end = begin.saturating_add(self.block_bytes).min(self.file.len());
        self.file.get(begin..end).unwrap_or_default()
    }

    fn finish(&mut self, outcome: Outcome) {
        if self.outcome().is_none() {
            self.state = State::Finished(outcome);
        }
    }
}

/// The number of a block on the wire: 16 bits that roll over to 0.
fn on_wire(block: u64) -> u16 {
    let [.., high, low] = block.to_be_bytes();
    u16::from_be_bytes([high, low])
}
