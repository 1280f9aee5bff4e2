//! The server's interface, its addresses and its ports, with errors that say what to do.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use dhcp_engine::Prefix;

/// Room for the packets of a boot storm: at 1000 DHCP handshakes per second the kernel's default loses 1 %.
const UDP_BUFFER_BYTES: usize = 4 << 20;
/// Open files: twice the connections and TFTP transfers that there can be.
const FILES_MAX: u64 = 16_384;
/// `TCP_LISTEN` in `/proc/net/tcp`.
const LISTENING: &str = "0A";
/// Connections that wait to be accepted.
const TCP_BACKLOG: i32 = 1024;
/// One second in all, for addresses that a restarted server finds still in use.
const BIND_TRIES: u32 = 20;
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// The server's address on `interface`: `wanted`, or the first.
pub(super) fn interface_address(
    interface: &str,
    wanted: Option<Ipv4Addr>,
) -> anyhow::Result<(Ipv4Addr, Prefix)> {
    let all = nix::ifaddrs::getifaddrs().context("listing the network interfaces")?;
    let mut names = Vec::new();
    let mut addresses = Vec::new();
    for entry in all {
        if !names.contains(&entry.interface_name) {
            names.push(entry.interface_name.clone());
        }
        let address =
            entry.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(|address| address.ip());
        let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in()).map(|mask| mask.ip());
        if entry.interface_name == interface
            && let (Some(address), Some(mask)) = (address, mask)
        {
            let len = u8::try_from(u32::from(mask).leading_ones()).unwrap_or(32);
            addresses.extend(Prefix::new(address, len).map(|prefix| (address, prefix)));
        }
    }
    if !names.iter().any(|name| name == interface) {
        bail!("there is no interface `{interface}`; this machine has {}", names.join(", "));
    }
    let found = addresses.iter().find(|(address, _)| wanted.is_none_or(|wanted| wanted == *address));
    match (found, wanted) {
        (Some(found), _) => Ok(*found),
        (None, Some(wanted)) => bail!(
            "interface {interface} does not have the address {wanted}; add it with `ip address add {wanted}/24 dev \
             {interface}`"
        ),
        (None, None) => bail!(
            "interface {interface} has no IPv4 address; give it one with `ip address add 10.77.0.1/24 dev \
             {interface} && ip link set {interface} up`"
        ),
    }
}

/// A UDP socket that hears `interface` alone.
pub(super) fn bind_udp(interface: &str, address: SocketAddrV4) -> anyhow::Result<tokio::net::UdpSocket> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        // More than the system's limit needs root; without it the limit has to do.
        if setsockopt(&socket, sockopt::RcvBufForce, &UDP_BUFFER_BYTES).is_err() {
            socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
        }
        socket.bind(&SocketAddr::V4(address).into())?;
        Ok(socket)
    };
    let socket = patiently(open).map_err(|error| port_error(Transport::Udp, address, error))?;
    tokio::net::UdpSocket::from_std(socket.into()).context("handing a socket to tokio")
}

/// Each TFTP transfer and each connection is an open file, and the usual limit of 1024 is less than a storm needs.
pub(super) fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(FILES_MAX)), hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised: a boot storm may exceed it");
    }
}

/// A TCP listener.
pub(super) fn bind_tcp(address: SocketAddrV4) -> anyhow::Result<tokio::net::TcpListener> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        // A restarted server need not wait for the connections of the old one to fade away.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::V4(address).into())?;
        socket.listen(TCP_BACKLOG)?;
        Ok(socket)
    };
    let socket = patiently(open).map_err(|error| port_error(Transport::Tcp, address, error))?;
    tokio::net::TcpListener::from_std(socket.into()).context("handing a socket to tokio")
}

/// Tries for [`BIND_TRIES`] pauses while the address is in use: a program that the server is just starting holds
/// copies of its sockets until it has replaced itself, which outlives a restart by moments.
fn patiently(open: impl Fn() -> io::Result<Socket>) -> io::Result<Socket> {
    for _ in 0..BIND_TRIES {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(BIND_PAUSE),
            done => return done,
        }
    }
    open()
}

#[derive(Clone, Copy)]
enum Transport {
    Udp,
    Tcp,
}

