//! Ethernet frames become packets that the doctor understands; everything else is passed over.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcp_wire::{MessageKind, NODE_PORT, PXE_PORT, PacketView, SERVER_PORT, code};

use super::wire::{Content, Dhcp};

/// A VLAN tag (IEEE 802.1Q) before the type.
const VLAN: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const UDP: u8 = 17;
/// RFC 1350, and RFC 2347 for the last.
const TFTP_PORT: u16 = 69;
const TFTP_READ: u16 = 1;
const TFTP_DATA: u16 = 3;
const TFTP_ACK: u16 = 4;
const TFTP_ERROR: u16 = 5;
const TFTP_OACK: u16 = 6;
/// Characters of a name or text that are shown.
const TEXT_CHARS_MAX: usize = 100;

/// Addresses and content of a frame; `None` for what is none of ours.
pub(super) fn parse(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, Content)> {
    let mut rest = frame.get(12..)?;
    let mut kind = number(rest)?;
    if kind == VLAN {
        rest = rest.get(4..)?;
        kind = number(rest)?;
    }
    let ip = rest.get(2..).filter(|_| kind == IPV4)?;
    let (version, header) = (ip.first()? >> 4, usize::from(ip.first()? & 15) * 4);
    // Only the first fragment has ports.
    let first = number(ip.get(6..)?)? & 0x1fff == 0;
    if version != 4 || *ip.get(9)? != UDP || !first {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
    let udp = ip.get(header..)?;
    let from = SocketAddrV4::new(address(12)?, number(udp)?);
    let to = SocketAddrV4::new(address(16)?, number(udp.get(2..)?)?);
    let payload = udp.get(8..)?;
    let dhcp =
        [SERVER_PORT, NODE_PORT, PXE_PORT].iter().any(|port| from.port() == *port || to.port() == *port);
    let content = if dhcp { Content::Dhcp(dhcp_of(payload)?) } else { tftp_of(payload, to.port())? };
    Some((from, to, content))
}

fn number(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

fn dhcp_of(payload: &[u8]) -> Option<Dhcp> {
    let packet = PacketView::new(payload).ok()?;
    let class = packet.option(code::VENDOR_CLASS).unwrap_or_default();
    let boot_file = packet.option(code::BOOT_FILE).is_some_and(|name| !name.is_empty());
    Some(Dhcp {
        mac: packet.mac()?,
        kind: packet.kind()?,
        is_ipxe: packet.option(code::IPXE).is_some()
            || packet
                .option(code::USER_CLASS)
                .is_some_and(|class| class.windows(4).any(|part| part == b"iPXE")),
        is_pxe: class.starts_with(b"PXEClient") || class.starts_with(b"HTTPClient"),
        server: packet.address_option(code::SERVER_ID),
        address: Some(packet.yiaddr()).filter(|address| !address.is_unspecified()),
        has_file: boot_file || !packet.boot_file().is_empty(),
        sends_to_4011: class.starts_with(b"PXEClient") && packet.option(code::VENDOR).is_none(),
    })
}

fn tftp_of(payload: &[u8], to_port: u16) -> Option<Content> {
    let text = |bytes: &[u8]| -> String {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text)
            .chars()
            .filter(|symbol| !symbol.is_control())
            .take(TEXT_CHARS_MAX)
            .collect()
    };
    let rest = payload.get(2..)?;
    match number(payload)? {
        TFTP_READ if to_port == TFTP_PORT => {
            let sizes = payload.to_ascii_lowercase();
            let asks_size = sizes.windows(6).any(|window| window == b"tsize\0");
            Some(Content::TftpRead { name: text(rest), asks_size })
        }
        TFTP_DATA => Some(Content::TftpData),
        TFTP_ACK => Some(Content::TftpAck),
        TFTP_OACK => {
            let options = rest.to_ascii_lowercase();
            Some(Content::TftpOptions { has_size: options.windows(6).any(|window| window == b"tsize\0") })
        }
        TFTP_ERROR => Some(Content::TftpError { code: number(rest)?, text: text(rest.get(2..)?) }),
        _ => None,
    }
}

/// Words of a kind of message, for people.
pub(super) fn is_answer(kind: MessageKind) -> bool {
    matches!(kind, MessageKind::Ack | MessageKind::Nak)
}
