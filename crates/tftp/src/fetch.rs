//! One file from a server: the node's side of a transfer, as tests and load clients need it.
//!
//! ```text
//!   Asking --OACK, or block 1--> Receiving --short block--> Finished(Complete)
//!   Asking --OACK, size only--> Finished(Size)
//!   ERROR from the server, or too many timeouts: any --> Finished
//! ```

use std::time::{Duration, Instant};

use crate::packet::ack_packet;
use crate::{ReadRequest, Reply, error_code, error_packet, on_wire};

/// Wait for an answer to a request: iPXE and EDK2 take one to some seconds.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Silences in a row before the server counts as gone.
const TIMEOUTS_MAX: u32 = 6;
/// Without the option (RFC 1350).
const BLOCK_BYTES_DEFAULT: usize = 512;

/// What a node asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchOptions {
    /// Name, options and whether the size is asked for.
    pub request: ReadRequest,
    /// Say ERROR as soon as the size is known, as UEFI firmware does first.
    pub size_only: bool,
}

/// How a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The last block is here.
    Complete,
    /// The size of the file in bytes, and nothing more was wanted.
    Size(u64),
    /// The server said ERROR with this code.
    Refused(u16),
    /// The server broke the protocol.
    Broken,
    /// The server fell silent.
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asking,
    Receiving,
    Finished(FetchOutcome),
}

/// One file on its way to this node.
#[derive(Debug)]
pub struct Fetch {
    options: FetchOptions,
    state: State,
    block_bytes: usize,
    window: u64,
    /// Every block up to this one is here.
    received: u64,
    /// The last block that was acknowledged, or 0.
    acknowledged: u64,
    /// The gap after this block has been told to the server.
    gap_told: Option<u64>,
    bytes: u64,
    out: Option<Vec<u8>>,
    timeouts: u32,
    deadline: Instant,
}

impl Fetch {
    /// Begins to ask for a file.
    #[must_use]
    pub fn start(options: FetchOptions, now: Instant) -> Self {
        let out = Some(options.request.encode());
        Self {
            options,
            state: State::Asking,
            block_bytes: BLOCK_BYTES_DEFAULT,
            window: 1,
            received: 0,
            acknowledged: 0,
            gap_told: None,
            bytes: 0,
            out,
            timeouts: 0,
            deadline: now + TIMEOUT,
        }
    }

    /// The datagram to send now, if there is one.
    pub fn poll_send(&mut self) -> Option<Vec<u8>> {
        self.out.take()
    }

    /// Takes what the server sent; `keep` gets each block of the file once and in order.
    pub fn handle_packet(&mut self, now: Instant, bytes: &[u8], keep: &mut dyn FnMut(&[u8])) {
        if self.outcome().is_some_and(|outcome| outcome != FetchOutcome::Complete) {
            return;
        }
        match Reply::parse(bytes) {
            Some(Reply::Options { tsize, blksize, windowsize }) => {
                self.handle_options(now, tsize, blksize, windowsize);
            }
            Some(Reply::Data(number, data)) => self.handle_data(now, number, data, keep),
            Some(Reply::Error(code)) => self.finish(FetchOutcome::Refused(code)),
            None => {}
        }
    }

    /// To be called at [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.deadline || self.outcome().is_some() {
            return;
        }
        self.timeouts += 1;
        if self.timeouts > TIMEOUTS_MAX {
            return self.finish(FetchOutcome::TimedOut);
        }
        self.deadline = now + TIMEOUT;
        match self.state {
            State::Asking => self.out = Some(self.options.request.encode()),
            State::Receiving | State::Finished(_) => self.acknowledge(),
        }
    }

    /// When to call [`Self::handle_timeout`]; `None` at the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.outcome().is_none().then_some(self.deadline)
    }

    /// How it ended, if it has. After [`FetchOutcome::Complete`] repeated blocks are still acknowledged, as long as
    /// somebody hands them in.
    #[must_use]
    pub fn outcome(&self) -> Option<FetchOutcome> {
        match self.state {
            State::Finished(outcome) => Some(outcome),
            State::Asking | State::Receiving => None,
        }
    }

    /// Bytes of the file that are here.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn handle_options(
        &mut self,
        now: Instant,
        tsize: Option<u64>,
        blksize: Option<u16>,
        windowsize: Option<u16>,
    ) {
        if self.state == State::Receiving && self.received == 0 {
            // Our ACK 0 was lost.
            return self.acknowledge();
        }
        if self.state != State::Asking {
            return;
        }
        let request = &self.options.request;
        let more_than = |got: Option<u16>, asked: Option<u16>| {
            got.is_some_and(|got| asked.is_none_or(|asked| got > asked))
        };
        if more_than(blksize, request.blksize) || more_than(windowsize, request.windowsize) {
            self.out = Some(error_packet(error_code::OPTIONS, "options that nobody asked for"));
            return self.finish(FetchOutcome::Broken);
        }
        if self.options.size_only {
            self.out = Some(error_packet(error_code::OPTIONS, "User aborted the transfer"));
            return self.finish(tsize.map_or(FetchOutcome::Broken, FetchOutcome::Size));
        }
        self.block_bytes = blksize.map_or(BLOCK_BYTES_DEFAULT, usize::from);
        self.window = windowsize.map_or(1, u64::from);
        self.state = State::Receiving;
        self.heard(now);
        self.acknowledge();
    }

    fn handle_data(&mut self, now: Instant, number: u16, data: &[u8], keep: &mut dyn FnMut(&[u8])) {
        if self.state == State::Asking {
            // A server without options; what was asked of them does not hold.
            self.state = State::Receiving;
        }
        if data.len() > self.block_bytes {
            return self.finish(FetchOutcome::Broken);
        }
        if self.outcome().is_some() || number != on_wire(self.received + 1) {
            return self.handle_stray(number);
        }
        self.heard(now);
        keep(data);
        self.bytes += data.len() as u64;
        self.received += 1;
        self.gap_told = None;
        let last = data.len() < self.block_bytes;
        if last || self.received - self.acknowledged >= self.window {
            self.acknowledge();
        }
        if last {
            self.finish(FetchOutcome::Complete);
        }
    }

    /// A block that is not the next one: it is here already, or one before it was lost.
    fn handle_stray(&mut self, number: u16) {
        let ahead = number.wrapping_sub(on_wire(self.received));
        let gap = ahead > 1 && u64::from(ahead) <= self.window;
        if gap && self.gap_told == Some(self.received) {
            return;
        }
        if gap || self.window == 1 || self.outcome().is_some() || ahead == 0 {
            self.gap_told = gap.then_some(self.received);
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.received;
        self.out = Some(ack_packet(on_wire(self.received)).to_vec());
    }

    fn heard(&mut self, now: Instant) {
        self.timeouts = 0;
        self.deadline = now + TIMEOUT;
    }

    fn finish(&mut self, outcome: FetchOutcome) {
        if self.outcome().is_none() {
            self.state = State::Finished(outcome);
        }
    }
}
