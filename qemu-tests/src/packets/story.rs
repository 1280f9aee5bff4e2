//! Frames become lines: who says what to whom, without addresses, numbers and repeats that differ between two boots.
//!
//! Never leaves out a packet that says something new.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use dhcp_wire::{MessageKind, PXE_PORT, PacketView, code};
use tftp::{Packet as TftpPacket, ReadRequest, Reply as TftpReply};

use super::frame::{self, Content};
use crate::net::SERVER_ADDRESS;
use crate::vm::MachineSpec;

/// Port on which transfers are asked for.
const TFTP_PORT: u16 = 69;
/// Block size without the option (RFC 1350).
const TFTP_BLOCK_BYTES: usize = 512;
/// `file` in a DHCP packet.
const FILE_FIELD: std::ops::Range<usize> = 108..236;
/// Characters of "who to whom" before the text begins.
const WHO_WIDTH: usize = 24;
/// The word for the machine.
const NODE: &str = "node";

/// Words for what differs between two boots.
#[derive(Clone, Debug)]
pub struct Names {
    addresses: Vec<(Ipv4Addr, String)>,
    texts: Vec<(String, &'static str)>,
}

impl Names {
    /// Those of one machine and of the lab's server.
    #[must_use]
    pub fn of(spec: &MachineSpec) -> Self {
        let mac = spec.mac_text();
        let texts = vec![
            (mac.replace(':', "-"), "MAC"),
            (mac, "MAC"),
            (spec.uuid_text(), "UUID"),
            (as_in_option_97(&spec.uuid_text()), "UUID"),
            (spec.serial_text(), "SERIAL"),
        ];
        let addresses =
            vec![(SERVER_ADDRESS, "server".to_owned()), (Ipv4Addr::BROADCAST, "everybody".to_owned())];
        Self { addresses, texts }
    }

    /// Names another machine.
    #[must_use]
    pub fn and(mut self, address: Ipv4Addr, word: &str) -> Self {
        self.addresses.push((address, word.to_owned()));
        self
    }
}

/// QUIRK(GRUB): writes the bytes of option 97 in their order on the wire, where the first three numbers are little-endian.
fn as_in_option_97(uuid: &str) -> String {
    let reversed = |group: &str| -> String {
        group.as_bytes().chunks(2).rev().map(|byte| String::from_utf8_lossy(byte).into_owned()).collect()
    };
    let swapped = |(at, group)| if at < 3 { reversed(group) } else { group.to_owned() };
    uuid.split('-').enumerate().map(swapped).collect::<Vec<_>>().join("-")
}

/// The conversation up to the agent's first connection.
pub(super) fn told(frames: &[Vec<u8>], names: &Names) -> String {
    let mut teller = Teller {
        names: names.clone(),
        nodes: 0,
        lines: Vec::new(),
        asked: BTreeSet::new(),
        went_on: false,
        streams: BTreeSet::new(),
        transfers: Vec::new(),
    };
    for packet in frames.iter().filter_map(|frame| frame::parse(frame)) {
        match packet.content {
            Content::Dhcp(payload) => teller.dhcp(packet.from, packet.to, payload),
            Content::Tftp(payload) => teller.tftp(packet.from, packet.to, payload),
            Content::Http { head, place } => teller.http(packet.from, packet.to, place, head),
            Content::AgentCalls => {
                teller.line(packet.from, packet.to, "TLS   the agent's first connection");
                break;
            }
        }
    }
    teller.text()
}

/// A file on its way.
struct Transfer {
    node: SocketAddrV4,
    request: ReadRequest,
    block_bytes: usize,
    last_block: Option<u16>,
    is_answered: bool,
    is_over: bool,
}

struct Teller {
    names: Names,
    nodes: usize,
    lines: Vec<String>,
    /// Transaction, and what was said in it. Begun anew with a DISCOVER that comes after something else than DHCP: a
    /// program that is started twice on a virtual machine has the same random numbers twice.
    asked: BTreeSet<(u32, String)>,
    went_on: bool,
    /// Place in both streams, and what was said there.
    streams: BTreeSet<((u32, u32), String)>,
    transfers: Vec<Transfer>,
}

impl Teller {
    fn dhcp(&mut self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        let Ok(packet) = PacketView::new(payload) else {
            return self.line(from, to, "DHCP  unreadable");
        };
        if packet.kind() == Some(MessageKind::Discover) && std::mem::take(&mut self.went_on) {
            self.asked.clear();
        }
        let gets = packet.yiaddr();
        if packet.is_reply() && !gets.is_unspecified() {
            self.meets_node(gets);
        }
        let kind =
            packet.kind().map_or_else(|| "BOOTP".to_owned(), |kind| format!("{kind:?}").to_uppercase());
        let mut text = format!("DHCP  {kind}");
        if packet.wants_broadcast() && packet.is_request() {
            text.push_str(" broadcast");
        }
        let fields = [
            ("ciaddr", packet.ciaddr()),
            ("yiaddr", gets),
            ("siaddr", packet.siaddr()),
            ("giaddr", packet.giaddr()),
        ];
        for (field, address) in fields.into_iter().filter(|(_, address)| !address.is_unspecified()) {
            let _ = write!(text, " {field}={}", self.who(address));
        }
        let file = self.plain(payload.get(FILE_FIELD).unwrap_or_default());
        let named = packet.option(code::BOOT_FILE).map(|name| self.plain(&name));
        match named {
            Some(name) if name == file => _ = write!(text, " file=67={file}"),
            Some(name) if file.is_empty() => _ = write!(text, " 67={name}"),
            Some(name) => _ = write!(text, " file={file} 67={name}"),
            None if file.is_empty() => {}
            None => _ = write!(text, " file={file}"),
        }
        for option in TOLD_OPTIONS {
            if let Some(value) = packet.option(option) {
                let _ = write!(text, " {}", self.option(&packet, option, &value));
            }
        }
        if self.asked.insert((packet.xid(), format!("{from} {to} {text}"))) {
            self.line(from, to, &text);
        }
    }

