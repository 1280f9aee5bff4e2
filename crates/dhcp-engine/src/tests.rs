//! Stories of nodes and the server, without sockets; the clock is a number.

mod addresses;
mod any_order;
mod hostile;
mod probes;
mod programs;
mod proxy;
mod recorded;
mod relays;
mod settings_change;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use dhcp_wire::{MacAddr, Message, MessageKind, PacketView, code};

use crate::{
    Action, BootNames, Datagram, Engine, Hint, LeaseRecord, Mode, Moment, Port, Prefix, Reason, Reply, Seen,
    Settings, Subnet, UefiLoader, UefiProxy,
};

/// Set to anything, tests write what they see instead of comparing; then look at the difference with git.
const REFRESH: &str = "ESIR_REFRESH_GOLDENS";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 254);
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
/// As the server of boot scripts has it.
const SCRIPT_URL: &str = "http://10.77.0.1/boot.ipxe?mac=${mac:hexhyp}&uuid=${uuid}&platform=${platform}&serial=${serial:uristring}";
const LEASE: Duration = Duration::from_secs(3600);

fn settings(addresses: u8) -> Settings {
    let subnet = |third: u8| Subnet {
        prefix: Prefix::new(Ipv4Addr::new(10, third, 0, 0), 24).unwrap(),
        pools: vec![Ipv4Addr::new(10, third, 0, 100)..=Ipv4Addr::new(10, third, 0, 99 + addresses)],
        excluded: Vec::new(),
        relays: Vec::new(),
        router: (third != 77).then_some(RELAY),
        dns: vec![SERVER],
        domain: None,
        lease: LEASE,
    };
    Settings {
        server: SERVER,
        own_mac: None,
        mode: Mode::Dhcp,
        authoritative: false,
        probe: false,
        uefi_proxy: UefiProxy::Binl,
        reservations: Vec::new(),
        boot: BootNames {
            script_url: SCRIPT_URL.into(),
            bios: Some("undionly.kpxe".into()),
            x64: Some("snponly.efi".into()),
            x64_http_url: Some("http://10.77.0.1/ipxe.efi".into()),
            x64_signed: Some("shimx64.efi".into()),
        },
        subnets: vec![subnet(77), subnet(78)],
    }
}

/// A server, its store and the time.
struct World {
    settings: Settings,
    engine: Engine,
    now: Moment,
    stored: BTreeMap<String, Vec<u8>>,
    seen: Vec<Seen>,
    reason: Option<Reason>,
    /// Addresses that the link was asked about.
    probed: Vec<Ipv4Addr>,
    known: Vec<MacAddr>,
    local: Vec<MacAddr>,
    alone: Vec<MacAddr>,
    loader: UefiLoader,
}

impl World {
    fn new(addresses: u8) -> Self {
        Self::with(settings(addresses))
    }

    fn with(settings: Settings) -> Self {
        Self {
            engine: Engine::new(settings.clone()),
            settings,
            now: Moment(1_000_000),
            stored: BTreeMap::new(),
            seen: Vec::new(),
            reason: None,
            probed: Vec::new(),
            known: Vec::new(),
            local: Vec::new(),
            alone: Vec::new(),
            loader: UefiLoader::Ipxe,
        }
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now.after(span);
    }

    fn hint(&self) -> impl Fn(MacAddr) -> Hint + use<> {
        let (known, local, alone) = (self.known.clone(), self.local.clone(), self.alone.clone());
        let loader = self.loader;
        move |mac| Hint {
            known: known.contains(&mac),
            boots_locally: local.contains(&mac) || alone.contains(&mac),
            left_alone: alone.contains(&mac),
            loader,
        }
    }

    /// The server is killed and started again: only what is in the store is left.
    fn restart(&mut self) {
        assert_eq!(self.restart_with_what_fits(), self.stored.len());
    }

