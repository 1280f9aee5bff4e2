//! The DHCP server's sockets: one loop that hands each packet to the engine and does what it says.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dhcp_engine::{Action, Datagram, Engine, Handled, Hint, Mode, Port, Program, Reply, Seen, Settings};
use dhcp_wire::{MacAddr, Message, MessageKind, PACKET_BYTES_MAX, PXE_PORT, SERVER_PORT};
use store::Store;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::arp::{self, ArpSocket};
use super::clock::Clock;
use super::complaints::Complaints;
use super::config::pools_text;
use super::leases::{StoreJob, restore, write_leases};
use crate::netboot::net;
use crate::netboot::policy::BootPolicy;
use crate::netboot::router::Booting;

/// Leases that wait for the store. Beyond it packets are dropped and nodes ask again: better than memory without end.
const STORE_QUEUE_MAX: usize = 4096;
/// Commits whose answers wait to be sent.
const COMMITTED_QUEUE_MAX: usize = 16;
/// Packets that wait to be told to the control plane.
const SEEN_QUEUE_MAX: usize = 1024;
/// Settings that wait to be taken; more than one is a person who is very quick.
const CHANGES_MAX: usize = 4;
/// How often other servers are looked for, and how long their answers are waited for, in ticks.
const LOOK_TICK: Duration = Duration::from_secs(5);
const LOOK_EVERY_TICKS: u64 = 120;
const LOOK_WAIT_TICKS: u64 = 2;

/// The running DHCP server. Dropping it stops it.
pub(in crate::netboot) struct Dhcp {
    task: JoinHandle<()>,
    counters: Arc<DhcpCounters>,
    changes: mpsc::Sender<Settings>,
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
    /// New addresses that somebody else was found to use.
    pub(in crate::netboot) conflicts: AtomicU64,
    /// Other DHCP servers that were heard of.
    pub(in crate::netboot) other_servers: AtomicU64,
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
        let (arp, settings) = open_arp(interface, settings);
        let (server, own_mac, mode) = (settings.server, settings.own_mac, settings.mode);
        let mut engine = Engine::new(settings);
        restore(&mut engine, &store, &|mac| policy.hint(mac))?;

        let (stored, committed) = mpsc::channel(COMMITTED_QUEUE_MAX);
        let (changes, changed) = mpsc::channel(CHANGES_MAX);
        let (to_store, jobs) = sync_channel(STORE_QUEUE_MAX);
        let (to_policy, seen) = sync_channel::<Seen>(SEEN_QUEUE_MAX);
        thread("dhcp-leases", move || write_leases(&store, &jobs, &stored))?;
        let told = Arc::clone(&policy);
        thread("dhcp-seen", move || seen.iter().for_each(|seen| told.saw_dhcp(&seen)))?;

