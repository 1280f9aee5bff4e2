//! Nodes behind relays.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcp_wire::{MessageKind, PacketView, code};

use super::{Kind, RELAY, World, describe, golden, kind_of, node, settings};
use crate::{Port, Reason};

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
fn node_behind_a_relay_renews_straight_with_the_server() {
    let mut world = World::new(10);
    let relayed = |kind, address: Option<Ipv4Addr>| {
        let mut message = node(1, Kind::System).message(kind);
        if let Some(address) = address {
            message.set_address(code::REQUESTED_ADDRESS, address);
        }
        message.set_giaddr(RELAY).encode().unwrap()
    };
    let offer = world.send(&relayed(MessageKind::Discover, None)).unwrap();
    let address = PacketView::new(&offer.bytes).unwrap().yiaddr();
    let ack = world.send(&relayed(MessageKind::Request, Some(address)));
    assert_eq!((kind_of(ack), address.octets()[1]), (Some(MessageKind::Ack), 78));
    let source = SocketAddrV4::new(address, 68);
    let ack = world.send_to(Port::Dhcp, source, &node(1, Kind::System).renew(address)).unwrap();
    let packet = PacketView::new(&ack.bytes).unwrap();
    assert_eq!(
        (ack.to, packet.yiaddr(), packet.address_option(code::ROUTER)),
        (source, address, Some(RELAY))
    );
    world.send_to(Port::Dhcp, source, &node(1, Kind::System).release(address));
    assert_eq!(world.stored.len(), 1);
}

#[test]
fn relay_outside_its_network_is_known_by_its_address() {
    let mut settings = settings(10);
    let relay = Ipv4Addr::new(172, 16, 0, 1);
    settings.subnets[1].relays.push(relay);
    let mut world = World::with(settings);
    let mut message = node(1, Kind::System).message(MessageKind::Discover);
    let offer = world.send(&message.set_giaddr(relay).encode().unwrap()).unwrap();
    assert_eq!(PacketView::new(&offer.bytes).unwrap().yiaddr().octets()[1], 78);
    // It names a network that is none of ours: nothing else is meant (RFC 3527 section 3).
    message.set_bytes(code::RELAY_AGENT, &[5, 4, 10, 99, 0, 0]).unwrap();
    assert_eq!(world.send(&message.encode().unwrap()), None);
    assert_eq!(world.reason, Some(Reason::UnknownRelay(relay)));
}

#[test]
fn reserved_node_gets_its_address_in_each_of_its_networks() {
    let mut settings = settings(10);
    let mac = node(1, Kind::System).mac;
    let addresses = [Ipv4Addr::new(10, 77, 0, 50), Ipv4Addr::new(10, 78, 0, 50)];
    settings.reservations = addresses.map(|address| crate::Reservation { mac, address }).to_vec();
    let mut world = World::with(settings);
    assert_eq!(world.address(&node(1, Kind::System)), Some(addresses[0]));
    let mut message = node(1, Kind::System).message(MessageKind::Discover);
    let offer = world.send(&message.set_giaddr(RELAY).encode().unwrap()).unwrap();
    assert_eq!(PacketView::new(&offer.bytes).unwrap().yiaddr(), addresses[1]);
}

/// RFC 3527 section 3: the link selection says which network is meant, giaddr only where the answer goes. What a node puts
/// into option 82 without a relay means nothing.
#[test]
fn link_selection_goes_before_the_relay_s_address_and_that_before_its_name_in_the_settings() {
    let elsewhere = Ipv4Addr::new(172, 16, 0, 1);
    let unknown = Ipv4Addr::new(172, 16, 0, 9);
    let own = Ipv4Addr::new(10, 77, 0, 254);
    let link = |second: u8| vec![5, 4, 10, second, 0, 0];
    let circuit = vec![1, 1, b'x'];
    let cases = [
        // giaddr, option 82, second number of the network that the node is on
        (RELAY, link(77), Some(77), "both name a network of ours, and differ"),
        (own, link(78), Some(78), "the other way round"),
        (RELAY, [circuit.clone(), link(77)].concat(), Some(77), "behind another sub-option"),
        (unknown, link(78), Some(78), "the relay itself is nowhere"),
        (elsewhere, link(77), Some(77), "the relay is named with another network"),
        (RELAY, link(99), None, "none of ours: nothing else is meant"),
        (RELAY, vec![5, 3, 10, 77, 0], Some(78), "no address: as if it were not there"),
        (RELAY, vec![5, 4, 0, 0, 0, 0], None, "an address that is no network's"),
        (RELAY, circuit.clone(), Some(78), "only the relay's own address"),
        (elsewhere, circuit.clone(), Some(78), "only its name in the settings"),
        (unknown, circuit, None, "nothing of it is known"),
        (Ipv4Addr::UNSPECIFIED, link(78), Some(77), "no relay: the node is on our own link"),
    ];
    for (relay, option, network, why) in cases {
        let mut settings = settings(10);
        settings.subnets[1].relays.push(elsewhere);
        let mut world = World::with(settings);
        let mut message = node(1, Kind::UefiPxe).message(MessageKind::Discover);
        message.set_giaddr(relay).set_bytes(code::RELAY_AGENT, &option).unwrap();
        let offer = world.send_to(Port::Dhcp, SocketAddrV4::new(relay, 67), &message.encode().unwrap());
        let given = offer.as_ref().map(|offer| PacketView::new(&offer.bytes).unwrap().yiaddr().octets()[1]);
        assert_eq!(given, network, "{why}");
        if let Some(offer) = offer.filter(|_| !relay.is_unspecified()) {
            assert_eq!(offer.to, SocketAddrV4::new(relay, 67), "{why}: the answer goes where the relay is");
        }
    }
}
