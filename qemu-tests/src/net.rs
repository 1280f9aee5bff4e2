//! A network of its own for each lab: namespace, bridge, taps, and a way in from the machine's loopback.
//!
//! Never changes an address, route or link of the machine itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::command::run;
use crate::session::Session;

/// The server's address in every lab.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The lab's subnet.
pub const PREFIX: u8 = 24;
/// The bridge that carries the server's address and all taps.
pub const BRIDGE: &str = "br0";
/// A namespace's end of the cable to another one.
const UPLINK: &str = "up0";
/// Connections through one forwarder at a time: a browser opens six, a handful of people look on.
const FORWARDED_MAX: usize = 64;
/// Waiting for a service in the namespace to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One namespace with one bridge.
#[derive(Debug)]
pub struct Network {
    namespace: String,
    taps: AtomicU32,
}

impl Network {
    /// Makes the namespace, its loopback and a bridge with the server's address.
    ///
    /// # Errors
    /// Not root, or iproute2 is missing.
    pub fn new(session: &Session) -> Result<Self> {
        Self::make(session, session.name().to_owned(), SERVER_ADDRESS)
    }

    fn make(session: &Session, namespace: String, address: Ipv4Addr) -> Result<Self> {
        session.owns_namespace(&namespace)?;
        run(Command::new("ip").args(["netns", "add", &namespace]))?;
        let network = Self { namespace, taps: AtomicU32::new(0) };
        network.ip(&["link", "set", "lo", "up"])?;
        // No forward delay: a firmware gives up on DHCP while a bridge port is still learning.
        network.ip(&[
            "link",
            "add",
            BRIDGE,
            "type",
            "bridge",
            "forward_delay",
            "0",
            "mcast_snooping",
            "0",
        ])?;
        network.ip(&["address", "add", &format!("{address}/{PREFIX}"), "dev", BRIDGE])?;
        network.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(network)
    }

