//! Packets of strangers to the DHCP server and to a node that asks one, and the server behind them.
//!
//! Each function takes one input of the fuzzer and panics if a rule is broken. The targets are one line each;
//! `crates/dhcp-engine/tests/corpus.rs` replays the corpora with the toolchain of every day.

mod moves;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp_engine::{
    Action, BootNames, Datagram, Engine, Hint, LeaseRecord, Mode, Moment, Port, Prefix, Reply, Reservation,
    Settings, Subnet, UefiLoader, UefiProxy,
};
use dhcp_wire::{Asker, MacAddr, Message, MessageKind, PACKET_BYTES_MIN, PacketView, code, unwrap_udp};
use moves::Moves;

/// Longest sequence; more moves find nothing that these don't, and cost time.
const MOVES_MAX: usize = 400;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const LEASE: Duration = Duration::from_secs(600);
/// First address of each network's pool, of [`POOL`] addresses: small, so that nodes compete.
const FIRST: u8 = 100;
const POOL: u8 = 4;
/// Nodes; those below [`KNOWN`] are known, and the first has a reservation.
const NODES: u8 = 8;
const KNOWN: u8 = 3;
const RESERVED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, FIRST + 1);

/// Whatever stands in a packet, reading it ends, and our answer to it can be read again and carries back what it
/// must. A node reads it too.
pub fn dhcp_packet(data: &[u8]) {
    let _ = unwrap_udp(data);
    let asker = Asker { mac: mac(0), xid: 7, secs: 0, vendor_class: "esir" };
    let _ = asker.read(data);
    let Ok(packet) = PacketView::new(data) else { return };
    assert!(packet.options().count() <= data.len());
    let _ = (packet.boot_file(), packet.server_name(), packet.architectures(), packet.machine_uuid());
    let _ = (packet.kind(), packet.secs(), packet.hops(), format!("{packet:?}"));
    for code in 0..=u8::MAX {
        let _ = (packet.option(code), packet.relay_option(code), packet.addresses_option(code));
    }
    let Some(answer) = Message::answer(&packet, MessageKind::Offer) else { return };
    let bytes = answer.encode().expect("an answer without options of ours");
    assert!(bytes.len() >= PACKET_BYTES_MIN);
    let again = PacketView::new(&bytes).expect("our own packet");
    assert_eq!(
        (again.mac(), again.xid(), again.giaddr(), again.wants_broadcast(), again.kind()),
        (packet.mac(), packet.xid(), packet.giaddr(), packet.wants_broadcast(), Some(MessageKind::Offer))
    );
    let relay = packet.option(code::RELAY_AGENT).unwrap_or_default();
    assert_eq!(again.option(code::RELAY_AGENT).unwrap_or_default(), relay);
}

/// A server among nodes that do anything in any order, is killed and started again. Never do two nodes have one
/// address, never does another node get a reserved one, nothing is acknowledged before it is stored, and every
/// answer can be read. The first byte chooses the settings.
pub fn dhcp_engine(data: &[u8]) {
    let mut moves = Moves(data);
    let Some(choice) = moves.byte() else { return };
    let mut world = World::new(settings(choice));
    for _ in 0..MOVES_MAX {
        if world.step(&mut moves).is_none() {
            return;
        }
    }
}

struct World {
    settings: Settings,
    engine: Engine,
    now: Moment,
    stored: BTreeMap<String, Vec<u8>>,
    /// Who may use which address until when, as a bystander knows it who reads the store; nobody in quarantine.
    held: BTreeMap<Ipv4Addr, (Option<MacAddr>, Moment)>,
}

impl World {
    fn new(settings: Settings) -> Self {
        let engine = Engine::new(settings.clone());
        Self { settings, engine, now: Moment(1_000_000), stored: BTreeMap::new(), held: BTreeMap::new() }
    }

    fn step(&mut self, moves: &mut Moves<'_>) -> Option<()> {
        match moves.byte()? % 8 {
            0 => {
                let seconds = u64::from(moves.byte()?);
                self.now = self.now.after(Duration::from_millis(seconds * seconds * 100));
            }
            1 => self.receive(Port::Dhcp, NOWHERE, moves.bytes()?),
            2 => {
                let (mac, address) = (mac(moves.byte()? % NODES), address(moves.byte()?));
                if let Some(action) = self.engine.hear_arp(self.now, &hint, address, mac) {
                    self.act(action);
                }
            }
            3 => {
                while let Some(reply) = self.engine.handle_timeout(self.now, &hint) {
                    self.reads(&reply);
                }
                assert!(self.engine.poll_timeout().is_none_or(|next| next > self.now), "an offer was left");
            }
            4 if moves.byte()? % 8 == 0 => self.restart(),
            _ => {
                let (port, source, packet) = packet(moves)?;
                self.receive(port, source, &packet);
            }
        }
        Some(())
    }

    fn restart(&mut self) {
        self.engine = Engine::new(self.settings.clone());
        for (key, value) in &self.stored {
            let record = LeaseRecord::read(key, value).expect("our own record");
            assert!(self.engine.restore(&record, hint(record.mac)), "what was given is taken over");
        }
    }

