//! Stories of nodes and the server, without sockets; the clock is a number.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp_wire::{MacAddr, Message, MessageKind, PacketView, code};
use proptest::prelude::*;

use super::engine::{Action, Engine, Port, Reason, Reply};
use super::leases::{LeaseRecord, OFFER_HOLD, QUARANTINE};
use super::{BootNames, Moment, Prefix, Settings, Subnet};
use crate::netboot::policy::{Architecture, DhcpSeen, Program};
use crate::netboot::tests::{describe, golden};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 254);
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
const LEASE: Duration = Duration::from_secs(3600);

fn settings(addresses: u8) -> Settings {
    let subnet = |third: u8| Subnet {
        prefix: Prefix::new(Ipv4Addr::new(10, third, 0, 0), 24).unwrap(),
        pool: Ipv4Addr::new(10, third, 0, 100)..=Ipv4Addr::new(10, third, 0, 99 + addresses),
        excluded: Vec::new(),
        router: (third != 77).then_some(RELAY),
        dns: vec![SERVER],
    };
    Settings {
        server: SERVER,
        lease: LEASE,
        boot: BootNames {
            script_url: crate::netboot::http::script_url(SocketAddrV4::new(SERVER, 80)),
            bios: Some("undionly.kpxe".into()),
            x64: Some("snponly.efi".into()),
            x64_http_url: Some("http://10.77.0.1/ipxe.efi".into()),
        },
        subnets: vec![subnet(77), subnet(78)],
    }
}

/// A server, its store and the time.
struct World {
    engine: Engine,
    now: Moment,
    stored: BTreeMap<String, Vec<u8>>,
    seen: Vec<DhcpSeen>,
    reason: Option<Reason>,
}

impl World {
    fn new(addresses: u8) -> Self {
        let engine = Engine::new(settings(addresses));
        Self { engine, now: Moment(1_000_000), stored: BTreeMap::new(), seen: Vec::new(), reason: None }
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now.after(span);
    }

    /// The server is killed and started again: only what is in the store is left.
    fn restart(&mut self) {
        self.engine = Engine::new(settings(10));
        for (key, value) in &self.stored {
            assert!(self.engine.restore(&LeaseRecord::read(key, value).unwrap()));
        }
    }

