//! What a frame says of a boot, if anything.
//!
//! Never looks into a frame beyond what names it: payloads of TFTP and HTTP are passed over.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcp_wire::{NODE_PORT, PXE_PORT, SERVER_PORT, unwrap_udp};

const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
const TCP: u8 = 6;
const SYN_ALONE: u8 = 0x02;
const SYN_AND_ACK: u8 = 0x12;
/// Where agents reach the server.
const AGENT_PORT: u16 = 8443;
/// TFTP knows opcodes 1 to 6.
const TFTP_OPCODE_MAX: u8 = 6;
/// What an HTTP request or answer begins with.
const HTTP_BEGINS: [&[u8]; 3] = [b"GET /", b"HEAD /", b"HTTP/1."];

/// A packet that is worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) content: Content<'a>,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// DHCP on ports 67, 68 and 4011.
    Dhcp(&'a [u8]),
    /// Perhaps TFTP: transfers have ports of their own.
    Tftp(&'a [u8]),
    /// The beginning of an HTTP request or answer, and its place in both streams: what is sent again has the same.
    Http { head: &'a [u8], place: (u32, u32) },
    /// The agent opens its first connection to the server.
    AgentCalls,
}

/// Reads a frame; `None` for what tells nothing of a boot.
pub(super) fn parse(frame: &[u8]) -> Option<Packet<'_>> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET_BYTES)?;
    if ethernet.get(12..)? != ETHERTYPE_IPV4 {
        return None;
    }
    if *packet.get(9)? == TCP {
        return tcp(packet);
    }
    let datagram = unwrap_udp(packet)?;
    let (from, to, payload) = (datagram.source, datagram.destination, datagram.payload);
    let is_dhcp = |port: u16| [SERVER_PORT, NODE_PORT, PXE_PORT].contains(&port);
    let content = if is_dhcp(from.port()) || is_dhcp(to.port()) {
        Content::Dhcp(payload)
    } else {
        let [0, 1..=TFTP_OPCODE_MAX, ..] = payload else { return None };
        Content::Tftp(payload)
    };
    Some(Packet { from, to, content })
}

fn tcp(packet: &[u8]) -> Option<Packet<'_>> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let segment = packet.get(header_len..)?;
    let port = |at: usize| Some(u16::from_be_bytes(*segment.get(at..)?.first_chunk()?));
    let from = SocketAddrV4::new(address(12)?, port(0)?);
    let to = SocketAddrV4::new(address(16)?, port(2)?);
    let number = |at: usize| Some(u32::from_be_bytes(*segment.get(at..)?.first_chunk()?));
    let place = (number(4)?, number(8)?);
    let data_at = usize::from(segment.get(12)? >> 4) * 4;
    let head = segment.get(data_at..)?;
    let content = match *segment.get(13)? & (SYN_ALONE | SYN_AND_ACK) {
        SYN_ALONE if to.port() == AGENT_PORT => Content::AgentCalls,
        _ if HTTP_BEGINS.iter().any(|begin| head.starts_with(begin)) => Content::Http { head, place },
        _ => return None,
    };
    Some(Packet { from, to, content })
}

#[cfg(test)]
pub(super) mod tests {
    use dhcp_wire::wrap_udp;

    use super::*;

    /// A frame with a UDP datagram.
    pub(in crate::packets) fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        let packet = wrap_udp(from.parse().unwrap(), to.parse().unwrap(), payload).unwrap();
        [&[0; 12][..], &ETHERTYPE_IPV4, &packet].concat()
    }

    /// A frame with a TCP segment.
    pub(in crate::packets) fn segment(
        from: &str,
        to: &str,
        flags: u8,
        sequence: u32,
        data: &[u8],
    ) -> Vec<u8> {
        let (from, to): (SocketAddrV4, SocketAddrV4) = (from.parse().unwrap(), to.parse().unwrap());
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[9] = TCP;
        packet[12..16].copy_from_slice(&from.ip().octets());
        packet[16..20].copy_from_slice(&to.ip().octets());
        packet.extend([from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        [&[0; 12][..], &ETHERTYPE_IPV4, &packet, data].concat()
    }

    #[test]
    fn only_what_tells_something_is_a_packet() {
        let read = udp("10.0.0.9:1024", "10.0.0.1:69", b"\0\x01a\0octet\0");
        assert!(matches!(parse(&read).unwrap().content, Content::Tftp(_)));
        let other = udp("10.0.0.9:1024", "10.0.0.1:53", b"\x12\x34abc");
        assert_eq!(parse(&other), None, "another protocol");
        let get = segment("10.0.0.9:1024", "10.0.0.1:80", 0x18, 7, b"GET / HTTP/1.1\r\n");
        assert!(matches!(parse(&get).unwrap().content, Content::Http { place: (7, 0), .. }));
        let body = segment("10.0.0.1:80", "10.0.0.9:1024", 0x18, 7, b"\x7fELF");
        assert_eq!(parse(&body), None, "the middle of a file");
        let call = segment("10.0.0.9:1024", "10.0.0.1:8443", 0x02, 7, b"");
        assert_eq!(parse(&call).unwrap().content, Content::AgentCalls);
        assert_eq!(parse(&segment("10.0.0.1:8443", "10.0.0.9:9", 0x12, 7, b"")), None, "the answer");
        for len in 0..get.len() {
            let _ = parse(&get[..len]);
        }
    }
}
