//! The DHCP server's sockets, its clock and its way to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use dhcp_wire::{PACKET_BYTES_MAX, PXE_PORT, SERVER_PORT};
use store::{Commit, Expect, Store, Write};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::Moment;
use super::engine::{Action, Engine, Handled, Port, Reason, Reply, Settings};
use super::leases::LeaseRecord;
use crate::netboot::net;
use crate::netboot::policy::{BootPolicy, DhcpSeen, Program};
use crate::netboot::router::Booting;

/// Leases that wait for the store. Beyond it packets are dropped and nodes ask again: better than memory without end.
const STORE_QUEUE_MAX: usize = 4096;
/// Leases of one commit; the store's own bound is higher.
const COMMIT_LEASES_MAX: usize = 512;
/// Packets that wait to be told to the control plane.
const SEEN_QUEUE_MAX: usize = 1024;
/// Foreign servers that are remembered, so that each is reported once.
const FOREIGN_MAX: usize = 64;
/// Complaints of the same kind are repeated after this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The running DHCP server. Dropping it stops it.
pub(in crate::netboot) struct Dhcp {
    task: JoinHandle<()>,
    counters: Arc<DhcpCounters>,
}

/// What the server has done so far.
#[derive(Debug, Default)]
pub(in crate::netboot) struct DhcpCounters {
    /// Packets that came.
    pub(in crate::netboot) received: AtomicU64,
    /// Answers that left.
    pub(in crate::netboot) answered: AtomicU64,
    /// Packets without an answer, for whatever reason.
    pub(in crate::netboot) ignored: AtomicU64,
    /// Packets dropped because the store was too slow.
    pub(in crate::netboot) overloaded: AtomicU64,
}

