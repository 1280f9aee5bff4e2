//! Which node gets which address, and for how long.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp_wire::{MessageKind, PacketView, code};

use super::{Kind, LEASE, SERVER, World, kind_of, node, settings};
use crate::{OFFER_HOLD, Port, QUARANTINE, Reason, Reservation};

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
    let other = super::node(2, Kind::System);
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
fn reserved_address_is_its_node_s_and_nobody_else_s() {
    let mut settings = settings(3);
    let (inside, outside) = (Ipv4Addr::new(10, 77, 0, 101), Ipv4Addr::new(10, 77, 0, 20));
    let reservation = |number, address| Reservation { mac: node(number, Kind::System).mac, address };
    settings.reservations = vec![reservation(1, inside), reservation(2, outside)];
    let mut world = World::with(settings);
    let others: Vec<_> = (3..=5).map(|number| world.address(&node(number, Kind::System))).collect();
    assert!(
        others[0].is_some() && others[1].is_some() && others[2].is_none() && !others.contains(&Some(inside))
    );
    assert_eq!(world.address(&node(1, Kind::UefiPxe)), Some(inside));
    assert_eq!(world.address(&node(2, Kind::System)), Some(outside), "also one beside the pool");
    assert_eq!(kind_of(world.send(&node(3, Kind::System).reboot_with(outside))), Some(MessageKind::Nak));
    world.restart();
    assert_eq!(world.address(&node(1, Kind::System)), Some(inside));
    // A node asks for what it had before it got a reservation.
    let had = Ipv4Addr::new(10, 77, 0, 100);
    assert_eq!(kind_of(world.send(&node(1, Kind::System).reboot_with(had))), Some(MessageKind::Nak));
    // Whoever forges a DECLINE locks nobody out.
    assert_eq!(world.send(&node(1, Kind::System).decline(inside)), None);
    assert_eq!(world.reason, Some(Reason::ReservedInUse(inside)));
    assert_eq!(world.address(&node(1, Kind::System)), Some(inside));
}

#[test]
fn lease_that_a_reservation_replaces_is_not_given_to_another_while_it_lasts() {
    let mut world = World::new(1);
    let had = world.address(&node(1, Kind::System)).unwrap();
    let mac = node(1, Kind::System).mac;
    world.settings.reservations.push(Reservation { mac, address: Ipv4Addr::new(10, 77, 0, 20) });
    world.restart();
    assert_eq!(world.send(&node(2, Kind::System).discover()), None);
    assert_eq!(world.address(&node(1, Kind::System)), Some(Ipv4Addr::new(10, 77, 0, 20)));
    world.wait(LEASE);
    assert_eq!(world.address(&node(2, Kind::System)), Some(had));
}

#[test]
fn several_pools_of_one_network_are_all_used() {
    let mut settings = settings(2);
    let more = Ipv4Addr::new(10, 77, 0, 200)..=Ipv4Addr::new(10, 77, 0, 202);
    settings.subnets[0].pools.push(more);
    let mut world = World::with(settings);
    let mut addresses: Vec<u8> =
        (1..=5).map(|number| world.address(&node(number, Kind::System)).unwrap().octets()[3]).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, [100, 101, 200, 201, 202]);
    assert_eq!(world.send(&node(6, Kind::System).discover()), None);
}

#[test]
fn authoritative_server_says_no_to_what_it_does_not_know() {
    let (elsewhere, foreign) = (Ipv4Addr::new(192, 168, 1, 5), Ipv4Addr::new(10, 77, 0, 9));
    for authoritative in [false, true] {
        let mut settings = settings(10);
        settings.authoritative = authoritative;
        let mut world = World::with(settings);
        let expected = authoritative.then_some(MessageKind::Nak);
        for (number, address) in [(1, elsewhere), (2, foreign)] {
            assert_eq!(kind_of(world.send(&node(number, Kind::System).reboot_with(address))), expected);
        }
        // What belongs to another server by the node's own word is left to it.
        assert_eq!(world.send(&node(3, Kind::System).select_of(foreign, elsewhere)), None);
    }
}

#[test]
fn options_of_the_network_are_told() {
    let mut settings = settings(10);
    settings.subnets[0].domain = Some("site.example".into());
    settings.subnets[0].router = Some(Ipv4Addr::new(10, 77, 0, 254));
    settings.subnets[0].lease = Duration::from_secs(120);
    let (_, ack) = World::with(settings).dora(&node(1, Kind::System)).unwrap();
    let packet = PacketView::new(&ack.bytes).unwrap();
    assert_eq!(packet.option(code::DOMAIN_NAME).unwrap().as_ref(), b"site.example");
    assert_eq!(packet.address_option(code::ROUTER), Some(Ipv4Addr::new(10, 77, 0, 254)));
    assert_eq!(packet.number_option(code::LEASE_TIME), Some(120));
    assert_eq!(packet.number_option(code::RENEWAL_TIME), Some(60));
    assert_eq!(packet.number_option(code::REBINDING_TIME), Some(105));
}