fn port_error(transport: Transport, address: SocketAddrV4, error: io::Error) -> anyhow::Error {
    let name = match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
    };
    let port = address.port();
    let message = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let user = user_of(transport, port).unwrap_or_else(|| "another program".to_owned());
            format!(
                "{name} port {port} of {} is in use by {user}: stop that first, or serve another interface",
                address.ip()
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("{name} port {port} needs root or the capabilities CAP_NET_BIND_SERVICE and CAP_NET_RAW")
        }
        io::ErrorKind::AddrNotAvailable => format!("{} is no address of this machine", address.ip()),
        _ => format!("binding {name} port {port} of {}", address.ip()),
    };
    anyhow::Error::new(error).context(message)
}

/// As [`user_of`]; `another program` where /proc does not say who.
pub(super) fn port_user(is_tcp: bool, port: u16) -> Option<String> {
    let (transport, table) = if is_tcp {
        (Transport::Tcp, "/proc/thread-self/net/tcp")
    } else {
        (Transport::Udp, "/proc/thread-self/net/udp")
    };
    let listening = |line: &&str| !is_tcp || line.split_ascii_whitespace().nth(3) == Some(LISTENING);
    let text = fs::read_to_string(table).ok()?;
    let lines: Vec<&str> = text.lines().take(1).chain(text.lines().skip(1).filter(listening)).collect();
    let taken = !socket_inodes(&lines.join("\n"), port).is_empty();
    taken.then(|| user_of(transport, port).unwrap_or_else(|| "another program".to_owned()))
}

/// `dnsmasq (pid 812)`, as far as /proc tells us.
fn user_of(transport: Transport, port: u16) -> Option<String> {
    let table = fs::read_to_string(match transport {
        Transport::Udp => "/proc/thread-self/net/udp",
        Transport::Tcp => "/proc/thread-self/net/tcp",
    });
    let inodes = socket_inodes(&table.ok()?, port);
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if targets.any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str())) {
            let name = fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{} (pid {})", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    None
}

/// `socket:[INODE]` of each socket on `port`, from the text of `/proc/net/udp` or `/proc/net/tcp`.
fn socket_inodes(table: &str, port: u16) -> Vec<String> {
    let on_port = |line: &&str| {
        let local = line.split_ascii_whitespace().nth(1).and_then(|local| local.split_once(':'));
        local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
    };
    let inode = |line: &str| line.split_ascii_whitespace().nth(9).map(|inode| format!("socket:[{inode}]"));
    table.lines().skip(1).filter(on_port).filter_map(inode).collect()
}

/// Says what to change if the kernel's neighbour table cannot hold `nodes`; beyond it answers vanish silently.
pub(super) fn neighbour_table_warning(nodes: u32) -> Option<String> {
    let limit = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").ok()?;
    let limit: u32 = limit.trim().parse().ok()?;
    (limit < nodes.saturating_mul(2)).then(|| {
        format!(
            "the kernel's neighbour table holds {limit} machines, the pool has {nodes}: beyond it answers are lost; \
             set `sysctl net.ipv4.neigh.default.gc_thresh3={}`",
            nodes.saturating_mul(4)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_on_a_port_are_found_in_the_kernel_s_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             12: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n\
             13: 0100007F:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0 0\n";
        assert_eq!(socket_inodes(table, 67), ["socket:[4711]"]);
        assert!(socket_inodes("", 67).is_empty());
    }

    #[test]
    fn a_missing_interface_is_named_with_those_that_exist() {
        let error = interface_address("eth-none", None).unwrap_err().to_string();
        assert!(error.contains("there is no interface `eth-none`") && error.contains("lo"), "{error}");
        let (address, prefix) = interface_address("lo", None).unwrap();
        assert_eq!((address, prefix.len()), (Ipv4Addr::LOCALHOST, 8));
        let error = interface_address("lo", Some(Ipv4Addr::new(10, 9, 8, 7))).unwrap_err().to_string();
        assert!(error.contains("does not have the address 10.9.8.7"), "{error}");
    }

    #[tokio::test]
    async fn a_port_in_use_names_its_user() {
        let taken = bind_tcp(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(address) = taken.local_addr().unwrap() else { panic!("IPv4") };
        let error = bind_tcp(address).unwrap_err().to_string();
        assert!(error.contains(&format!("TCP port {} ", address.port())), "{error}");
        assert!(error.contains("(pid "), "{error}");
    }
}