impl Dhcp {
    /// Binds ports 67 and 4011 on `interface`, reads the leases and begins to answer; tells `booting` of every iPXE.
    pub(in crate::netboot) fn start(
        interface: &str,
        settings: Settings,
        policy: Arc<dyn BootPolicy>,
        store: Store,
        booting: Booting,
    ) -> anyhow::Result<Self> {
        let dhcp = net::bind_udp(interface, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT))?;
        let pxe = net::bind_udp(interface, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PXE_PORT))?;
        let mut engine = Engine::new(settings);
        restore(&mut engine, &store)?;

        let (stored, committed) = mpsc::channel(STORE_QUEUE_MAX);
        let (to_store, jobs) = sync_channel(STORE_QUEUE_MAX);
        let (to_policy, seen) = sync_channel::<DhcpSeen>(SEEN_QUEUE_MAX);
        thread("dhcp-leases", move || write_leases(&store, &jobs, &stored))?;
        thread("dhcp-seen", move || seen.iter().for_each(|seen| policy.saw_dhcp(&seen)))?;

        let counters = Arc::new(DhcpCounters::default());
        let driver = Driver {
            engine,
            dhcp,
            pxe,
            to_store,
            to_policy,
            booting,
            clock: Clock::start(),
            counters: Arc::clone(&counters),
            complaints: Complaints::default(),
        };
        Ok(Self { task: tokio::spawn(driver.run(committed)), counters })
    }

    /// What the server has done so far.
    pub(in crate::netboot) fn counters(&self) -> &Arc<DhcpCounters> {
        &self.counters
    }

    /// Stops and waits until the sockets are closed.
    pub(in crate::netboot) async fn shutdown(mut self) {
        self.task.abort();
        // Aborted is what we asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Dhcp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A lease to write, and what to send when it is on disk.
struct StoreJob {
    record: LeaseRecord,
    reply: Option<Reply>,
}

enum Input {
    Packet(Port, std::io::Result<(usize, SocketAddr)>),
    Committed(Reply),
}

struct Driver {
    engine: Engine,
    dhcp: UdpSocket,
    pxe: UdpSocket,
    to_store: SyncSender<StoreJob>,
    to_policy: SyncSender<DhcpSeen>,
    booting: Booting,
    clock: Clock,
    counters: Arc<DhcpCounters>,
    complaints: Complaints,
}

impl Driver {
    async fn run(mut self, mut committed: mpsc::Receiver<Reply>) {
        let (mut dhcp_buffer, mut pxe_buffer) = (vec![0; PACKET_BYTES_MAX], vec![0; PACKET_BYTES_MAX]);
        loop {
            let input = tokio::select! {
                received = self.dhcp.recv_from(&mut dhcp_buffer) => Input::Packet(Port::Dhcp, received),
                received = self.pxe.recv_from(&mut pxe_buffer) => Input::Packet(Port::Pxe, received),
                Some(reply) = committed.recv() => Input::Committed(reply),
            };
            match input {
                Input::Committed(reply) => self.send(&reply).await,
                Input::Packet(port, Ok((len, SocketAddr::V4(source)))) => {
                    let buffer = if port == Port::Dhcp { &dhcp_buffer } else { &pxe_buffer };
                    let handled =
                        self.engine.handle(self.clock.now(), port, source, buffer.get(..len).unwrap_or(&[]));
                    self.counters.received.fetch_add(1, Ordering::Relaxed);
                    self.act(handled).await;
                }
                Input::Packet(_, Ok((_, SocketAddr::V6(_)))) => {}
                Input::Packet(port, Err(error)) => {
                    // Such as an interface that is down: nothing comes until it is up again.
                    self.complaints.say("receive", || warn!(?port, %error, "receiving DHCP failed"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn act(&mut self, handled: Handled) {
        if let Some(seen) = handled.seen {
            tell(&seen, &handled.action);
            if seen.program == Program::Ipxe {
                self.booting.note(Instant::now(), seen.mac);
            }
            // Full or gone: best effort, as the contract says.
            let _ = self.to_policy.try_send(seen);
        }
        match handled.action {
            Action::Ignore(reason) => {
                self.counters.ignored.fetch_add(1, Ordering::Relaxed);
                self.complaints.about(&reason);
            }
            Action::Send(reply) => self.send(&reply).await,
            Action::Store { record, reply } => match self.to_store.try_send(StoreJob { record, reply }) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    self.counters.overloaded.fetch_add(1, Ordering::Relaxed);
                    self.complaints.say("overload", || {
                        warn!("the store is too slow for the leases; nodes will ask again")
                    });
                }
            },
        }
    }

    async fn send(&mut self, reply: &Reply) {
        let socket = if reply.from == Port::Dhcp { &self.dhcp } else { &self.pxe };
        match socket.send_to(&reply.bytes, reply.to).await {
            Ok(_) => {
                self.counters.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.complaints.say("send", || warn!(to = %reply.to, %error, "sending a DHCP answer failed"));
            }
        }
    }
}

fn tell(seen: &DhcpSeen, action: &Action) {
    let DhcpSeen { mac, program, uuid, vendor_class, address } = seen;
    debug!(node = %mac, ?uuid, ?vendor_class, "DHCP packet answered");
    match (action, program) {
        (Action::Store { .. }, Program::System) => debug!(node = %mac, %address, ?program, "lease"),
        (Action::Store { .. }, _) => info!(node = %mac, %address, ?program, "lease"),
        _ => debug!(node = %mac, %address, ?program, "offer"),
    }
}

/// Reads the store's leases into the engine.
fn restore(engine: &mut Engine, store: &Store) -> anyhow::Result<()> {
    let all = store.list(LeaseRecord::KEYS).context("reading the leases from the store")?;
    let (mut kept, mut left) = (0_usize, 0_usize);
    for (key, stored) in all {
        match LeaseRecord::read(&key, &stored.value) {
            Some(record) if engine.restore(&record) => kept += 1,
            Some(_) | None => left += 1,
        }
    }
    if left > 0 {
        warn!(left, "leases of the store that are in no pool now are left alone");
    }
    debug!(kept, "leases restored");
    Ok(())
}

/// Writes what waits in one commit, so that a storm of nodes shares one sync; then lets the answers go.
fn write_leases(store: &Store, jobs: &Receiver<StoreJob>, stored: &mpsc::Sender<Reply>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        batch.extend(jobs.try_iter().take(COMMIT_LEASES_MAX - 1));
        // One write per address; the last one is the truth.
        let writes: BTreeMap<String, Vec<u8>> =
            batch.iter().map(|job| (job.record.key(), job.record.value())).collect();
        let writes: Vec<Write> =
            writes.into_iter().map(|(key, value)| Write::put(key, Expect::Anything, value)).collect();
        match store.commit(&writes) {
            Ok(Commit::Done { .. }) => {
                for reply in batch.into_iter().filter_map(|job| job.reply) {
                    if stored.blocking_send(reply).is_err() {
                        return;
                    }
                }
            }
            Ok(Commit::Conflict { key }) => warn!(key, "a lease was not stored and is not acknowledged"),
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "leases were not stored and are not acknowledged"
                );
            }
        }
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).context("starting a thread for DHCP")?;
    Ok(())
}

/// Wall-clock time read once, then counted on by a clock that cannot jump.
struct Clock {
    began: Moment,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { began: Moment(0).after(since_1970), started: Instant::now() }
    }

    fn now(&self) -> Moment {
        self.began.after(self.started.elapsed())
    }
}

/// Says things worth telling the operator without repeating them for every packet.
#[derive(Default)]
struct Complaints {
    said: BTreeMap<&'static str, Instant>,
    foreign: BTreeSet<Ipv4Addr>,
}

impl Complaints {
    fn about(&mut self, reason: &Reason) {
        match reason {
            Reason::OtherServer(server) => {
                if self.foreign.len() < FOREIGN_MAX && self.foreign.insert(*server) {
                    warn!(%server, "another DHCP server answers on this network and nodes choose it; they may not boot");
                }
            }
            Reason::PoolExhausted => {
                self.say("pool", || warn!("no address is free: enlarge the pool or shorten the leases"))
            }
            Reason::UnknownRelay(relay) => {
                self.say("relay", || warn!(%relay, "a relay of a network without a pool asks for its nodes"));
            }
            Reason::Encode(error) => {
                self.say("encode", || {
                    warn!(error = error as &dyn std::error::Error, "a DHCP answer is impossible")
                });
            }
            Reason::Malformed(_) | Reason::NotFromNode | Reason::TooMany | Reason::NothingToSay => {
                debug!(%reason, "DHCP packet ignored");
            }
        }
    }

    fn say(&mut self, what: &'static str, log: impl FnOnce()) {
        let now = Instant::now();
        if self.said.get(what).is_none_or(|last| now.duration_since(*last) >= COMPLAIN_EVERY) {
            self.said.insert(what, now);
            log();
        }
    }
}
