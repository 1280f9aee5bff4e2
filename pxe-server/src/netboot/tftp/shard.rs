//! One thread that carries many transfers: it waits for all their sockets at once, and for one alone only for
//! milliseconds, while there is no other.
//!
//! Never reads a file and never decides who gets what.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddrV4;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tftp::{Burst, Outcome, Transfer};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, info, warn};

use super::FileSource;
use super::counters::{TftpCounters, count};
use super::places::Flags;
use super::socket::{AWAKE_MAX, TransferSocket};

/// Sockets that are looked at after one call; the others' turn comes with the next.
const EVENTS_MAX: usize = 256;
/// Without timers the thread looks up so often; it is woken for everything else.
const IDLE: Duration = Duration::from_secs(3600);
/// Acknowledgements and errors are far smaller.
const PACKET_BYTES_MAX: usize = 2048;
/// The event of the shard's own wake-up; places are numbered from 0 and never get here.
const WAKE: u64 = u64::MAX;

/// A transfer that can begin.
pub(super) struct Job {
    /// Its place.
    pub(super) number: u64,
    pub(super) node: SocketAddrV4,
    pub(super) name: String,
    pub(super) flags: Arc<Flags>,
    pub(super) socket: TransferSocket,
    pub(super) transfer: Transfer<Bytes>,
}

