//! Handshakes that fail, as sequences of packets, and hosts that are not ready.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp_wire::{MacAddr, Message, MessageKind, code};

use super::frames;
use super::host::{HostSetup, addresses, clock, firewall, neighbours};
use super::wire::{Content, Dhcp, Watch};
use super::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const US: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// A wire on which each packet comes 100 ms after the last.
#[derive(Default)]
struct Wire {
    watch: Watch,
    now: Duration,
    said: Vec<String>,
}

impl Wire {
    fn packet(mut self, from: SocketAddrV4, to: SocketAddrV4, content: Content) -> Self {
        self.now += Duration::from_millis(100);
        self.said.extend(self.watch.packet(self.now, from, to, &content));
        self
    }

    fn node(self, kind: MessageKind, to: SocketAddrV4, server: Option<Ipv4Addr>) -> Self {
        let dhcp = Dhcp {
            mac: MAC,
            kind,
            is_ipxe: false,
            is_pxe: true,
            server,
            address: None,
            has_file: false,
            sends_to_4011: false,
        };
        self.packet(at(Ipv4Addr::UNSPECIFIED, 68), to, Content::Dhcp(dhcp))
    }

    fn discover(self) -> Self {
        self.node(MessageKind::Discover, at(Ipv4Addr::BROADCAST, 67), None)
    }

    fn request(self, server: Ipv4Addr) -> Self {
        self.node(MessageKind::Request, at(Ipv4Addr::BROADCAST, 67), Some(server))
    }

    fn server(self, kind: MessageKind, server: Ipv4Addr, has_file: bool) -> Self {
        let dhcp = Dhcp {
            mac: MAC,
            kind,
            is_ipxe: false,
            is_pxe: true,
            server: Some(server),
            address: Some(NODE),
            has_file,
            sends_to_4011: false,
        };
        self.packet(at(server, 67), at(Ipv4Addr::BROADCAST, 68), Content::Dhcp(dhcp))
    }

    /// A whole handshake up to the address.
    fn leased(self, has_file: bool) -> Self {
        let offered = self.discover().server(MessageKind::Offer, US, has_file);
        offered.request(US).server(MessageKind::Ack, US, has_file)
    }

    fn tftp(self, from_node: bool, content: Content) -> Self {
        let (node, server) = (at(NODE, 2070), at(US, 69));
        if from_node { self.packet(node, server, content) } else { self.packet(server, node, content) }
    }

    fn read(self, asks_size: bool) -> Self {
        self.tftp(true, Content::TftpRead { name: "snponly.efi".into(), asks_size })
    }

    /// After a long silence exactly this is said, once.
    fn explains(mut self, expected: &[&str]) {
        for _ in 0..60 {
            self.now += Duration::from_secs(1);
            self.said.extend(self.watch.silences(self.now));
        }
        assert_eq!(self.said.len(), usize::from(!expected.is_empty()), "{:#?}", self.said);
        for expected in expected {
            assert!(
                self.said.iter().any(|said| said.contains(expected)),
                "{expected}\nis not in {:#?}",
                self.said
            );
        }
    }
}

#[test]
fn nobody_answers() {
    Wire::default()
        .discover()
        .discover()
        .discover()
        .explains(&["52:54:00:00:00:01: asked for an address 3 times", "firewall"]);
}

#[test]
fn two_offers_and_no_request() {
    let wire = Wire::default().discover().server(MessageKind::Offer, US, true).server(
        MessageKind::Offer,
        OTHER,
        false,
    );
    wire.explains(&["2 servers made an offer (10.77.0.1 and 10.77.0.2)", "mode = \"proxy\""]);
}

#[test]
fn one_offer_without_a_boot_file_and_no_request() {
    Wire::default()
        .discover()
        .server(MessageKind::Offer, OTHER, false)
        .explains(&["10.77.0.2 offers an address without a boot file"]);
    Wire::default()
        .discover()
        .server(MessageKind::Offer, US, true)
        .explains(&["did not take it", "portfast"]);
}

#[test]
fn request_that_is_never_confirmed_or_is_refused() {
    Wire::default()
        .discover()
        .server(MessageKind::Offer, US, true)
        .request(US)
        .explains(&["10.77.0.1, and that never confirmed"]);
    let wire = Wire::default().discover().server(MessageKind::Offer, US, true).request(US);
    wire.server(MessageKind::Nak, OTHER, false).explains(&["10.77.0.2 told the node NO"]);
}