        let counters = Arc::new(DhcpCounters::default());
        let driver = Driver {
            engine,
            dhcp,
            pxe,
            arp,
            to_store,
            to_policy,
            policy,
            booting,
            clock: Clock::start(),
            counters: Arc::clone(&counters),
            complaints: Complaints::new(mode),
            look: Look { server, own_mac, is_proxy: mode == Mode::Proxy, ticks: 0 },
        };
        Ok(Self { task: tokio::spawn(driver.run(committed, changed)), counters, changes })
    }

    /// Where other settings are handed in; mode, server and probing stay what they were.
    pub(in crate::netboot) fn changes(&self) -> mpsc::Sender<Settings> {
        self.changes.clone()
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

/// Without a way to ask the link, addresses are given unprobed: RFC 2131 section 2.2 wants it only where it can be.
fn open_arp(interface: &str, mut settings: Settings) -> (Option<ArpSocket>, Settings) {
    if !settings.probe {
        return (None, settings);
    }
    let opened =
        arp::nic(interface).context("finding the interface's hardware address").and_then(ArpSocket::open);
    match opened {
        Ok(arp) => (Some(arp), settings),
        Err(error) => {
            info!("new addresses are not probed before they are offered: {error:#}");
            settings.probe = false;
            (None, settings)
        }
    }
}

enum Input {
    Packet(Port, std::io::Result<(usize, SocketAddr)>),
    Arp(std::io::Result<(Ipv4Addr, MacAddr)>),
    Committed(Vec<Reply>),
    Changed(Settings),
    Timeout,
    Tick,
}

struct Driver {
    engine: Engine,
    dhcp: UdpSocket,
    pxe: UdpSocket,
    arp: Option<ArpSocket>,
    to_store: SyncSender<StoreJob>,
    to_policy: SyncSender<Seen>,
    policy: Arc<dyn BootPolicy>,
    booting: Booting,
    clock: Clock,
    counters: Arc<DhcpCounters>,
    complaints: Complaints,
    look: Look,
}

/// The search for other DHCP servers.
struct Look {
    server: Ipv4Addr,
    own_mac: Option<MacAddr>,
    is_proxy: bool,
    ticks: u64,
}

impl Driver {
    async fn run(mut self, mut committed: mpsc::Receiver<Vec<Reply>>, mut changed: mpsc::Receiver<Settings>) {
        let (mut dhcp_buffer, mut pxe_buffer) = (vec![0; PACKET_BYTES_MAX], vec![0; PACKET_BYTES_MAX]);
        let mut ticks = interval(LOOK_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let buffers = (&mut dhcp_buffer[..], &mut pxe_buffer[..]);
            match self.next(buffers, (&mut committed, &mut changed), &mut ticks).await {
                Input::Changed(settings) => self.change(settings),
                Input::Committed(replies) => {
                    for reply in replies {
                        self.send(&reply).await;
                    }
                }
                Input::Packet(port, Ok((len, SocketAddr::V4(source)))) => {
                    let buffer = if port == Port::Dhcp { &dhcp_buffer } else { &pxe_buffer };
                    let bytes = buffer.get(..len).unwrap_or(&[]);
                    let policy = Arc::clone(&self.policy);
                    let hint = |mac| policy.hint(mac);
                    let handled =
                        self.engine.handle(self.clock.now(), &hint, Datagram { port, source, bytes });
                    self.counters.received.fetch_add(1, Ordering::Relaxed);
                    self.handled(handled).await;
                }
                Input::Packet(_, Ok((_, SocketAddr::V6(_)))) => {}
                Input::Packet(port, Err(error)) => {
                    // Such as an interface that is down: nothing comes until it is up again.
                    self.complaints.say("receive", || warn!(?port, %error, "receiving DHCP failed"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Input::Arp(Ok((address, mac))) => self.heard(address, mac).await,
                Input::Arp(Err(error)) => {
                    self.complaints.say("arp", || warn!(%error, "receiving ARP failed"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Input::Timeout => {
                    let policy = Arc::clone(&self.policy);
                    let hint = |mac: MacAddr| -> Hint { policy.hint(mac) };
                    while let Some(reply) = self.engine.handle_timeout(self.clock.now(), &hint) {
                        self.send(&reply).await;
                    }
                }
                Input::Tick => self.look().await,
            }
        }
    }

    async fn next(
        &self,
        (dhcp_buffer, pxe_buffer): (&mut [u8], &mut [u8]),
        (committed, changed): (&mut mpsc::Receiver<Vec<Reply>>, &mut mpsc::Receiver<Settings>),
        ticks: &mut Interval,
    ) -> Input {
        let wait = self.engine.poll_timeout().map(|end| self.clock.now().until(end));
        let timeout = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let arp = async {
            match &self.arp {
                Some(arp) => arp.hear().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = self.dhcp.recv_from(dhcp_buffer) => Input::Packet(Port::Dhcp, received),
            received = self.pxe.recv_from(pxe_buffer) => Input::Packet(Port::Pxe, received),
            Some(replies) = committed.recv() => Input::Committed(replies),
            Some(settings) = changed.recv() => Input::Changed(settings),
            heard = arp => Input::Arp(heard),
            () = timeout => Input::Timeout,
            _ = ticks.tick() => Input::Tick,
        }
    }

    fn change(&mut self, settings: Settings) {
        let settings = Settings { probe: settings.probe && self.arp.is_some(), ..settings };
        let pools = pools_text(&settings);
        let left = self.engine.reconfigure(self.clock.now(), settings);
        info!(pools, "giving addresses by the new settings; leases go on");
        if left > 0 {
            warn!(
                left,
                "leases of addresses that are in no pool now end by themselves, and are known again should the pool come back"
            );
        }
    }

    async fn handled(&mut self, handled: Handled) {
        if let Some(seen) = handled.seen {
            tell(&seen, &handled.action);
            if seen.program == Program::Ipxe {
                self.booting.note(Instant::now(), seen.mac);
            }
            // Full or gone: best effort, as the contract says.
            let _ = self.to_policy.try_send(seen);
        }
        self.act(handled.action).await;
    }

    async fn heard(&mut self, address: Ipv4Addr, mac: MacAddr) {
        let policy = Arc::clone(&self.policy);
        let hint = |mac: MacAddr| -> Hint { policy.hint(mac) };
        let Some(action) = self.engine.hear_arp(self.clock.now(), &hint, address, mac) else { return };
        self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        self.complaints.say("conflict", || {
            warn!(%address, user = %mac, "an address of the pool is in use by a machine that did not get it from here");
        });
        self.act(action).await;
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Ignore(reason) => {
                self.counters.ignored.fetch_add(1, Ordering::Relaxed);
                self.complaints.about(&reason);
                let servers = u64::try_from(self.complaints.servers()).unwrap_or(u64::MAX);
                self.counters.other_servers.store(servers, Ordering::Relaxed);
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
            Action::Probe(address) => {
                let Some(arp) = &self.arp else { return };
                if let Err(error) = arp.ask(address).await {
                    // Nobody will answer, so the offer leaves when its time is over.
                    self.complaints.say("probe", || warn!(%address, %error, "probing an address failed"));
                }
            }
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

    /// Asks the network for an address as if we were a relay, so that answers come to port 67: whoever answers is
    /// another server, and in mode `proxy` somebody has to.
    async fn look(&mut self) {
        let since = self.look.ticks % LOOK_EVERY_TICKS;
        self.look.ticks = self.look.ticks.saturating_add(1);
        let Some(mac) = self.look.own_mac else { return };
        if since == 0 {
            let mut question = Message::from_node(MessageKind::Discover, mac, number(self.look.ticks));
            let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
            if let Ok(bytes) = question.set_giaddr(self.look.server).encode()
                && let Err(error) = self.dhcp.send_to(&bytes, to).await
            {
                debug!(%error, "looking for other DHCP servers failed");
            }
        } else if since == LOOK_WAIT_TICKS && self.look.is_proxy && self.complaints.servers() == 0 {
            warn!(
                "no DHCP server answers on this network: with dhcp.mode = \"proxy\" another one must give the \
                 addresses; start it, or remove the mode"
            );
        }
    }
}

/// A transaction number; answers are told apart by their server, so it need not be secret.
fn number(ticks: u64) -> u32 {
    u32::try_from(ticks & 0xffff_ffff).unwrap_or(0)
}

fn tell(seen: &Seen, action: &Action) {
    let Seen { mac, program, uuid, vendor_class, relay, address, refused } = seen;
    if let Some(refused) = refused {
        debug!(node = %mac, ?refused, "asks again after it fetched that");
    }
    debug!(node = %mac, ?uuid, ?vendor_class, ?relay, "DHCP packet answered");
    match (action, program) {
        (Action::Store { .. }, Program::System) => debug!(node = %mac, %address, ?program, "lease"),
        (Action::Store { .. }, _) => info!(node = %mac, %address, ?program, "lease"),
        _ => debug!(node = %mac, %address, ?program, "offer"),
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).context("starting a thread for DHCP")?;
    Ok(())
}