    fn option(&self, packet: &PacketView<'_>, option: u8, value: &[u8]) -> String {
        let value = match option {
            code::ROUTER | code::REQUESTED_ADDRESS | code::SERVER_ID => {
                let addresses = packet.addresses_option(option).into_iter();
                addresses.map(|address| self.who(address)).collect::<Vec<_>>().join(",")
            }
            code::ARCHITECTURE => {
                packet.architectures().iter().map(u16::to_string).collect::<Vec<_>>().join(",")
            }
            code::VENDOR => hex(value),
            // What a build of iPXE can do fills a line and is nobody's business here.
            code::IPXE if packet.is_reply() => hex(value),
            code::IPXE | code::MACHINE_ID | code::RELAY_AGENT => return option.to_string(),
            // Its first byte says of what kind it is.
            code::CLIENT_ID => format!("{:02x}...", value.first().copied().unwrap_or_default()),
            _ => self.plain(value),
        };
        format!("{option}={value}")
    }

    fn tftp(&mut self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        if to.port() == TFTP_PORT {
            match TftpPacket::parse(payload) {
                Some(TftpPacket::Read(request)) => self.tftp_read(from, to, request),
                _ => self.line(from, to, "TFTP  unreadable"),
            }
            return;
        }
        let mut said = None;
        if let Some(transfer) = self.transfers.iter_mut().rev().find(|transfer| transfer.node == to) {
            said = transfer.hears(payload);
        } else if let Some(transfer) = self.transfers.iter_mut().rev().find(|transfer| transfer.node == from)
        {
            said = transfer.says(payload);
        }
        if let Some(said) = said {
            self.went_on = true;
            self.line(from, to, &format!("TFTP  {said}"));
        }
    }

    fn tftp_read(&mut self, from: SocketAddrV4, to: SocketAddrV4, request: ReadRequest) {
        let again =
            |transfer: &Transfer| !transfer.is_over && transfer.node == from && transfer.request == request;
        if self.transfers.iter().any(again) {
            return;
        }
        let name = without_bundle(&format!("/{}", self.named(&request.name)));
        let mut text = format!("TFTP  RRQ {}", name.trim_start_matches('/'));
        if request.tsize {
            text.push_str(" tsize");
        }
        let numbers = [("blksize", request.blksize), ("windowsize", request.windowsize)];
        for (name, value) in numbers {
            if let Some(value) = value {
                let _ = write!(text, " {name}={value}");
            }
        }
        self.went_on = true;
        self.line(from, to, &text);
        self.transfers.push(Transfer {
            node: from,
            request,
            block_bytes: TFTP_BLOCK_BYTES,
            last_block: None,
            is_answered: false,
            is_over: false,
        });
    }