#[test]
fn request_to_4011_unanswered() {
    let asks = |wire: Wire| wire.node(MessageKind::Request, at(US, 4011), None);
    asks(Wire::default().leased(false))
        .explains(&["asks 10.77.0.1 on UDP port 4011", "let port 4011 through"]);
    // Answered, and the file fetched: nothing to explain.
    asks(Wire::default().leased(false))
        .server(MessageKind::Ack, US, true)
        .read(false)
        .tftp(false, Content::TftpData)
        .explains(&[]);
}

#[test]
fn address_and_nothing_to_boot_or_nothing_fetched() {
    Wire::default().leased(false).explains(&["no server told it what to boot"]);
    Wire::default().leased(true).explains(&["fetches nothing", "UDP port 69"]);
}

#[test]
fn size_probe_and_nothing_after() {
    let probe =
        |has_size| Wire::default().leased(true).read(true).tftp(false, Content::TftpOptions { has_size });
    let aborts = Content::TftpError { code: 8, text: "User aborted the transfer".into() };
    probe(true)
        .tftp(true, aborts.clone())
        .explains(&["asked for the size of snponly.efi and fetched nothing after", "1432"]);
    probe(false).tftp(true, aborts.clone()).explains(&["was not told", "`tsize`"]);
    // What firmware does that boots: the probe, and then the transfer.
    probe(true).tftp(true, aborts).read(false).tftp(false, Content::TftpData).explains(&[]);
}

#[test]
fn tftp_without_answer_or_with_a_refusal() {
    Wire::default().leased(true).read(false).explains(&["gets no answer", "UDP port 69"]);
    let refused = Content::TftpError { code: 1, text: "no such file".into() };
    Wire::default()
        .leased(true)
        .read(false)
        .tftp(false, refused.clone())
        .explains(&["refuses snponly.efi: no such file"]);
    // Shim looks for files that need not be there.
    let optional = Content::TftpRead { name: "revocations_sbat.efi".into(), asks_size: false };
    Wire::default().leased(true).tftp(true, optional).tftp(false, refused).explains(&[]);
}

#[test]
fn ipxe_is_loaded_and_the_firmware_asks_again() {
    let loaded = || Wire::default().leased(true).read(false).tftp(false, Content::TftpData);
    let again = loaded().leased(true).read(false).tftp(false, Content::TftpData);
    again.explains(&["loaded iPXE and never started it: Secure Boot"]);
    let ipxe = Dhcp {
        mac: MAC,
        kind: MessageKind::Discover,
        is_ipxe: true,
        is_pxe: true,
        server: None,
        address: None,
        has_file: false,
        sends_to_4011: false,
    };
    let began =
        loaded().packet(at(Ipv4Addr::UNSPECIFIED, 68), at(Ipv4Addr::BROADCAST, 67), Content::Dhcp(ipxe));
    let runs = began.server(MessageKind::Offer, US, true).request(US).server(MessageKind::Ack, US, true);
    runs.read(false).tftp(false, Content::TftpData).explains(&[]);
}

#[test]
fn shim_is_loaded_and_the_firmware_asks_again() {
    let read = |name: &str| Content::TftpRead { name: name.into(), asks_size: false };
    let loaded =
        || Wire::default().leased(true).tftp(true, read("shimx64.efi")).tftp(false, Content::TftpData);
    let again = loaded().leased(true).read(false).tftp(false, Content::TftpData);
    again.explains(&["loaded shim and never started it", "third-party UEFI CA"]);
    // A shim that runs asks for more, and what comes then is its node's next boot.
    let runs = loaded().tftp(true, read("grubx64.efi")).tftp(false, Content::TftpData);
    runs.leased(true).read(false).tftp(false, Content::TftpData).explains(&[]);
}

#[test]
fn memory_is_bounded_whoever_asks() {
    let mut watch = Watch::default();
    for number in 0..5000_u16 {
        let [a, b] = number.to_be_bytes();
        let mac = MacAddr([2, 0, 0, 0, a, b]);
        let kind = MessageKind::Discover;
        let dhcp = Dhcp {
            mac,
            kind,
            is_ipxe: false,
            is_pxe: false,
            server: None,
            address: None,
            has_file: false,
            sends_to_4011: false,
        };
        let now = Duration::from_millis(u64::from(number));
        watch.packet(now, at(NODE, 68), at(US, 67), &Content::Dhcp(dhcp));
    }
    assert_eq!(watch.silences(Duration::from_secs(60)).len(), 1024);
}

