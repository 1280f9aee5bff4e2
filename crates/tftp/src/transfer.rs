//! One file to one node: the server's side of a transfer.
//!
//! ```text
//!   options asked: Offering --ACK 0--> Sending --last block acknowledged--> Finished(Complete)
//!   none asked:    ------------------> Sending
//!   ERROR from the node, or too many timeouts: any --> Finished
//! ```

use std::time::{Duration, Instant};

use crate::packet::{DATA, OACK, option};
use crate::{Burst, Packet, ReadRequest, on_wire};

/// Without the option (RFC 1350).
const BLOCK_BYTES_DEFAULT: u16 = 512;
/// Largest block that fits an Ethernet frame: some ROMs cannot put fragments together, some paths lose them.
pub const BLOCK_BYTES_MAX: u16 = 1468;
/// Longer windows overrun the receive rings of small NICs.
pub const WINDOW_BLOCKS_MAX: u16 = 16;
/// First wait for an answer, until the node's own pace is known.
const TIMEOUT_FIRST: Duration = Duration::from_secs(1);
/// A fast node may still pause, such as to draw on its console.
const TIMEOUT_MIN: Duration = Duration::from_millis(250);
/// Waits double up to this.
const TIMEOUT_MAX: Duration = Duration::from_secs(4);
/// Timeouts in a row before the node counts as gone: about 20 s.
pub const TIMEOUTS_MAX: u32 = 7;
/// The same before the node has said anything but its request. That may have come from anybody under any address, so
/// little is sent on its account; a node that is there asks again itself.
pub const TIMEOUTS_UNPROVEN_MAX: u32 = 3;

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node has acknowledged the last block.
    Complete,
    /// The node asked for the size, got it, and said ERROR before it took a block, as all UEFI firmware does.
    Probed,
    /// The node said ERROR with this code.
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
pub struct Transfer<F> {
    file: F,
    options: Vec<u8>,
    size_asked: bool,
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
    /// No block above this one was ever sent.
    highest: u64,
    /// A gap after this block has been filled once; further reports of the same gap are echoes.
    refilled: Option<u64>,
    /// Timeouts since the node was last heard.
    timeouts: u32,
    proven: bool,
    deadline: Instant,
    /// When the block `.0` was first sent, to measure the round trip; `None` after a resend (Karn).
    timed: Option<(u64, Instant)>,
    round_trip: Option<Duration>,
    resent_blocks: u64,
}

impl<F: AsRef<[u8]>> Transfer<F> {
    /// Begins to send `file` as `request` wants it.
    pub fn start(request: &ReadRequest, file: F, now: Instant) -> Self {
        let block = request.blksize.map(|bytes| bytes.min(BLOCK_BYTES_MAX));
        let window = request.windowsize.map(|blocks| blocks.min(WINDOW_BLOCKS_MAX));
        let block_bytes = usize::from(block.unwrap_or(BLOCK_BYTES_DEFAULT));
        let len = file.as_ref().len();
        let mut options = OACK.to_be_bytes().to_vec();
        let answers = [
            // QUIRK(edk2): an OACK without the size that it asked for ends the boot.
            ("tsize", request.tsize.then_some(len as u64)),
            ("blksize", block.map(u64::from)),
            ("timeout", request.timeout.map(u64::from)),
            ("windowsize", window.map(u64::from)),
        ];
        for (name, value) in answers {
            if let Some(value) = value {
                option(&mut options, name, value);
            }
        }
        let asked = options.len() > OACK.to_be_bytes().len();
        Self {
            file,
            options,
            size_asked: request.tsize,
            block_bytes,
            window: u64::from(window.unwrap_or(1)),
            timeout_asked: request.timeout.map(|seconds| Duration::from_secs(u64::from(seconds))),
            // The last block is shorter than the others, if need be empty.
            last_block: (len / block_bytes) as u64 + 1,
            state: if asked { State::Offering { due: true } } else { State::Sending },
            acknowledged: 0,
            next: 1,
            highest: 0,
            refilled: None,
            timeouts: 0,
            proven: false,
            deadline: now + TIMEOUT_FIRST,
            timed: None,
            round_trip: None,
            resent_blocks: 0,
        }
    }