    fn http(&mut self, from: SocketAddrV4, to: SocketAddrV4, place: (u32, u32), head: &[u8]) {
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n").take_while(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let header = |wanted: &str| {
            let mut found = head.split("\r\n").filter_map(|line| line.split_once(": "));
            found.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
        };
        let mut text = match first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 ")) {
            Some(status) => format!("HTTP  {}", status.trim()),
            None => {
                let request = first.rsplit_once(" HTTP/").map_or(first, |(request, _)| request);
                format!("HTTP  {}", without_bundle(&self.named(request)))
            }
        };
        if let Some(agent) = header("user-agent") {
            let _ = write!(text, "  ({})", agent.split('/').next().unwrap_or_default());
        }
        if header("authorization").is_some() {
            text.push_str("  with a proof of the password");
        }
        if let Some(location) = header("location") {
            let _ = write!(text, " to {}", without_bundle(&self.named(&location)));
        }
        if self.streams.insert((place, format!("{from} {to} {text}"))) {
            self.went_on = true;
            self.line(from, to, &text);
        }
    }

    /// Learns an address that the node is given; a second one is another word, so that a change shows.
    fn meets_node(&mut self, address: Ipv4Addr) {
        if self.names.addresses.iter().all(|(known, _)| *known != address) {
            self.nodes += 1;
            let word = if self.nodes == 1 { NODE.to_owned() } else { format!("{NODE}#{}", self.nodes) };
            self.names.addresses.push((address, word));
        }
    }

    fn who(&self, address: Ipv4Addr) -> String {
        if address.is_unspecified() {
            return NODE.to_owned();
        }
        let known = self.names.addresses.iter().find(|(known, _)| *known == address);
        known.map_or_else(|| address.to_string(), |(_, word)| word.clone())
    }

    fn line(&mut self, from: SocketAddrV4, to: SocketAddrV4, text: &str) {
        let end = |address: SocketAddrV4| {
            let port = if address.port() == PXE_PORT { ":4011" } else { "" };
            format!("{}{port}", self.who(*address.ip()))
        };
        let who = format!("{} > {}", end(from), end(to));
        self.lines.push(format!("{who:<WHO_WIDTH$}{text}"));
    }

    fn plain(&self, bytes: &[u8]) -> String {
        let until_nul = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        self.named(&String::from_utf8_lossy(until_nul))
    }

    /// Text with words in place of addresses and of what identifies the machine.
    fn named(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (known, word) in &self.names.texts {
            text = text.replace(known, word);
        }
        // Longer ones first: 10.77.0.1 is the beginning of 10.77.0.128.
        let mut addresses: Vec<(String, &String)> =
            self.names.addresses.iter().map(|(address, word)| (address.to_string(), word)).collect();
        addresses.sort_by_key(|(address, _)| std::cmp::Reverse(address.len()));
        addresses.iter().fold(text, |text, (address, word)| text.replace(address, word))
    }

    /// Two servers' offers come in any order.
    fn text(mut self) -> String {
        let is_offer = |line: &String| line.contains("DHCP  OFFER");
        for run in self.lines.chunk_by_mut(|a, b| is_offer(a) && is_offer(b)) {
            run.sort();
        }
        self.lines.push(String::new());
        self.lines.join("\n")
    }
}

/// Options that decide what is booted, in the order in which they are told.
const TOLD_OPTIONS: [u8; 13] = [
    code::SERVER_ID,
    code::REQUESTED_ADDRESS,
    code::ROUTER,
    code::VENDOR_CLASS,
    code::ARCHITECTURE,
    code::USER_CLASS,
    code::IPXE,
    code::CLIENT_ID,
    code::MACHINE_ID,
    code::VENDOR,
    code::TFTP_SERVER,
    code::RELAY_AGENT,
    code::ERROR_TEXT,
];

impl Transfer {
    /// What the server's packet says that is new.
    fn hears(&mut self, payload: &[u8]) -> Option<String> {
        match TftpReply::parse(payload)? {
            TftpReply::Options { tsize, blksize, windowsize } if !self.is_answered => {
                self.is_answered = true;
                self.block_bytes = blksize.map_or(TFTP_BLOCK_BYTES, usize::from);
                let mut text = "OACK".to_owned();
                if tsize.is_some() {
                    text.push_str(" tsize=SIZE");
                }
                for (name, value) in [("blksize", blksize), ("windowsize", windowsize)] {
                    if let Some(value) = value {
                        let _ = write!(text, " {name}={value}");
                    }
                }
                Some(text)
            }
            TftpReply::Data(number, data) if data.len() < self.block_bytes => {
                self.last_block = Some(number);
                None
            }
            TftpReply::Error(code) => self.ends(format!("ERROR {code}")),
            TftpReply::Options { .. } | TftpReply::Data(..) => None,
        }
    }

    /// What the node's packet says that is new.
    fn says(&mut self, payload: &[u8]) -> Option<String> {
        match TftpPacket::parse(payload)? {
            TftpPacket::Ack(number) if self.last_block == Some(number) => {
                self.ends("ACK of the last block".to_owned())
            }
            TftpPacket::Error(code) => self.ends(format!("ERROR {code}")),
            _ => None,
        }
    }

    fn ends(&mut self, how: String) -> Option<String> {
        let first = !self.is_over;
        self.is_over = true;
        first.then_some(how)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A bundle's directory is named by a hash.
fn without_bundle(path: &str) -> String {
    let Some((before, bundle)) = path.split_once("/boot/") else { return path.to_owned() };
    let file = bundle.split_once('/').map_or("", |(_, file)| file);
    format!("{before}/boot/BUNDLE/{file}")
}

#[cfg(test)]
mod tests;