/// The handle of a running shard. Dropping it ends the thread and its transfers.
pub(super) struct Shard {
    jobs: Option<Sender<Job>>,
    wake: Arc<EventFd>,
    carried: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Shard {
    /// Starts the thread. `ended` is told the number of each transfer that is over, `files` what has arrived.
    pub(super) fn start(
        files: Arc<dyn FileSource>,
        counters: Arc<TftpCounters>,
        ended: UnboundedSender<u64>,
    ) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (jobs, orders) = channel();
        let carried = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            epoll,
            wake: Arc::clone(&wake),
            orders,
            files,
            counters,
            ended,
            carried: Arc::clone(&carried),
            transfers: HashMap::new(),
            timers: BinaryHeap::new(),
            burst: Burst::default(),
            at_once: false,
        };
        let thread = std::thread::Builder::new().name("tftp".into()).spawn(move || worker.run())?;
        Ok(Self { jobs: Some(jobs), wake, carried, thread: Some(thread) })
    }

    /// How many transfers it carries.
    pub(super) fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }

    /// Begins a transfer.
    pub(super) fn begin(&self, job: Job) {
        self.carried.fetch_add(1, Ordering::Relaxed);
        // Sending fails only when the thread is gone, and then the server is stopping.
        if self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) {
            let _ = self.wake.write(1);
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Active {
    job: Job,
    /// When this transfer's entry among the timers comes up; earlier than needed is harmless.
    timer: Instant,
}

struct Worker {
    epoll: Epoll,
    wake: Arc<EventFd>,
    orders: Receiver<Job>,
    files: Arc<dyn FileSource>,
    counters: Arc<TftpCounters>,
    ended: UnboundedSender<u64>,
    carried: Arc<AtomicUsize>,
    transfers: HashMap<u64, Active>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    burst: Burst,
    /// The last packet came so soon that falling asleep for it was not worth it.
    at_once: bool,
}

impl Worker {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        loop {
            let ready = match self.wait(&mut events) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(error) => return warn!(%error, "waiting for TFTP sockets failed"),
            };
            for event in events.iter().take(ready) {
                match event.data() {
                    WAKE => {
                        let _ = self.wake.read();
                        if !self.take_orders() {
                            return;
                        }
                    }
                    number => self.handle_readable(number, &mut buffer),
                }
            }
            self.handle_timers();
            if !self.carry_the_only_one(&mut buffer) {
                return;
            }
        }
    }

    /// What has come; without falling asleep for it when the last came as soon as that.
    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, Errno> {
        let began = Instant::now();
        while self.at_once && began.elapsed() < AWAKE_MAX {
            let ready = self.epoll.wait(events, EpollTimeout::ZERO)?;
            if ready > 0 {
                return Ok(ready);
            }
            std::thread::yield_now();
        }
        let ready = self.epoll.wait(events, self.patience())?;
        self.at_once = ready > 0 && began.elapsed() < AWAKE_MAX;
        Ok(ready)
    }

    /// While there is one transfer and its node answers at once, packets are waited for in its own socket: in lock
    /// step each block then costs two calls instead of three. `false` as of [`Self::take_orders`].
    fn carry_the_only_one(&mut self, buffer: &mut [u8]) -> bool {
        while self.transfers.len() == 1
            && let Some((&number, Active { job, .. })) = self.transfers.iter().next()
        {
            let at_once = job.transfer.round_trip().is_some_and(|time| time <= AWAKE_MAX);
            let received = if at_once { job.socket.wait_awake(buffer) } else { job.socket.wait(buffer) };
            if matches!(received, Ok(None)) {
                return true;
            }
            self.handle_received(number, received, buffer);
            self.handle_timers();
            if !self.take_orders() {
                return false;
            }
        }
        true
    }

    /// How long to wait for sockets. Rounded up: a timer that has not come would be looked at again and again.
    fn patience(&self) -> EpollTimeout {
        let wait =
            self.timers.peek().map_or(IDLE, |Reverse((at, _))| at.saturating_duration_since(Instant::now()));
        let rounded = if wait.is_zero() { wait } else { wait + Duration::from_millis(1) };
        EpollTimeout::try_from(rounded.min(IDLE)).unwrap_or(EpollTimeout::ZERO)
    }

    /// `false` when there is nobody left who could begin transfers.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(job) => self.begin(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn begin(&mut self, job: Job) {
        let number = job.number;
        let timer = job.transfer.poll_timeout().unwrap_or_else(Instant::now);
        let watched = self.epoll.add(&job.socket, EpollEvent::new(EpollFlags::EPOLLIN, number));
        self.transfers.insert(number, Active { job, timer });
        if let Err(error) = watched {
            warn!(%error, "a TFTP socket cannot be watched");
            return self.end(number, None);
        }
        self.timers.push(Reverse((timer, number)));
        self.pump(number);
    }

    fn handle_readable(&mut self, number: u64, buffer: &mut [u8]) {
        let Some(Active { job, .. }) = self.transfers.get(&number) else { return };
        let received = job.socket.receive(buffer);
        self.handle_received(number, received, buffer);
    }

    fn handle_received(&mut self, number: u64, received: Result<Option<usize>, Errno>, buffer: &[u8]) {
        let Some(Active { job, .. }) = self.transfers.get_mut(&number) else { return };
        match received {
            Ok(Some(len)) => {
                job.transfer.handle_packet(Instant::now(), buffer.get(..len).unwrap_or_default());
                if job.transfer.is_proven() {
                    job.flags.proven.store(true, Ordering::Relaxed);
                }
                self.pump(number);
            }
            Ok(None) => {}
            // The node's port is closed (ICMP): it has gone on without us.
            Err(_) => self.end(number, Some(Outcome::Aborted(0))),
        }
    }

    fn handle_timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, number))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            // Of a transfer that is over, or that has put an earlier entry in.
            let Some(active) = self.transfers.get_mut(&number).filter(|active| active.timer == at) else {
                continue;
            };
            active.job.transfer.handle_timeout(now);
            // Long enough for the entry to be put in again, whatever comes.
            active.timer = now + IDLE;
            self.pump(number);
        }
    }

    /// Sends what is due, ends what has ended, and sees to the timer.
    fn pump(&mut self, number: u64) {
        let Some(Active { job, timer }) = self.transfers.get_mut(&number) else { return };
        if !job.flags.wanted.load(Ordering::Relaxed) {
            return self.end(number, None);
        }
        while job.transfer.poll_send(Instant::now(), &mut self.burst) {
            job.socket.send(&self.burst);
        }
        let (None, Some(deadline)) = (job.transfer.outcome(), job.transfer.poll_timeout()) else {
            let outcome = job.transfer.outcome();
            return self.end(number, outcome);
        };
        // Deadlines mostly move away with each packet: the entry stays, and finds out when it comes up.
        if deadline < *timer {
            *timer = deadline;
            self.timers.push(Reverse((deadline, number)));
        }
    }

    fn end(&mut self, number: u64, outcome: Option<Outcome>) {
        // The socket leaves the set when it is closed.
        let Some(Active { job, .. }) = self.transfers.remove(&number) else { return };
        self.carried.fetch_sub(1, Ordering::Relaxed);
        // Nobody listens any more only when the server stops.
        let _ = self.ended.send(number);
        let (node, file, bytes) = (job.node.ip(), job.name, job.transfer.acknowledged_bytes());
        let resent = job.transfer.resent_blocks();
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.resent_blocks.fetch_add(resent, Ordering::Relaxed);
        match outcome {
            Some(Outcome::Complete) => {
                count(&self.counters.complete);
                self.files.sent(&file, *node);
                info!(%node, file, bytes, resent, "TFTP complete");
            }
            Some(Outcome::Probed) => {
                count(&self.counters.probed);
                debug!(%node, file, "TFTP size asked");
            }
            Some(Outcome::Aborted(code)) => {
                count(&self.counters.aborted);
                info!(%node, file, bytes, code, "TFTP ended by the node");
            }
            Some(Outcome::TimedOut) => {
                count(&self.counters.timed_out);
                // Who never answered may be nobody at all: not worth a line of the operator's.
                if job.transfer.is_proven() {
                    warn!(%node, file, bytes, resent, "TFTP stopped: the node fell silent");
                } else {
                    debug!(%node, file, "TFTP stopped: nobody answers");
                }
            }
            None => debug!(%node, file, bytes, "TFTP given up for another request"),
        }
    }
}
