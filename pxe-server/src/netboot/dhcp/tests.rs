//! Real clients, other servers and strangers on a cable between two namespaces.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dhcp_engine::{LeaseRecord, Moment, Reservation};
use dhcp_wire::{Answer, Asker, MacAddr, Message, MessageKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use site_file::{DhcpConfig, DhcpMode, Network};
use store::Store;

use crate::netboot::tests::{NodeSpace, in_a_namespace, run, start_with};
use crate::netboot::{Netboot, NetbootCounts};

/// Long enough for every client's own lower bound (dhcpcd has 20 s), short enough to wait for.
const LEASE: Duration = Duration::from_secs(24);
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on its end of the cable.
struct World {
    space: Arc<NodeSpace>,
    directory: tempfile::TempDir,
    store: Store,
    netboot: Netboot,
}

impl World {
    async fn new(dhcp: DhcpConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["vmlinuz", "initrd.img", "snponly.efi"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let space = Arc::new(NodeSpace::new());
        let store = Store::open(&format!("sqlite:{}", directory.path().join("db").display())).unwrap();
        let netboot = start_with(directory.path(), &store, dhcp).await.unwrap();
        Self { space, directory, store, netboot }
    }

    /// The one lease of the store.
    fn lease(&self) -> Option<LeaseRecord> {
        let all = self.store.list(LeaseRecord::KEYS).unwrap();
        all.first().and_then(|(key, stored)| LeaseRecord::read(key, &stored.value))
    }

    async fn lease_that(&self, what: &str, holds: impl Fn(&LeaseRecord) -> bool) -> LeaseRecord {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(lease) = self.lease().filter(&holds) {
                return lease;
            }
            assert!(Instant::now() < end, "no lease {what}: {:?}", self.lease());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn counts_that(&self, what: &str, hold: impl Fn(&NetbootCounts) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !hold(&self.netboot.counts()) {
            assert!(Instant::now() < end, "{what}: {:?}", self.netboot.counts());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether packets that the node sends to the server alone are lost.
    fn lose_unicast(&self, lose: bool) {
        let rules = if lose {
            "add table ip lost; add chain ip lost output { type filter hook output priority 0; }; \
             add rule ip lost output ip daddr 10.77.0.1 udp dport 67 drop"
        } else {
            "delete table ip lost"
        };
        run(self.space.command("nft").arg(rules));
    }

    /// Runs `body` in the node's namespace while the server answers.
    async fn on_the_node<T: Send + 'static>(&self, body: impl FnOnce(&Stranger) -> T + Send + 'static) -> T {
        let space = Arc::clone(&self.space);
        let inside = move || space.inside(|| body(&Stranger::new()));
        tokio::task::spawn_blocking(inside).await.unwrap()
    }
}

/// A DHCP client of a distribution, in the foreground.
struct Client {
    child: Child,
    /// What makes it renew at once, if it does not by itself while the lease is young.
    renew: Option<Signal>,
    /// What makes it give its address back.
    release: Signal,
}

impl Client {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It takes its helpers along, so it is not killed.
            self.signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// A script that gives the node its address and touches nothing else.
fn script(directory: &Path, text: &str) -> String {
    let path = directory.join("client.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    run(Command::new("chmod").arg("+x").arg(&path));
    path.display().to_string()
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn udhcpc(world: &World) -> Client {
    let script = script(
        world.directory.path(),
        "case $1 in bound|renew) ip address replace $ip/$mask dev $interface;; esac",
    );
    let mut command = world.space.command("busybox");
    let child = spawn(command.args(["udhcpc", "-f", "-i", "node0", "-s", &script]));
    Client { child, renew: Some(Signal::SIGUSR1), release: Signal::SIGUSR2 }
}

fn dhclient(world: &World) -> Client {
    let script = script(
        world.directory.path(),
        "[ -z \"$new_ip_address\" ] || ip address replace $new_ip_address/24 dev $interface",
    );
    let path = |name: &str| world.directory.path().join(name).display().to_string();
    let (leases, pid, config) = (path("leases"), path("pid"), path("dhclient.conf"));
    std::fs::write(&config, "").unwrap();
    std::fs::write(&leases, "").unwrap();
    let mut command = world.space.command("dhclient");
    command.args(["-4", "-d", "-sf", &script, "-lf", &leases, "-pf", &pid, "-cf", &config, "node0"]);
    Client { child: spawn(&mut command), renew: None, release: Signal::SIGKILL }
}

fn dhcpcd(world: &World) -> Client {
    let script = script(world.directory.path(), "exit 0");
    // Its files are in a place of its own, since other tests and this machine may run one too.
    let places = "mount -t tmpfs tmpfs /var/lib/dhcpcd && mount -t tmpfs tmpfs /run && exec \"$@\"";
    let mut command = world.space.command("unshare");
    command.args(["--mount", "sh", "-c", places, "sh", "dhcpcd", "-4", "-B", "-f", "/dev/null"]);
    command.args(["--noarp", "--noipv4ll", "-c", &script, "node0"]);
    Client { child: spawn(&mut command), renew: None, release: Signal::SIGALRM }
}

/// Gets, renews, rebinds and releases one address.
async fn life_of_a_lease(start: fn(&World) -> Client) {
    let link = Network { lease: LEASE, ..Network::default() };
    let world = World::new(DhcpConfig { link, ..DhcpConfig::default() }).await;
    let mut client = start(&world);
    let got = world.lease_that("is got", |_| true).await;
    world.space.has_address(got.address).await;

    if let Some(renew) = client.renew {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.signal(renew);
    }
    let renewed = world.lease_that("is renewed", |lease| lease.until > got.until).await;
    assert_eq!((renewed.address, renewed.mac), (got.address, got.mac));

    world.lose_unicast(true);
    let rebound = world.lease_that("is rebound", |lease| lease.until > renewed.until).await;
    assert_eq!((rebound.address, rebound.mac), (got.address, got.mac));
    world.lose_unicast(false);

    if client.release == Signal::SIGKILL {
        release_by_dhclient(&world, &mut client);
    } else {
        client.signal(client.release);
    }
    let released = world.lease_that("is released", |lease| lease.until <= now()).await;
    assert_eq!((released.address, released.quarantined), (got.address, false));
    world.netboot.shutdown().await;
}

/// It releases by a second process, which stops the first.
fn release_by_dhclient(world: &World, client: &mut Client) {
    let path = |name: &str| world.directory.path().join(name).display().to_string();
    let mut command = world.space.command("dhclient");
    command.args(["-4", "-r", "-sf", &path("client.sh"), "-lf", &path("leases"), "-pf", &path("pid")]);
    run(command.args(["-cf", &path("dhclient.conf"), "node0"]));
    let _ = client.child.try_wait();
}

fn now() -> Moment {
    Moment(0).after(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap())
}

fn slow_are_skipped() -> bool {
    let skipped = std::env::var_os("ESIR_SKIP_SLOW").is_some();
    if skipped {
        println!("skipped: ESIR_SKIP_SLOW is set");
    }
    skipped
}

#[test]
fn udhcpc_gets_renews_rebinds_and_releases() {
    if !slow_are_skipped() {
        in_a_namespace(&["busybox", "nft"], || life_of_a_lease(udhcpc));
    }
}

#[test]
fn dhclient_gets_renews_rebinds_and_releases() {
    if !slow_are_skipped() {
        in_a_namespace(&["dhclient", "nft"], || life_of_a_lease(dhclient));
    }
}

#[test]
fn dhcpcd_gets_renews_rebinds_and_releases() {
    if !slow_are_skipped() {
        in_a_namespace(&["dhcpcd", "nft"], || life_of_a_lease(dhcpcd));
    }
}

/// A socket in the node's namespace that says what it likes.
pub(crate) struct Stranger(UdpSocket);

impl Stranger {
    pub(crate) fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.bind_device(Some(b"node0")).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Self(socket.into())
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        self.0.send_to(packet, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67)).unwrap();
    }

    pub(crate) fn answer(&self, asker: &Asker<'_>) -> Option<Answer> {
        let mut buffer = [0; 2048];
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let len = self.0.recv(&mut buffer).ok()?;
            if let Ok(answer) = asker.read(&buffer[..len]) {
                return Some(answer);
            }
        }
        None
    }

    /// DISCOVER, OFFER, REQUEST, ACK.
    pub(crate) fn dora(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        let asker = Asker { mac, xid: 0x77, secs: 0, vendor_class: "test" };
        self.send(&asker.discover(None).unwrap());
        let Some(Answer::Offer(offer)) = self.answer(&asker) else { return None };
        self.send(&asker.request(&offer).unwrap());
        match self.answer(&asker) {
            Some(Answer::Ack(lease)) => Some(lease.address),
            _ => None,
        }
    }
}

fn made_up(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 0xbb, a, b, c, d])
}

const RESERVED: (MacAddr, Ipv4Addr) = (MacAddr([0x52, 0x54, 0, 0, 0, 7]), Ipv4Addr::new(10, 77, 0, 7));

async fn flood_and_rubbish() {
    let (mac, address) = RESERVED;
    let link = Network {
        pools: vec![Ipv4Addr::new(10, 77, 0, 100)..=Ipv4Addr::new(10, 77, 0, 119)],
        ..Network::default()
    };
    let reservations = vec![Reservation { mac, address }];
    let world = World::new(DhcpConfig { link, reservations, ..DhcpConfig::default() }).await;
    world
        .on_the_node(|node| {
            for number in 0..3000 {
                let discover = Message::from_node(MessageKind::Discover, made_up(number), number);
                node.send(&discover.encode().unwrap());
            }
        })
        .await;
    // The pool is on offer to those who do not exist, and the reserved node gets what is its own.
    assert_eq!(world.on_the_node(move |node| node.dora(mac)).await, Some(address));
    assert_eq!(world.store.list(LeaseRecord::KEYS).unwrap().len(), 1, "nothing is stored for a question");

    world.counts_that("the flood is read", |counts| counts.dhcp_received >= 3000).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answered = world.netboot.counts().dhcp_answered;
    let rubbish = world.on_the_node(move |node| {
        let whole = Message::from_node(MessageKind::Discover, made_up(1_000_000), 1).encode().unwrap();
        for len in (0..240).step_by(7) {
            node.send(&whole[..len]);
        }
        for (at, value) in [(0, 2), (0, 9), (1, 7), (2, 255), (2, 0), (28, 0xff), (236, 0)] {
            let mut bad = whole.clone();
            bad[at] = value;
            node.send(&bad);
        }
        node.send(&vec![0xff; 1400]);
    });
    rubbish.await;
    world.counts_that("rubbish is read", |counts| counts.dhcp_received >= 3000 + 2 + 30).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.netboot.counts().dhcp_answered, answered, "rubbish is answered");
    assert_eq!(world.on_the_node(move |node| node.dora(mac)).await, Some(address));
    world.netboot.shutdown().await;
}

#[test]
fn flood_of_made_up_nodes_and_rubbish_stop_no_reserved_node() {
    in_a_namespace(&[], flood_and_rubbish);
}

async fn squatted_pool() {
    let link = Network {
        pools: vec![Ipv4Addr::new(10, 77, 0, 200)..=Ipv4Addr::new(10, 77, 0, 202)],
        ..Network::default()
    };
    let world = World::new(DhcpConfig { link, ..DhcpConfig::default() }).await;
    for last in [200, 202] {
        let address = format!("10.77.0.{last}/24");
        run(world.space.command("ip").args(["address", "add", &address, "dev", "node0"]));
    }
    let got = world.on_the_node(|node| (0..8).find_map(|_| node.dora(made_up(1)))).await;
    assert_eq!(got, Some(Ipv4Addr::new(10, 77, 0, 201)), "the only one that nobody uses");
    world.netboot.shutdown().await;
}

#[test]
fn address_that_somebody_uses_without_asking_is_not_offered() {
    in_a_namespace(&[], squatted_pool);
}

/// The node's end of the cable has dnsmasq, which gives addresses of its own.
async fn beside_dnsmasq(mode: DhcpMode) {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(DhcpConfig { mode, ..DhcpConfig::default() }).await;
    world.netboot.shutdown().await;
    run(world.space.command("ip").args(["address", "add", "10.77.0.2/24", "dev", "node0"]));
    let leases = format!("--dhcp-leasefile={}", directory.path().join("leases").display());
    let mut command = world.space.command("dnsmasq");
    command.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=node0", "--user=root"]);
    command.args([
        "--pid-file=",
        "--dhcp-authoritative",
        "--dhcp-range=10.77.0.10,10.77.0.50",
        "--no-ping",
        &leases,
    ]);
    let dnsmasq = Client { child: spawn(&mut command), renew: None, release: Signal::SIGTERM };
    tokio::time::sleep(Duration::from_secs(1)).await;

    let dhcp = DhcpConfig { mode, ..DhcpConfig::default() };
    let netboot = start_with(world.directory.path(), &world.store, dhcp).await.unwrap();
    let world = World { netboot, ..world };
    world.counts_that("the other server is found", |counts| counts.dhcp_other_servers == 1).await;
    drop(dnsmasq);
    world.netboot.shutdown().await;
}

#[test]
fn another_dhcp_server_is_found_by_itself() {
    in_a_namespace(&["dnsmasq"], || beside_dnsmasq(DhcpMode::Dhcp));
}

#[test]
fn server_of_the_addresses_is_found_in_proxy_mode() {
    in_a_namespace(&["dnsmasq"], || beside_dnsmasq(DhcpMode::Proxy));
}
