//! Tells iPXE that there is no IPv6 router here, so that it does not wait 16 s to find that out by itself.
//!
//! QUIRK(iPXE): it goes on when IPv4 *and* IPv6 are configured or have failed, and without any router the search
//! for one (RFC 4861 section 6.3.7) ends only after 0.25 + 0.5 + 1 + 2 + 4 + 8 s. An advertisement with lifetime 0
//! and without prefix says "not a router" (section 6.2.5) and ends it at once.
//!
//! Never speaks to anything but a NIC that was iPXE moments ago, and never by multicast: no system on the network
//! sees this.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dhcp_wire::MacAddr;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tracing::debug;

/// ICMPv6 types of RFC 4861 sections 4.1 and 4.2.
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Where nodes look for routers.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// iPXE looks for a router right after its DHCP request.
const BOOTING_FOR: Duration = Duration::from_secs(30);
/// NICs that are remembered; beyond it some nodes wait 16 s longer.
const BOOTING_MAX: usize = 4096;
/// A solicitation has at most 16 bytes.
const PACKET_BYTES_MAX: usize = 256;

/// The NICs that iPXE runs on right now.
#[derive(Clone, Debug, Default)]
pub(super) struct Booting {
    nics: Arc<Mutex<HashMap<MacAddr, Instant>>>,
}

impl Booting {
    /// iPXE asked for an address with this NIC.
    pub(super) fn note(&self, now: Instant, mac: MacAddr) {
        let mut nics = self.nics.lock().unwrap_or_else(PoisonError::into_inner);
        if nics.len() >= BOOTING_MAX {
            nics.retain(|_, seen| now.duration_since(*seen) < BOOTING_FOR);
        }
        if nics.len() < BOOTING_MAX {
            nics.insert(mac, now);
        }
    }

    fn contains(&self, now: Instant, mac: MacAddr) -> bool {
        let nics = self.nics.lock().unwrap_or_else(PoisonError::into_inner);
        nics.get(&mac).is_some_and(|seen| now.duration_since(*seen) < BOOTING_FOR)
    }
}

/// The running answerer. Dropping it stops it.
pub(super) struct NoRouter {
    task: JoinHandle<()>,
}

impl NoRouter {
    /// Begins to answer on `interface`.
    ///
    /// # Errors
    /// Where IPv6 or raw sockets cannot be had; nodes boot all the same, only later.
    pub(super) fn start(interface: &str, booting: Booting) -> anyhow::Result<Self> {
        let socket = open(interface).context("opening an ICMPv6 socket")?;
        Ok(Self { task: tokio::spawn(run(socket, booting)) })
    }
}

impl Drop for NoRouter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn open(interface: &str) -> anyhow::Result<UdpSocket> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    // Anything less was forwarded and is refused (RFC 4861 section 6.1.2).
    socket.set_unicast_hops_v6(255)?;
    socket.set_nonblocking(true)?;
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0);
    socket.bind(&SockAddr::from(any))?;
    // tokio has no type for raw sockets; of this one only `recv_from` and `send_to` are used, which are the same.
    Ok(UdpSocket::from_std(socket.into())?)
}

async fn run(socket: UdpSocket, booting: Booting) {
    let mut buffer = [0; PACKET_BYTES_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, SocketAddr::V6(node))) => {
                let solicits = buffer.get(..len).is_some_and(|packet| packet.first() == Some(&SOLICITATION));
                let mac = mac_of(*node.ip()).filter(|mac| solicits && booting.contains(Instant::now(), *mac));
                if let Some(mac) = mac {
                    let sent = socket.send_to(&no_router(), node).await;
                    debug!(node = %mac, ?sent, "told iPXE that there is no IPv6 router");
                }
            }
            Ok((_, SocketAddr::V4(_))) => {}
            Err(error) => {
                debug!(%error, "receiving ICMPv6 failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// An advertisement of nothing: lifetime 0, no flags, no prefix. The kernel fills in the checksum (RFC 3542).
fn no_router() -> [u8; 16] {
    let mut packet = [0; 16];
    packet[0] = ADVERTISEMENT;
    packet
}

/// The hardware address that a link-local address is made of (RFC 4291 appendix A), as iPXE makes its own.
fn mac_of(address: Ipv6Addr) -> Option<MacAddr> {
    match address.octets() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => Some(MacAddr([a ^ 2, b, c, d, e, f])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_made_of_a_hardware_address_are_read() {
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, 0x0a]);
        assert_eq!(mac_of("fe80::5054:ff:fe00:a".parse().unwrap()), Some(mac));
        assert_eq!(mac_of("fe80::1234:5678:9abc:def0".parse().unwrap()), None);
        assert_eq!(mac_of("2001:db8::5054:ff:fe00:a".parse().unwrap()), None);
    }

    #[test]
    fn only_nics_that_just_booted_are_known_and_memory_is_bounded() {
        let (booting, now) = (Booting::default(), Instant::now());
        let mac = |number: u16| MacAddr([2, 0, 0, 0, number.to_be_bytes()[0], number.to_be_bytes()[1]]);
        booting.note(now, mac(1));
        assert!(booting.contains(now + BOOTING_FOR / 2, mac(1)) && !booting.contains(now, mac(2)));
        assert!(!booting.contains(now + BOOTING_FOR, mac(1)));
        for number in 0..10_000 {
            booting.note(now, mac(number));
        }
        assert_eq!(booting.nics.lock().unwrap().len(), BOOTING_MAX);
        booting.note(now + BOOTING_FOR, mac(20_000));
        assert_eq!(booting.nics.lock().unwrap().len(), 1);
    }
}