    fn send_to(&mut self, port: Port, source: SocketAddrV4, packet: &[u8]) -> Option<Reply> {
        let handled = self.engine.handle(self.now, port, source, packet);
        self.seen.extend(handled.seen);
        self.reason = None;
        match handled.action {
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

fn kind_of(reply: Option<Reply>) -> Option<MessageKind> {
    PacketView::new(&reply?.bytes).unwrap().kind()
}

#[test]
fn each_program_is_told_what_it_can_load() {
    let programs = [
        (Kind::BiosRom, "bios-rom", Program::PxeRom(Architecture::Bios)),
        (Kind::UefiPxe, "uefi-pxe", Program::PxeRom(Architecture::X64)),
        (Kind::UefiHttp, "uefi-http", Program::UefiHttp(Architecture::X64)),
        (Kind::IpxeBios, "ipxe-bios", Program::Ipxe),
        (Kind::IpxeUefi, "ipxe-uefi", Program::Ipxe),
        (Kind::System, "system", Program::System),
    ];
    for (kind, name, program) in programs {
        let mut world = World::new(10);
        let (offer, ack) = world.dora(&node(1, kind)).unwrap();
        assert_eq!((offer.to.to_string().as_str(), offer.from), ("255.255.255.255:68", Port::Dhcp));
        assert_eq!(ack.to, offer.to);
        golden(&format!("dhcp-{name}-offer"), &describe(&offer.bytes));
        golden(&format!("dhcp-{name}-ack"), &describe(&ack.bytes));
        let seen = world.seen.last().unwrap();
        assert_eq!((seen.mac, seen.program), (node(1, kind).mac, program));
        assert_eq!(seen.uuid.is_some(), kind != Kind::System);
    }
}

#[test]
fn one_address_through_rom_ipxe_agent_and_system() {
    let mut world = World::new(10);
    let first = world.address(&node(1, Kind::UefiPxe)).unwrap();
    for kind in [Kind::IpxeUefi, Kind::System, Kind::UefiPxe, Kind::IpxeUefi, Kind::System] {
        world.wait(Duration::from_secs(20));
        assert_eq!(world.address(&node(1, kind)), Some(first), "{kind:?}");
    }
    world.wait(LEASE * 3);
    assert_eq!(world.address(&node(1, Kind::UefiPxe)), Some(first), "also after the lease has ended");
}

#[test]
fn restarted_server_keeps_the_leases() {
    let mut world = World::new(10);
    let addresses: Vec<_> =
        (1..=8).map(|number| world.address(&node(number, Kind::System)).unwrap()).collect();
    world.restart();
    // In the other order, so that it cannot be chance.
    for number in (1..=8).rev() {
        assert_eq!(world.address(&node(number, Kind::IpxeBios)), Some(addresses[usize::from(number) - 1]));
    }
}

#[test]
fn server_restarted_between_offer_and_request_still_gives_the_address() {
    let mut world = World::new(10);
    let offer = world.send(&node(1, Kind::UefiPxe).discover()).unwrap();
    let offered = PacketView::new(&offer.bytes).unwrap().yiaddr();
    world.restart();
    assert_eq!(kind_of(world.send(&node(1, Kind::UefiPxe).select(offered))), Some(MessageKind::Ack));
}

#[test]
fn repeated_discovers_are_offered_the_same_address() {
    let mut world = World::new(10);
    let node = node(1, Kind::UefiPxe);
    let first = world.send(&node.discover()).unwrap();
    for seconds in [4, 8, 16, 32] {
        world.wait(Duration::from_secs(seconds));
        assert_eq!(world.send(&node.discover()).unwrap(), first);
    }
}

#[test]
fn full_pool_is_silent_until_an_offer_or_a_lease_has_ended() {
    let mut world = World::new(2);
    let first = world.address(&node(1, Kind::System)).unwrap();
    world.send(&node(2, Kind::System).discover()).unwrap();
    assert_eq!(world.send(&node(3, Kind::System).discover()), None);
    assert_eq!(world.reason, Some(Reason::PoolExhausted));
    world.wait(OFFER_HOLD);
    let third = world.address(&node(3, Kind::System)).unwrap();
    assert_ne!(third, first);
    assert_eq!(world.send(&node(4, Kind::System).discover()), None);
    world.wait(LEASE);
    assert!(world.address(&node(4, Kind::System)).is_some());
}

#[test]
fn free_address_is_given_back_to_a_system_that_remembers_it() {
    let mut world = World::new(10);
    let wanted = Ipv4Addr::new(10, 77, 0, 105);
    let ack = world.send(&node(1, Kind::System).reboot_with(wanted)).unwrap();
    assert_eq!(PacketView::new(&ack.bytes).unwrap().yiaddr(), wanted);
    assert_eq!(world.address(&node(1, Kind::IpxeBios)), Some(wanted));
    // Another's, or not the one that it has: no. Not ours to know: silence.
    assert_eq!(kind_of(world.send(&node(2, Kind::System).reboot_with(wanted))), Some(MessageKind::Nak));
    let other = Ipv4Addr::new(10, 77, 0, 106);
    assert_eq!(kind_of(world.send(&node(1, Kind::System).reboot_with(other))), Some(MessageKind::Nak));
    assert_eq!(world.send(&node(1, Kind::System).reboot_with(Ipv4Addr::new(192, 168, 1, 5))), None);
    assert_eq!(world.send(&node(3, Kind::System).reboot_with(SERVER)), None);
}

#[test]
fn renewal_is_answered_to_the_node_itself() {
    let mut world = World::new(10);
    let address = world.address(&node(1, Kind::System)).unwrap();
    world.wait(LEASE / 2);
    let source = SocketAddrV4::new(address, 68);
    let ack = world.send_to(Port::Dhcp, source, &node(1, Kind::System).renew(address)).unwrap();
    assert_eq!((ack.to, kind_of(Some(ack))), (source, Some(MessageKind::Ack)));
    world.wait(LEASE / 2 + Duration::from_secs(60));
    assert_eq!(kind_of(world.send(&node(2, Kind::System).reboot_with(address))), Some(MessageKind::Nak));
}

#[test]
fn declined_address_rests_and_the_node_gets_another() {
    let mut world = World::new(10);
    let node = node(1, Kind::System);
    let bad = world.address(&node).unwrap();
    assert_eq!(world.send(&node.decline(bad)), None);
    let good = world.address(&node).unwrap();
    assert_ne!(bad, good);
    world.restart();
    let other = super::tests::node(2, Kind::System);
    assert_eq!(kind_of(world.send(&other.reboot_with(bad))), Some(MessageKind::Nak), "also after a restart");
    world.wait(QUARANTINE);
    assert_eq!(kind_of(world.send(&other.reboot_with(bad))), Some(MessageKind::Ack));
    // Nobody can put another's address to rest.
    assert_eq!(world.send(&other.decline(good)), None);
    assert_eq!(world.address(&node), Some(good));
}

#[test]
fn released_address_is_the_node_s_again_unless_another_needed_it() {
    let mut world = World::new(1);
    let address = world.address(&node(1, Kind::System)).unwrap();
    assert_eq!(world.send(&node(2, Kind::System).release(address)), None);
    assert_eq!(world.send(&node(2, Kind::System).discover()), None, "another cannot release it");
    world.send(&node(1, Kind::System).release(address));
    assert_eq!(world.address(&node(1, Kind::System)), Some(address));
    world.send(&node(1, Kind::System).release(address));
    assert_eq!(world.address(&node(2, Kind::System)), Some(address));
    assert_eq!(world.send(&node(1, Kind::System).discover()), None);
}

#[test]
fn offer_is_free_again_when_the_node_takes_another_server_s() {
    let mut world = World::new(1);
    let other = Ipv4Addr::new(10, 77, 0, 9);
    world.send(&node(1, Kind::System).discover()).unwrap();
    assert_eq!(world.send(&node(1, Kind::System).select_of(other, Ipv4Addr::new(10, 77, 0, 200))), None);
    assert_eq!(world.reason, Some(Reason::OtherServer(other)));
    assert!(world.address(&node(2, Kind::System)).is_some());
}

#[test]
fn firmware_that_asks_again_on_4011_is_answered_from_there() {
    let mut world = World::new(10);
    for (kind, name) in [(Kind::UefiPxe, "uefi-pxe"), (Kind::IpxeUefi, "ipxe-uefi")] {
        let node = node(1, kind);
        let address = world.address(&node).unwrap();
        let source = SocketAddrV4::new(address, 4011);
        let reply = world.send_to(Port::Pxe, source, &node.renew(address)).unwrap();
        assert_eq!((reply.to, reply.from), (source, Port::Pxe));
        golden(&format!("dhcp-{name}-4011"), &describe(&reply.bytes));
    }
    let system = node(2, Kind::System);
    assert_eq!(world.send_to(Port::Pxe, NOWHERE, &system.discover()), None);
}

#[test]
fn node_behind_a_relay_gets_an_address_of_its_own_network_through_it() {
    let mut world = World::new(10);
    let relayed = |raw: &[u8]| {
        let mut message = node(1, Kind::UefiPxe).message(MessageKind::Discover);
        message.set_giaddr(RELAY).set_bytes(code::RELAY_AGENT, raw).unwrap().encode().unwrap()
    };
    let circuit = [1, 4, b'e', b't', b'h', b'7'];
    let offer = world.send_to(Port::Dhcp, SocketAddrV4::new(RELAY, 67), &relayed(&circuit)).unwrap();
    let packet = PacketView::new(&offer.bytes).unwrap();
    assert_eq!(offer.to, SocketAddrV4::new(RELAY, 67));
    assert_eq!((packet.giaddr(), packet.yiaddr().octets()[1]), (RELAY, 78));
    assert_eq!(packet.option(code::RELAY_AGENT).unwrap().as_ref(), circuit);
    golden("dhcp-relayed-offer", &describe(&offer.bytes));

    // The relay says which network is meant (RFC 3527) and what we are to be called (RFC 5107).
    let chosen = [5, 4, 10, 77, 0, 0, 11, 4, 10, 78, 0, 254];
    let offer = world.send_to(Port::Dhcp, SocketAddrV4::new(RELAY, 67), &relayed(&chosen)).unwrap();
    let packet = PacketView::new(&offer.bytes).unwrap();
    assert_eq!((packet.yiaddr().octets()[1], packet.address_option(code::SERVER_ID)), (77, Some(RELAY)));

    let stranger = Ipv4Addr::new(10, 99, 0, 1);
    let mut message = node(2, Kind::System).message(MessageKind::Discover);
    assert_eq!(world.send(&message.set_giaddr(stranger).encode().unwrap()), None);
    assert_eq!(world.reason, Some(Reason::UnknownRelay(stranger)));
}

#[test]
fn inform_gets_settings_and_no_address_and_only_to_where_it_came_from() {
    let mut world = World::new(10);
    let address = Ipv4Addr::new(10, 77, 0, 7);
    let inform = node(1, Kind::System).message(MessageKind::Inform).set_ciaddr(address).encode().unwrap();
    let reply = world.send_to(Port::Dhcp, SocketAddrV4::new(address, 68), &inform).unwrap();
    let packet = PacketView::new(&reply.bytes).unwrap();
    assert_eq!((packet.yiaddr(), packet.number_option(code::LEASE_TIME)), (Ipv4Addr::UNSPECIFIED, None));
    assert_eq!(packet.address_option(code::DNS_SERVER), Some(SERVER));
    assert_eq!(world.send(&inform), None);
}

#[test]
fn firmware_without_its_boot_file_gets_a_plain_lease() {
    let mut world = World::new(10);
    let mut settings = settings(10);
    settings.boot = BootNames { script_url: settings.boot.script_url, ..BootNames::default() };
    world.engine = Engine::new(settings);
    for kind in [Kind::BiosRom, Kind::UefiPxe, Kind::UefiHttp] {
        let (_, ack) = world.dora(&node(1, kind)).unwrap();
        let packet = PacketView::new(&ack.bytes).unwrap();
        assert_eq!((packet.option(code::VENDOR_CLASS), packet.boot_file().as_ref()), (None, &b""[..]));
    }
}

#[test]
fn firmware_is_recognised_by_whatever_it_says() {
    let program = |class: &str, arch: &[u8]| {
        let mut world = World::new(10);
        let mut message = Message::from_node(MessageKind::Discover, node(1, Kind::System).mac, 1);
        message.set_bytes(code::VENDOR_CLASS, class.as_bytes()).unwrap();
        if !arch.is_empty() {
            message.set_bytes(code::ARCHITECTURE, arch).unwrap();
        }
        world.send(&message.encode().unwrap()).unwrap();
        world.seen[0].program
    };
    let (bios, x64) = (Program::PxeRom(Architecture::Bios), Program::PxeRom(Architecture::X64));
    assert_eq!(program("PXEClient", &[]), bios, "PXE 1");
    assert_eq!(program("PXEClient:Arch:00009:UNDI:003000", &[]), x64, "no option 93");
    assert_eq!(program("PXEClient:Arch:00007:UNDI:003000", &[0]), x64, "option 93 of one byte");
    assert_eq!(program("PXEClient", &[0, 6, 0, 9]), x64, "several, of which we have one");
    assert_eq!(program("PXEClient", &[0, 11]), Program::PxeRom(Architecture::Other(11)), "ARM");
    assert_eq!(program("PXEClie", &[0, 7]), Program::System);
}

#[test]
fn noisy_node_is_not_answered_for_ever() {
    let mut world = World::new(10);
    let answered = (0..100).filter(|_| world.send(&node(1, Kind::System).discover()).is_some()).count();
    assert!(answered < 30, "{answered}");
    assert_eq!(world.reason, Some(Reason::TooMany));
    assert!(world.send(&node(2, Kind::System).discover()).is_some());
}

#[test]
fn malformed_packets_change_nothing() {
    let mut world = World::new(10);
    let good = node(1, Kind::UefiPxe).discover();
    for cut in 0..240 {
        assert_eq!(world.send(&good[..cut]), None, "{cut} bytes");
    }
    for (at, value) in [(0, 2), (0, 0), (1, 7), (2, 255), (2, 0), (28, 0xff), (236, 0)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(world.send(&bad), None, "byte {at} = {value}");
    }
    assert!(world.seen.is_empty() && world.stored.is_empty());
}

/// What nodes may do, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Dora(u8),
    Discover(u8),
    Reboot(u8, u8),
    Select(u8, u8),
    Release(u8),
    Decline(u8),
    Wait(u16),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (node, address) = (0..8_u8, 98..112_u8);
    prop_oneof![
        4 => node.clone().prop_map(Step::Dora),
        2 => node.clone().prop_map(Step::Discover),
        2 => (node.clone(), address.clone()).prop_map(|(node, address)| Step::Reboot(node, address)),
        2 => (node.clone(), address).prop_map(|(node, address)| Step::Select(node, address)),
        1 => node.clone().prop_map(Step::Release),
        1 => node.prop_map(Step::Decline),
        3 => (0..4000_u16).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// What a bystander knows who only reads ACKs: who may use which address until when.
#[derive(Default)]
struct Bystander {
    held: HashMap<Ipv4Addr, (MacAddr, Moment)>,
}

impl Bystander {
    fn hears(&mut self, now: Moment, reply: Option<Reply>) {
        let Some(reply) = reply else { return };
        let packet = PacketView::new(&reply.bytes).unwrap();
        if packet.kind() != Some(MessageKind::Ack) {
            return;
        }
        let (mac, address) = (packet.mac().unwrap(), packet.yiaddr());
        if let Some((holder, until)) = self.held.get(&address) {
            assert!(
                *holder == mac || *until <= now,
                "{address} is {holder}'s until {until:?} and goes to {mac} at {now:?}"
            );
        }
        self.held.insert(address, (mac, now.after(LEASE)));
    }

    fn address_of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.held.iter().find(|(_, (holder, _))| *holder == mac).map(|(address, _)| *address)
    }
}

proptest! {
    #[test]
    fn two_nodes_never_have_one_address(steps in prop::collection::vec(step(), 1..120)) {
        let (mut world, mut bystander) = (World::new(10), Bystander::default());
        for step in steps {
            let in_pool = |last: u8| Ipv4Addr::new(10, 77, 0, last);
            let by = |number: u8| node(number, Kind::System);
            world.wait(Duration::from_millis(700));
            match step {
                Step::Dora(number) => {
                    if let Some((_, ack)) = world.dora(&by(number)) {
                        bystander.hears(world.now, Some(ack));
                    }
                }
                Step::Discover(number) => drop(world.send(&by(number).discover())),
                Step::Reboot(number, last) => {
                    let reply = world.send(&by(number).reboot_with(in_pool(last)));
                    bystander.hears(world.now, reply);
                }
                Step::Select(number, last) => {
                    let reply = world.send(&by(number).select(in_pool(last)));
                    bystander.hears(world.now, reply);
                }
                Step::Release(number) => {
                    if let Some(address) = bystander.address_of(by(number).mac) {
                        world.send(&by(number).release(address));
                        bystander.held.remove(&address);
                    }
                }
                Step::Decline(number) => {
                    if let Some(address) = bystander.address_of(by(number).mac) {
                        world.send(&by(number).decline(address));
                        bystander.held.remove(&address);
                    }
                }
                Step::Wait(seconds) => world.wait(Duration::from_secs(u64::from(seconds))),
                Step::Restart => world.restart(),
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), options in prop::collection::vec(any::<u8>(), 0..300), port in any::<bool>()) {
        let mut world = World::new(10);
        let port = if port { Port::Dhcp } else { Port::Pxe };
        world.send_to(port, NOWHERE, &bytes);
        let mut packet = node(1, Kind::UefiPxe).discover();
        packet.truncate(240);
        packet.extend(options);
        if let Some(reply) = world.send_to(port, NOWHERE, &packet) {
            prop_assert!(PacketView::new(&reply.bytes).is_ok());
        }
    }
}