    /// Puts into `burst` what is to be sent at once; `false` if there is nothing before something happens.
    pub fn poll_send(&mut self, now: Instant, burst: &mut Burst) -> bool {
        burst.clear();
        match self.state {
            State::Offering { due: true } => {
                burst.push(&self.options, &[]);
                self.state = State::Offering { due: false };
            }
            State::Sending => {
                let end = self.last_block.min(self.acknowledged + self.window);
                if self.next > end {
                    return false;
                }
                for number in self.next..=end {
                    let ([a, b], [c, d]) = (DATA.to_be_bytes(), on_wire(number).to_be_bytes());
                    burst.push(&[a, b, c, d], self.block(number));
                }
                self.resent_blocks += (self.highest + 1).min(end + 1).saturating_sub(self.next);
                if self.next > self.highest && self.timed.is_none() {
                    self.timed = Some((self.next, now));
                }
                self.highest = self.highest.max(end);
                self.next = end + 1;
            }
            State::Offering { due: false } | State::Finished(_) => return false,
        }
        self.deadline = now + self.timeout();
        true
    }

    /// Takes what the node sent.
    pub fn handle_packet(&mut self, now: Instant, bytes: &[u8]) {
        match Packet::parse(bytes) {
            Some(Packet::Ack(number)) => self.handle_ack(now, number),
            // QUIRK(firmware): most ask for the size only and then say ERROR; nothing more may be sent to them.
            Some(Packet::Error(code)) => {
                let probe = self.size_asked && self.acknowledged == 0;
                self.finish(if probe { Outcome::Probed } else { Outcome::Aborted(code) });
            }
            Some(Packet::Read(_) | Packet::Write) | None => {}
        }
    }

    /// To be called at [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.deadline || self.outcome().is_some() {
            return;
        }
        self.timeouts += 1;
        if self.timeouts > if self.proven { TIMEOUTS_MAX } else { TIMEOUTS_UNPROVEN_MAX } {
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
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.outcome().is_none().then_some(self.deadline)
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::Finished(outcome) => Some(outcome),
            State::Offering { .. } | State::Sending => None,
        }
    }

    /// Whether the node has answered, so that its address is its own and not one that somebody wrote into a request.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Bytes of the file that the node has acknowledged.
    #[must_use]
    pub fn acknowledged_bytes(&self) -> u64 {
        (self.acknowledged * self.block_bytes as u64).min(self.file.as_ref().len() as u64)
    }

    /// How long its acknowledgements have been taking, smoothed; `None` before the first.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Blocks that were sent more than once, counted each further time.
    #[must_use]
    pub fn resent_blocks(&self) -> u64 {
        self.resent_blocks
    }

    fn handle_ack(&mut self, now: Instant, number: u16) {
        if matches!(self.state, State::Offering { .. }) {
            if number == 0 {
                self.state = State::Sending;
                self.heard();
            }
            return;
        }
        let ahead = u64::from(number.wrapping_sub(on_wire(self.acknowledged)));
        let block = self.acknowledged + ahead;
        if self.state != State::Sending || block > self.highest {
            return;
        }
        if ahead == 0 {
            return self.handle_repeated_ack();
        }
        if let Some((timed, sent)) = self.timed
            && timed <= block
        {
            let sample = now.saturating_duration_since(sent);
            self.round_trip = Some(self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8));
            self.timed = None;
        }
        self.acknowledged = block;
        // An acknowledgement inside the window asks for all that follows it.
        self.next = block + 1;
        self.refilled = None;
        self.heard();
        if block == self.last_block {
            self.finish(Outcome::Complete);
        }
    }

    /// With a window the node says so when the first block of it is missing (RFC 7440 section 4), and waiting for the
    /// timer would stall it. With single blocks it is an echo, and answering echoes doubles every packet from then on
    /// (RFC 1123 section 4.2.3.1).
    fn handle_repeated_ack(&mut self) {
        let under_way = self.next > self.acknowledged + 1;
        if self.window > 1 && under_way && self.refilled != Some(self.acknowledged) {
            self.refilled = Some(self.acknowledged);
            self.timed = None;
            self.next = self.acknowledged + 1;
        }
    }

    fn heard(&mut self) {
        self.proven = true;
        self.timeouts = 0;
    }

    fn timeout(&self) -> Duration {
        let base = self.timeout_asked.unwrap_or_else(|| {
            self.round_trip.map_or(TIMEOUT_FIRST, |time| (time * 8).clamp(TIMEOUT_MIN, TIMEOUT_FIRST))
        });
        (base * 2_u32.saturating_pow(self.timeouts)).min(TIMEOUT_MAX.max(base))
    }

    fn block(&self, number: u64) -> &[u8] {
        let file = self.file.as_ref();
        let begin = usize::try_from(number - 1).unwrap_or(usize::MAX).saturating_mul(self.block_bytes);
        let end = begin.saturating_add(self.block_bytes).min(file.len());
        file.get(begin..end).unwrap_or_default()
    }

    fn finish(&mut self, outcome: Outcome) {
        if self.outcome().is_none() {
            self.state = State::Finished(outcome);
        }
    }
}
