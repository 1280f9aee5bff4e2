//! What strangers can't do.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcp_wire::{MacAddr, Message, MessageKind, PacketView, code};

use super::{Kind, LEASE, World, kind_of, node, settings};
use crate::{OFFER_HOLD, Reason, Reservation};

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

/// A packet of a NIC that does not exist.
fn stranger(number: u32, kind: MessageKind) -> Message {
    let [a, b, c, d] = number.to_be_bytes();
    Message::from_node(kind, MacAddr([2, 0xbb, a, b, c, d]), number)
}

/// As many DISCOVERs with as many hardware addresses.
fn flood(world: &mut World, from: u32, count: u32) -> usize {
    let discovers = (from..from + count).map(|number| stranger(number, MessageKind::Discover));
    discovers.filter(|discover| world.send(&discover.encode().unwrap()).is_some()).count()
}

#[test]
fn flood_of_discovers_with_made_up_addresses_takes_nothing_from_known_nodes() {
    let mut settings = settings(10);
    let reserved = Ipv4Addr::new(10, 77, 0, 105);
    settings.reservations = vec![Reservation { mac: node(1, Kind::System).mac, address: reserved }];
    let mut world = World::with(settings);
    world.known = (1..=4).map(|number| node(number, Kind::System).mac).collect();
    let second = world.address(&node(2, Kind::System)).unwrap();
    world.wait(LEASE * 5);
    // Its lease is long over, and the pool is empty.
    assert_eq!(flood(&mut world, 0, 20_000), 8);
    assert_eq!(world.address(&node(1, Kind::System)), Some(reserved));
    assert_eq!(world.address(&node(2, Kind::System)), Some(second), "what it had is still its own");
    assert!(
        world.address(&node(3, Kind::System)).is_some(),
        "one that was never here gets a stranger's offer"
    );
    assert_eq!(world.send(&node(9, Kind::System).discover()), None, "an unknown one has to wait");
    // And the flood goes on for as long as it likes.
    for round in 1..50 {
        world.wait(OFFER_HOLD);
        flood(&mut world, round * 100, 100);
        assert_eq!(world.address(&node(2, Kind::UefiPxe)), Some(second));
    }
    assert_eq!(world.stored.len(), 3, "nothing is written for those who only ask");
}

#[test]
fn strangers_with_leases_of_the_whole_pool_keep_known_nodes_out_no_longer_than_they_last() {
    let mut world = World::new(4);
    world.known = vec![node(1, Kind::System).mac];
    let had = world.address(&node(1, Kind::System)).unwrap();
    world.wait(LEASE * 2);
    for number in 0..100 {
        let offer = world.send(&stranger(number, MessageKind::Discover).encode().unwrap());
        let Some(offer) = offer else { continue };
        let address = PacketView::new(&offer.bytes).unwrap().yiaddr();
        assert_ne!(address, had);
        let mut request = stranger(number, MessageKind::Request);
        world.send(&request.set_address(code::REQUESTED_ADDRESS, address).encode().unwrap()).unwrap();
    }
    assert_eq!(world.address(&node(1, Kind::IpxeUefi)), Some(had));
}

#[test]
fn known_nodes_that_take_turns_share_a_pool_that_is_too_small_for_all() {
    let mut world = World::new(2);
    world.known = (1..=6).map(|number| node(number, Kind::System).mac).collect();
    for number in 1..=6 {
        assert!(world.address(&node(number, Kind::System)).is_some(), "{number}");
        world.wait(LEASE);
    }
}

#[test]
fn node_of_another_s_name_can_neither_release_nor_decline_nor_take_its_lease() {
    let mut world = World::new(10);
    let address = world.address(&node(1, Kind::System)).unwrap();
    let other = node(2, Kind::System);
    assert_eq!(world.send(&other.release(address)), None);
    assert_eq!(world.send(&other.decline(address)), None);
    assert_eq!(kind_of(world.send(&other.select(address))), Some(MessageKind::Nak));
    assert_eq!(kind_of(world.send(&other.renew(address))), Some(MessageKind::Nak));
    world.wait(Duration::from_secs(5));
    assert_eq!(world.address(&node(1, Kind::System)), Some(address));
}
