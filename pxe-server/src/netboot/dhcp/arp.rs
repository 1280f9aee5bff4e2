//! Asks the link who has an address, and hears who says so (RFC 826, RFC 5227).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use dhcp_wire::MacAddr;
use nix::libc;
use nix::sys::socket::LinkAddr;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// Both Ethernet headers and an ARP packet for IPv4, without padding.
const FRAME_BYTES: usize = 42;
const ETHERTYPE_ARP: u16 = 0x0806;
/// Ethernet, IPv4, lengths 6 and 4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;

/// The NIC of `interface`.
pub(super) fn nic(interface: &str) -> Option<(LinkAddr, MacAddr)> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    all.filter(|entry| entry.interface_name == interface).find_map(|entry| {
        let address = entry.address.as_ref()?.as_link_addr().copied()?;
        let mac = address.addr().map(MacAddr).filter(|mac| mac.is_unicast())?;
        Some((address, mac))
    })
}

/// Hears every ARP packet of one interface.
pub(super) struct ArpSocket {
    socket: UdpSocket,
    mac: MacAddr,
}

impl ArpSocket {
    /// Begins to listen.
    pub(super) fn open((nic, mac): (LinkAddr, MacAddr)) -> anyhow::Result<Self> {
        let open = || -> io::Result<Socket> {
            let protocol = Protocol::from(i32::from(ETHERTYPE_ARP.to_be()));
            let socket = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, Some(protocol))?;
            socket.set_nonblocking(true)?;
            nix::sys::socket::bind(socket.as_raw_fd(), &nic)?;
            Ok(socket)
        };
        let socket = open().context("opening a packet socket for ARP")?;
        // tokio has no type for packet sockets; of this one only `recv` and `send` are used, which are the same.
        let socket = UdpSocket::from_std(socket.into()).context("handing a socket to tokio")?;
        Ok(Self { socket, mac })
    }

    /// Asks who has `address`.
    pub(super) async fn ask(&self, address: Ipv4Addr) -> io::Result<()> {
        self.socket.send(&probe(self.mac, address)).await.map(drop)
    }

    /// Who says to have which address.
    pub(super) async fn hear(&self) -> io::Result<(Ipv4Addr, MacAddr)> {
        let mut buffer = [0; FRAME_BYTES];
        loop {
            let len = self.socket.recv(&mut buffer).await?;
            if let Some(heard) = sender(buffer.get(..len).unwrap_or_default()) {
                return Ok(heard);
            }
        }
    }
}

/// A probe as RFC 5227 section 2.1.1 has it: the sender's address is 0.0.0.0, so that no neighbour table changes.
fn probe(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_BYTES);
    frame.extend_from_slice(&MacAddr::BROADCAST.0);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    frame.extend_from_slice(&KIND);
    frame.extend_from_slice(&REQUEST.to_be_bytes());
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&[0; 10]);
    frame.extend_from_slice(&address.octets());
    frame
}

/// The sender of an ARP packet, if it says that it has an address.
fn sender(frame: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let (ethernet, arp) = frame.split_at_checked(14)?;
    if ethernet.get(12..)? != ETHERTYPE_ARP.to_be_bytes() || arp.get(..6)? != KIND {
        return None;
    }
    let mac = MacAddr(arp.get(8..14)?.try_into().ok()?);
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(arp.get(14..18)?).ok()?);
    (mac.is_unicast() && !address.is_unspecified()).then_some((address, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

    #[test]
    fn probe_says_nothing_of_an_address_and_an_answer_does() {
        let wanted = Ipv4Addr::new(10, 77, 0, 100);
        let mut frame = probe(MAC, wanted);
        assert_eq!(frame.len(), FRAME_BYTES);
        assert_eq!(sender(&frame), None, "our own probe is nobody's claim");
        frame[21] = 2;
        frame[28..32].copy_from_slice(&wanted.octets());
        assert_eq!(sender(&frame), Some((wanted, MAC)));
        for len in 0..32 {
            assert_eq!(sender(&frame[..len]), None, "{len} bytes");
        }
        frame[14] = 6;
        assert_eq!(sender(&frame), None, "not Ethernet");
    }
}