    /// Likewise, where not every lease is of a pool; how many are.
    fn restart_with_what_fits(&mut self) -> usize {
        self.engine = Engine::new(self.settings.clone());
        let records = self.stored.iter().map(|(key, value)| LeaseRecord::read(key, value).unwrap());
        let hint = self.hint();
        records.filter(|record| self.engine.restore(record, hint(record.mac))).count()
    }

    fn send_to(&mut self, port: Port, source: SocketAddrV4, bytes: &[u8]) -> Option<Reply> {
        let hint = self.hint();
        let handled = self.engine.handle(self.now, &hint, Datagram { port, source, bytes });
        self.seen.extend(handled.seen);
        self.act(handled.action)
    }

    fn act(&mut self, action: Action) -> Option<Reply> {
        self.reason = None;
        match action {
            Action::Ignore(reason) => {
                self.reason = Some(reason);
                None
            }
            Action::Send(reply) => {
                let kind = PacketView::new(&reply.bytes).unwrap().kind().unwrap();
                let gives = kind == MessageKind::Ack
                    && !PacketView::new(&reply.bytes).unwrap().yiaddr().is_unspecified();
                assert!(!gives, "an address is given only after it is stored");
                Some(reply)
            }
            Action::Store { record, reply } => {
                self.stored.insert(record.key(), record.value());
                reply
            }
            Action::Probe(address) => {
                self.probed.push(address);
                None
            }
        }
    }

    fn send(&mut self, packet: &[u8]) -> Option<Reply> {
        self.send_to(Port::Dhcp, NOWHERE, packet)
    }

    /// DISCOVER, OFFER, REQUEST, ACK.
    fn dora(&mut self, node: &Node) -> Option<(Reply, Reply)> {
        let offer = self.send(&node.discover())?;
        let offered = PacketView::new(&offer.bytes).unwrap().yiaddr();
        let ack = self.send(&node.select(offered))?;
        Some((offer, ack))
    }

    /// The address that the node ends up with.
    fn address(&mut self, node: &Node) -> Option<Ipv4Addr> {
        let (_, ack) = self.dora(node)?;
        let ack = PacketView::new(&ack.bytes).unwrap();
        (ack.kind() == Some(MessageKind::Ack)).then(|| ack.yiaddr())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    BiosRom,
    UefiPxe,
    UefiHttp,
    IpxeBios,
    IpxeUefi,
    System,
}

#[derive(Clone, Copy)]
struct Node {
    mac: MacAddr,
    kind: Kind,
}

fn node(number: u8, kind: Kind) -> Node {
    Node { mac: MacAddr([0x52, 0x54, 0, 0, 0, number]), kind }
}

impl Node {
    fn message(&self, kind: MessageKind) -> Message {
        let mut message = Message::from_node(kind, self.mac, 0x1234_5678);
        let firmware = |message: &mut Message, class: &str, arch: u8| {
            message.set_broadcast();
            message.set_bytes(code::VENDOR_CLASS, class.as_bytes()).unwrap();
            message.set_bytes(code::ARCHITECTURE, &[0, arch]).unwrap();
            message.set_bytes(code::NETWORK_INTERFACE, &[1, 3, 0]).unwrap();
            message.set_bytes(code::MACHINE_ID, &[&[0][..], &[0x11; 16]].concat()).unwrap();
        };
        match self.kind {
            Kind::BiosRom => firmware(&mut message, "PXEClient:Arch:00000:UNDI:002001", 0),
            Kind::UefiPxe => firmware(&mut message, "PXEClient:Arch:00007:UNDI:003000", 7),
            Kind::UefiHttp => firmware(&mut message, "HTTPClient:Arch:00016:UNDI:003001", 16),
            Kind::IpxeBios | Kind::IpxeUefi => {
                let arch = if self.kind == Kind::IpxeBios { 0 } else { 7 };
                firmware(&mut message, &format!("PXEClient:Arch:0000{arch}:UNDI:003001"), arch);
                message.set_bytes(code::USER_CLASS, b"iPXE").unwrap();
                message.set_bytes(code::IPXE, &[0x13, 1, 1]).unwrap();
                message.set_bytes(code::CLIENT_ID, &[&[1], &self.mac.0[..]].concat()).unwrap();
            }
            Kind::System => {
                message.set_bytes(code::CLIENT_ID, &[255, 1, 2, 3, 4, 0, 4, 9, 9, 9, 9]).unwrap();
                message.set_bytes(code::HOST_NAME, b"n1").unwrap();
            }
        }
        message
    }