    /// Makes another namespace on the same Ethernet, with this address.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn beside(&self, session: &Session, name: &str, address: Ipv4Addr) -> Result<Self> {
        let other = self.joined(session, name, address)?;
        other.ip(&["link", "set", UPLINK, "master", BRIDGE])?;
        Ok(other)
    }

    /// Makes a router with `uplink` on this Ethernet, and on its bridge another network with `inside`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn behind_router(
        &self,
        session: &Session,
        name: &str,
        (uplink, inside): (Ipv4Addr, Ipv4Addr),
    ) -> Result<Self> {
        let other = self.joined(session, name, inside)?;
        other.ip(&["address", "add", &format!("{uplink}/{PREFIX}"), "dev", UPLINK])?;
        run(other.command("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))?;
        self.ip(&["route", "add", &format!("{}/{PREFIX}", network_of(inside)), "via", &uplink.to_string()])?;
        Ok(other)
    }

    /// A namespace with a bridge of its own and a cable to this one's bridge.
    fn joined(&self, session: &Session, name: &str, address: Ipv4Addr) -> Result<Self> {
        let other = Self::make(session, format!("{}-{name}", self.namespace), address)?;
        let port = format!("to-{name}");
        let cable = ["link", "add", &port, "type", "veth", "peer", "name", UPLINK];
        self.ip(&[&cable[..], &["netns", &other.namespace]].concat())?;
        self.ip(&["link", "set", &port, "master", BRIDGE])?;
        self.ip(&["link", "set", &port, "up"])?;
        other.ip(&["link", "set", UPLINK, "up"])?;
        Ok(other)
    }

    /// From now on no packet for this UDP port reaches the server.
    ///
    /// # Errors
    /// nftables are missing.
    pub fn drop_udp_to(&self, port: u16) -> Result<()> {
        let rules = format!(
            "add table inet lab; add chain inet lab input {{ type filter hook input priority 0; }}; \
             add rule inet lab input udp dport {port} drop"
        );
        self.nft(&rules)
    }

    /// Runs commands of nftables in the namespace.
    ///
    /// # Errors
    /// nftables are missing or refuse them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        run(self.command("nft").arg(rules))
    }

    /// The namespace's name, for `ip netns exec`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Adds a tap to the bridge and returns its name.
    ///
    /// # Errors
    /// The kernel has no tun device.
    pub fn add_tap(&self) -> Result<String> {
        let name = format!("tap{}", self.taps.fetch_add(1, Ordering::Relaxed));
        self.ip(&["tuntap", "add", "dev", &name, "mode", "tap"])?;
        self.ip(&["link", "set", &name, "master", BRIDGE])?;
        self.ip(&["link", "set", &name, "up"])?;
        Ok(name)
    }

    /// Limits what the server sends; nodes still talk to each other at full speed.
    ///
    /// # Errors
    /// The kernel has no token bucket filter.
    pub fn limit_server_mbit_s(&self, mbit_s: u32) -> Result<()> {
        self.limit_mbit_s(BRIDGE, mbit_s)
    }

    /// Gives the server's port and every port that a machine has by now a rate, towards the machine.
    ///
    /// # Errors
    /// The kernel has no token bucket filter.
    pub fn limit_links_mbit_s(&self, mbit_s: u32) -> Result<()> {
        self.limit_mbit_s(BRIDGE, mbit_s)?;
        (0..self.taps.load(Ordering::Relaxed))
            .try_for_each(|tap| self.limit_mbit_s(&format!("tap{tap}"), mbit_s))
    }

    fn limit_mbit_s(&self, device: &str, mbit_s: u32) -> Result<()> {
        let rate = format!("{mbit_s}mbit");
        let shape = ["qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate];
        let bucket = ["burst", "128kb", "latency", "200ms"];
        run(Command::new("tc").args(["-n", &self.namespace]).args(shape).args(bucket))
    }

    /// Takes the limit away.
    ///
    /// # Errors
    /// There was none.
    pub fn unlimit_server(&self) -> Result<()> {
        run(Command::new("tc").args(["-n", &self.namespace, "qdisc", "del", "dev", BRIDGE, "root"]))
    }

    /// A command that runs inside the namespace; `ip` replaces itself, so the process id is the program's own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Passes TCP connections from `127.0.0.1:port` of the machine (0: any free one) to `inside`, an address in
    /// the namespace. Ends with the process.
    ///
    /// # Errors
    /// The port is taken.
    pub fn forward(&self, port: u16, inside: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("listening on 127.0.0.1:{port}"))?;
        let outside = listener.local_addr()?;
        let path = format!("/run/netns/{}", self.namespace);
        let namespace = File::open(&path).with_context(|| format!("opening {path}"))?;
        thread::Builder::new().name("forward".into()).spawn(move || {
            // Sockets made from here on belong to the namespace; the listener keeps its own.
            match setns(&namespace, CloneFlags::CLONE_NEWNET) {
                Ok(()) => accept_for_ever(&listener, inside),
                Err(error) => eprintln!("qemu-tests: entering {path}: {error}"),
            }
        })?;
        Ok(outside)
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.namespace]).args(arguments))
    }
}

/// The network that an address with [`PREFIX`] is in.
fn network_of(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - u32::from(PREFIX))))
}

fn accept_for_ever(listener: &TcpListener, inside: SocketAddr) {
    let open = Arc::new(AtomicUsize::new(0));
    for outer in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::Relaxed) >= FORWARDED_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let still_open = Arc::clone(&open);
        // Threads inherit the namespace of the thread that makes them.
        thread::spawn(move || {
            let _ = pass_both_ways(&outer, inside);
            still_open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn pass_both_ways(outer: &TcpStream, inside: SocketAddr) -> io::Result<()> {
    let inner = TcpStream::connect_timeout(&inside, CONNECT_TIMEOUT)?;
    thread::scope(|scope| {
        scope.spawn(|| pass(outer, &inner));
        pass(&inner, outer);
    });
    Ok(())
}

/// Copies until one side ends, then ends the other, so that neither thread waits for ever.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
    let _ = from.shutdown(std::net::Shutdown::Read);
}