    fn receive(&mut self, port: Port, source: SocketAddrV4, bytes: &[u8]) {
        let handled = self.engine.handle(self.now, &hint, Datagram { port, source, bytes });
        self.act(handled.action);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ignore(_) => {}
            Action::Probe(_) => assert!(self.settings.probe),
            Action::Send(reply) => {
                let given = self.reads(&reply);
                assert!(given.is_none(), "acknowledged before it was stored");
            }
            Action::Store { record, reply } => {
                self.stored.insert(record.key(), record.value());
                let given = reply.as_ref().and_then(|reply| self.reads(reply));
                match given {
                    Some((mac, address)) => self.gives(&record, mac, address),
                    // Released or declined: by whoever has it.
                    None => {
                        let holder = Some(record.mac).filter(|_| !record.quarantined);
                        self.held.insert(record.address, (holder, record.until));
                    }
                }
            }
        }
    }

    fn gives(&mut self, record: &LeaseRecord, mac: MacAddr, address: Ipv4Addr) {
        assert_eq!((record.mac, record.address, record.quarantined), (mac, address, false));
        assert_eq!(record.until, self.now.after(LEASE));
        assert!(address != SERVER && (address != RESERVED || mac == self::mac(0)));
        if let Some((holder, until)) = self.held.get(&address) {
            assert!(
                *holder == Some(mac) || *until <= self.now,
                "{address} is {holder:?}'s until {until:?} and goes to {mac} at {:?}",
                self.now
            );
        }
        self.held.insert(address, (Some(mac), record.until));
    }

    /// The node and the address, if the answer gives one.
    fn reads(&self, reply: &Reply) -> Option<(MacAddr, Ipv4Addr)> {
        let packet = PacketView::new(&reply.bytes).expect("our own packet");
        assert!(packet.is_reply() && packet.option(code::SERVER_ID).is_some());
        assert!(self.settings.mode == Mode::Dhcp || packet.yiaddr().is_unspecified(), "the other server's");
        let gives = packet.kind() == Some(MessageKind::Ack) && !packet.yiaddr().is_unspecified();
        gives.then(|| (packet.mac().expect("a node"), packet.yiaddr()))
    }
}

const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

/// A packet whose parts are likely ones, with any options behind them.
fn packet(moves: &mut Moves<'_>) -> Option<(Port, SocketAddrV4, Vec<u8>)> {
    let (shape, node) = (moves.byte()?, moves.byte()?);
    let kinds = [
        MessageKind::Discover,
        MessageKind::Request,
        MessageKind::Request,
        MessageKind::Decline,
        MessageKind::Release,
        MessageKind::Inform,
    ];
    let kind = kinds.get(usize::from(node >> 4) % kinds.len()).copied()?;
    let mut message = Message::from_node(kind, mac(node % NODES), u32::from(shape));
    let mut source = NOWHERE;
    if shape & 1 != 0 {
        message.set_address(code::REQUESTED_ADDRESS, address(moves.byte()?));
    }
    if shape & 2 != 0 {
        let ciaddr = address(moves.byte()?);
        message.set_ciaddr(ciaddr);
        source = SocketAddrV4::new(ciaddr, 68);
    }
    if shape & 4 != 0 {
        message.set_address(code::SERVER_ID, if shape & 8 != 0 { SERVER } else { RESERVED });
    }
    if shape & 16 != 0 {
        message.set_giaddr(address(moves.byte()?));
    }
    if shape & 32 != 0 {
        message.set_bytes(code::RELAY_AGENT, moves.bytes()?).ok()?;
    }
    let mut bytes = message.encode().ok()?;
    if shape & 64 != 0 {
        // Behind the options, in place of END and padding.
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes.pop();
        bytes.extend_from_slice(moves.bytes()?);
    }
    let port = if shape & 128 != 0 { Port::Pxe } else { Port::Dhcp };
    Some((port, source, bytes))
}

fn settings(choice: u8) -> Settings {
    let subnet = |second: u8| Subnet {
        prefix: Prefix::new(Ipv4Addr::new(10, second, 0, 0), 24).expect("a length"),
        pools: vec![Ipv4Addr::new(10, second, 0, FIRST)..=Ipv4Addr::new(10, second, 0, FIRST + POOL - 1)],
        excluded: Vec::new(),
        relays: vec![Ipv4Addr::new(10, 2, 0, FIRST + second)],
        router: Some(Ipv4Addr::new(10, second, 0, 254)),
        dns: vec![SERVER],
        domain: Some("site.example".to_owned()),
        lease: LEASE,
    };
    Settings {
        server: SERVER,
        own_mac: Some(mac(200)),
        mode: if choice & 1 != 0 { Mode::Proxy } else { Mode::Dhcp },
        authoritative: choice & 2 != 0,
        probe: choice & 4 != 0,
        uefi_proxy: if choice & 8 != 0 { UefiProxy::Direct } else { UefiProxy::Binl },
        boot: BootNames {
            script_url: "http://10.0.0.1/boot.ipxe".to_owned(),
            bios: Some("undionly.kpxe".to_owned()),
            x64: Some("snponly.efi".to_owned()),
            x64_http_url: Some("http://10.0.0.1/ipxe.efi".to_owned()),
            x64_signed: Some("shimx64.efi".to_owned()),
        },
        subnets: vec![subnet(0), subnet(1)],
        reservations: vec![Reservation { mac: mac(0), address: RESERVED }],
    }
}

fn hint(node: MacAddr) -> Hint {
    let MacAddr([.., number]) = node;
    let loader = match number % 5 {
        0 => UefiLoader::Ipxe,
        1 => UefiLoader::IpxeFetched,
        2 => UefiLoader::SignedFetched,
        3 => UefiLoader::Nothing,
        _ => UefiLoader::Signed,
    };
    Hint { known: number < KNOWN, boots_locally: number % 2 == 1, left_alone: number % 8 == 1, loader }
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

/// Of one of the networks or of a relay outside them; mostly in a pool.
fn address(byte: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, byte & 1 | byte >> 6 & 2, 0, FIRST + (byte >> 1 & 7))
}