    fn discover(&self) -> Vec<u8> {
        self.message(MessageKind::Discover).encode().unwrap()
    }

    /// Takes our offer.
    fn select(&self, address: Ipv4Addr) -> Vec<u8> {
        self.select_of(SERVER, address)
    }

    fn select_of(&self, server: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
        let mut message = self.message(MessageKind::Request);
        message
            .set_address(code::REQUESTED_ADDRESS, address)
            .set_address(code::SERVER_ID, server)
            .encode()
            .unwrap()
    }

    /// Has had this address before it was started (INIT-REBOOT).
    fn reboot_with(&self, address: Ipv4Addr) -> Vec<u8> {
        self.message(MessageKind::Request).set_address(code::REQUESTED_ADDRESS, address).encode().unwrap()
    }

    fn renew(&self, address: Ipv4Addr) -> Vec<u8> {
        self.message(MessageKind::Request).set_ciaddr(address).encode().unwrap()
    }

    fn release(&self, address: Ipv4Addr) -> Vec<u8> {
        let mut message = self.message(MessageKind::Release);
        message.set_ciaddr(address).set_address(code::SERVER_ID, SERVER).encode().unwrap()
    }

    fn decline(&self, address: Ipv4Addr) -> Vec<u8> {
        let mut message = self.message(MessageKind::Decline);
        message
            .set_address(code::REQUESTED_ADDRESS, address)
            .set_address(code::SERVER_ID, SERVER)
            .encode()
            .unwrap()
    }
}

fn reply_kind(reply: &Reply) -> MessageKind {
    PacketView::new(&reply.bytes).unwrap().kind().unwrap()
}

fn kind_of(reply: Option<Reply>) -> Option<MessageKind> {
    PacketView::new(&reply?.bytes).unwrap().kind()
}

/// Compares `actual` with the file `goldens/NAME.txt`.
fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/goldens").join(format!("{name}.txt"));
    if std::env::var_os(REFRESH).is_some() {
        return std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs; {REFRESH}=1 writes it anew", path.display());
}

/// A packet for people: its fields, its options, then its bytes.
fn describe(bytes: &[u8]) -> String {
    let packet = PacketView::new(bytes).expect("a DHCP packet");
    let mut text = String::new();
    let file = String::from_utf8_lossy(&bytes[108..236]).trim_end_matches('\0').to_owned();
    let (kind, broadcast) = (packet.kind().expect("a kind"), packet.wants_broadcast());
    writeln!(text, "{kind:?} {} xid={:08x} broadcast={broadcast}", packet.mac().unwrap(), packet.xid())
        .unwrap();
    let (ci, yi, si, gi) = (packet.ciaddr(), packet.yiaddr(), packet.siaddr(), packet.giaddr());
    writeln!(text, "ciaddr={ci} yiaddr={yi} siaddr={si} giaddr={gi}").unwrap();
    writeln!(text, "sname={:?} file={file:?}", String::from_utf8_lossy(packet.server_name())).unwrap();
    for (code, value) in packet.options() {
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let readable =
            value.iter().filter(|byte| byte.is_ascii_graphic()).count() + 1 >= value.len() && value.len() > 4;
        let note = if readable { format!("  {:?}", String::from_utf8_lossy(value)) } else { String::new() };
        writeln!(text, "{code:>3}: {hex}{note}").unwrap();
    }
    writeln!(text, "{} bytes", bytes.len()).unwrap();
    for (number, row) in bytes.chunks(32).enumerate().filter(|(_, row)| row.iter().any(|byte| *byte != 0)) {
        let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{:04x} {hex}", number * 32).unwrap();
    }
    text
}
