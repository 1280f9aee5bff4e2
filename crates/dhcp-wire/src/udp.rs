//! IPv4 and UDP headers, for a node that has no address yet and so must use a packet socket.

use std::net::{Ipv4Addr, SocketAddrV4};

const IP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const UDP: u8 = 17;
/// Enough for any link of the field; DHCP needs 300 to 1472.
const TTL: u8 = 64;
/// What fits one Ethernet frame of 1500 bytes.
pub const UDP_PAYLOAD_BYTES_MAX: usize = 1500 - IP_HEADER_BYTES - UDP_HEADER_BYTES;

/// A received UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Sender.
    pub source: SocketAddrV4,
    /// Receiver.
    pub destination: SocketAddrV4,
    /// What it carries.
    pub payload: &'a [u8],
}

/// Puts IPv4 and UDP headers with checksums before `payload` (RFC 791, RFC 768).
/// `None` if it has more than [`UDP_PAYLOAD_BYTES_MAX`] bytes.
#[must_use]
pub fn wrap_udp(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() > UDP_PAYLOAD_BYTES_MAX {
        return None;
    }
    let udp_len = u16::try_from(UDP_HEADER_BYTES + payload.len()).ok()?;
    let total_len = u16::try_from(IP_HEADER_BYTES + usize::from(udp_len)).ok()?;

    let mut header = Vec::with_capacity(usize::from(total_len));
    header.extend_from_slice(&[0x45, 0]);
    header.extend_from_slice(&total_len.to_be_bytes());
    // Identification 0, not fragmented, and room for the checksum.
    header.extend_from_slice(&[0, 0, 0, 0, TTL, UDP]);
    let addresses = [source.ip().octets(), destination.ip().octets()].concat();
    let header_sum = !fold(sum(&header) + sum(&addresses));
    header.extend_from_slice(&header_sum.to_be_bytes());
    header.extend_from_slice(&addresses);

    let mut udp = Vec::with_capacity(usize::from(udp_len));
    udp.extend_from_slice(&source.port().to_be_bytes());
    udp.extend_from_slice(&destination.port().to_be_bytes());
    udp.extend_from_slice(&udp_len.to_be_bytes());
    let pseudo = sum(&addresses) + u32::from(UDP) + u32::from(udp_len);
    let checksum = match !fold(pseudo + sum(&udp) + sum(payload)) {
        // 0 means "no checksum" (RFC 768).
        0 => u16::MAX,
        checksum => checksum,
    };
    udp.extend_from_slice(&checksum.to_be_bytes());
    udp.extend_from_slice(payload);
    header.extend_from_slice(&udp);
    Some(header)
}

/// The UDP datagram in an IPv4 packet. `None` for anything else, for fragments and for wrong lengths.
///
/// Checksums are not looked at: on virtual links the sender leaves them to hardware that does not exist, and
/// everything inside is checked by its own means.
#[must_use]
pub fn unwrap_udp(packet: &[u8]) -> Option<Datagram<'_>> {
    let (header, _) = packet.split_first_chunk::<IP_HEADER_BYTES>()?;
    let [version, _, len_a, len_b, _, _, fragment_a, fragment_b, _, protocol, _, _, addresses @ ..] = header;
    let [sa, sb, sc, sd, da, db, dc, dd] = *addresses;
    let header_len = usize::from(version & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([*len_a, *len_b]));
    // More fragments to come, or not the first: bits 13 and 0 to 12.
    let fragment = u16::from_be_bytes([*fragment_a, *fragment_b]) & 0x3fff;
    if version >> 4 != 4 || *protocol != UDP || fragment != 0 || header_len < IP_HEADER_BYTES {
        return None;
    }
    // Short frames are padded by the link, so the packet may be longer than it says, never shorter.
    let (udp, rest) = packet.get(header_len..total_len)?.split_first_chunk::<UDP_HEADER_BYTES>()?;
    let [source_a, source_b, to_a, to_b, udp_len_a, udp_len_b, _, _] = *udp;
    let payload_len =
        usize::from(u16::from_be_bytes([udp_len_a, udp_len_b])).checked_sub(UDP_HEADER_BYTES)?;
    Some(Datagram {
        source: SocketAddrV4::new(Ipv4Addr::new(sa, sb, sc, sd), u16::from_be_bytes([source_a, source_b])),
        destination: SocketAddrV4::new(Ipv4Addr::new(da, db, dc, dd), u16::from_be_bytes([to_a, to_b])),
        payload: rest.get(..payload_len)?,
    })
}

/// Sum of 16-bit words; an odd last byte is the high half of one. At most 64 KiB, so 32 bits hold it.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        })
        .fold(0, u32::wrapping_add)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_are_those_of_a_known_packet() {
        let packet =
            wrap_udp("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap(), b"abc").unwrap();
        assert_eq!(fold(sum(&packet[..20])), 0xffff, "the header with its checksum adds up to all ones");
        assert_eq!(packet.len(), 31);
        assert_eq!(&packet[20..26], &[0, 68, 0, 67, 0, 11]);
    }

    #[test]
    fn fragments_and_other_protocols_are_refused() {
        let mut packet =
            wrap_udp("10.0.0.1:67".parse().unwrap(), "10.0.0.2:68".parse().unwrap(), b"abc").unwrap();
        assert!(unwrap_udp(&packet).is_some());
        packet[6] = 0x20;
        assert_eq!(unwrap_udp(&packet), None, "more fragments");
        packet[6] = 0;
        packet[9] = 6;
        assert_eq!(unwrap_udp(&packet), None, "TCP");
    }

    proptest! {
        #[test]
        fn what_is_wrapped_comes_out_again(payload in proptest::collection::vec(any::<u8>(), 0..600), padding in 0usize..50) {
            let (from, to) = ("10.1.2.3:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap());
            let mut packet = wrap_udp(from, to, &payload).unwrap();
            packet.extend(vec![0; padding]);
            let datagram = unwrap_udp(&packet).unwrap();
            prop_assert_eq!((datagram.source, datagram.destination, datagram.payload), (from, to, payload.as_slice()));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = unwrap_udp(&bytes);
        }
    }
}