/// An Ethernet frame around a UDP payload.
fn frame(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let ip_len = u16::try_from(28 + payload.len()).unwrap();
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(ip_len.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(from.ip().octets());
    frame.extend(to.ip().octets());
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend((ip_len - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn frames_are_read_as_they_are_on_the_wire() {
    let mut discover = Message::from_node(MessageKind::Discover, MAC, 7);
    discover.set_bytes(code::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003000").unwrap();
    let bytes = discover.encode().unwrap();
    let (from, to) = (at(Ipv4Addr::UNSPECIFIED, 68), at(Ipv4Addr::BROADCAST, 67));
    let (seen_from, seen_to, content) = frames::parse(&frame(from, to, &bytes)).unwrap();
    assert_eq!((seen_from, seen_to), (from, to));
    let Content::Dhcp(dhcp) = content else { panic!("DHCP") };
    assert!(dhcp.mac == MAC && dhcp.kind == MessageKind::Discover && dhcp.is_pxe && !dhcp.has_file);

    let tftp = |payload: &[u8], to: u16| {
        frames::parse(&frame(at(NODE, 2070), at(US, to), payload)).map(|(_, _, content)| content)
    };
    let read = tftp(b"\0\x01snponly.efi\0octet\0tsize\x000\0blksize\x001468\0", 69);
    assert_eq!(read, Some(Content::TftpRead { name: "snponly.efi".into(), asks_size: true }));
    assert_eq!(tftp(b"\0\x06tsize\x00173792\0", 2070), Some(Content::TftpOptions { has_size: true }));
    assert_eq!(
        tftp(b"\0\x05\0\x08User aborted\0", 2070),
        Some(Content::TftpError { code: 8, text: "User aborted".into() })
    );
    assert_eq!(tftp(b"", 69), None);
    for len in 0..60 {
        let whole = frame(from, to, &bytes);
        let _ = frames::parse(&whole[..len]);
    }
}

fn setup() -> HostSetup {
    HostSetup {
        interface: None,
        address: None,
        http_port: 80,
        agent_port: 8443,
        boot_files: "/nowhere".into(),
        state: "/nowhere/state".into(),
        menu_files: vec!["/nowhere/linux".into()],
    }
}

#[test]
fn host_that_is_not_ready_is_told_what_to_do() {
    assert!(neighbours(Some("1024\n")).remedy.contains("gc_thresh3=4000"));
    assert_eq!(neighbours(Some("8192")).level, Level::Good);
    assert_eq!(clock(100).level, Level::Bad);
    for (now, date) in [
        (1_800_000_000, "2027-01-15 08:00"),
        (1_709_164_800, "2024-02-29 00:00"),
        (1_735_689_599, "2024-12-31 23:59"),
        (4_107_542_400, "2100-03-01 00:00"),
    ] {
        let clock = clock(now);
        assert_eq!(clock.level, Level::Good);
        assert!(clock.what.contains(date), "{}", clock.what);
    }
    let wanted = Ipv4Addr::new(10, 77, 0, 1);
    let has = [Ipv4Addr::new(192, 0, 2, 2), wanted];
    assert_eq!(addresses("e", Some(wanted), &has).level, Level::Good);
    assert!(addresses("e", None, &has).what.contains("first address, 192.0.2.2"));
    let other = addresses("e", Some(wanted), &has[..1]);
    assert!(
        other.what.contains("has 192.0.2.2, and the site file says server.address = \"10.77.0.1\""),
        "{other:?}"
    );
    assert!(other.remedy.contains("ip address add 10.77.0.1/24 dev e"));
    assert!(addresses("e", None, &[]).what.contains("no IPv4 address"));
    let closed = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t\tudp dport { 67, 69 } accept\n\t}\n}";
    let found = firewall(Some(closed), &setup());
    assert!(found.level == Level::Bad && found.what.contains("4011, 80, 8443"), "{found:?}");
    let open = closed.replace("67, 69", "67, 69, 4011, 80, 8443");
    assert_eq!(firewall(Some(&open), &setup()).level, Level::Good);
    assert_eq!(firewall(Some("table inet filter {\n\tchain forward { type filter hook forward priority 0; policy drop; }\n}"), &setup()).level, Level::Good);
    assert_eq!(firewall(None, &setup()).level, Level::Doubt);
}

#[test]
fn everything_is_looked_at_even_when_all_of_it_is_bad() {
    let found = check_host(&HostSetup { interface: Some("none0".into()), ..setup() });
    let text: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
    let text = text.join("\n");
    for part in [
        "no interface none0",
        "UDP port 67",
        "TCP port 80",
        "neighbour table",
        "firewall",
        "undionly.kpxe",
        "/nowhere/linux",
        "boot bundle",
        "clock",
        "MB free",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(
        found.iter().all(|finding| finding.level == Level::Good || !finding.remedy.is_empty()),
        "{found:#?}"
    );
}
