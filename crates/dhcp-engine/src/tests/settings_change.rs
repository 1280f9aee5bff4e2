//! Other settings while nodes have leases.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcp_wire::{MessageKind, PacketView, code};

use super::{Kind, LEASE, Node, RELAY, World, kind_of, node, settings};
use crate::{Action, PROBE_WAIT, Reservation, Settings};

impl World {
    /// The settings with this change; the leases that run and are in no pool now.
    fn change(&mut self, change: impl FnOnce(&mut Settings)) -> usize {
        change(&mut self.settings);
        self.engine.reconfigure(self.now, self.settings.clone())
    }

    fn renews(&mut self, node: &Node, address: Ipv4Addr) -> Option<MessageKind> {
        kind_of(self.send(&node.renew(address)))
    }
}

fn last(first: u8, last: u8) -> Vec<std::ops::RangeInclusive<Ipv4Addr>> {
    vec![Ipv4Addr::new(10, 77, 0, first)..=Ipv4Addr::new(10, 77, 0, last)]
}

#[test]
fn leases_and_offers_outlive_other_settings_and_new_options_are_told_at_once() {
    let mut world = World::new(10);
    let (system, asking) = (node(1, Kind::System), node(2, Kind::UefiPxe));
    let address = world.address(&system).unwrap();
    let offered = PacketView::new(&world.send(&asking.discover()).unwrap().bytes).unwrap().yiaddr();
    let router = Ipv4Addr::new(10, 77, 0, 253);
    let left = world.change(|settings| {
        settings.subnets.remove(1);
        let link = settings.subnets.first_mut().unwrap();
        (link.pools, link.router) = (last(90, 250), Some(router));
        link.lease = LEASE * 2;
    });
    assert_eq!(left, 0);
    let ack = world.send(&asking.select(offered)).unwrap();
    let packet = PacketView::new(&ack.bytes).unwrap();
    assert_eq!((packet.yiaddr(), packet.address_option(code::ROUTER)), (offered, Some(router)));
    let until = world.stored.len();
    assert_eq!(world.renews(&system, address), Some(MessageKind::Ack));
    assert_eq!((world.stored.len(), until), (2, 2));
    // Strangers get other addresses, and the network that was taken out is answered no more.
    let others: Vec<_> = (10..90).map(|number| world.address(&node(number, Kind::System)).unwrap()).collect();
    assert!(!others.contains(&address) && !others.contains(&offered));
    let mut relayed = node(3, Kind::System).message(MessageKind::Discover);
    assert_eq!(world.send(&relayed.set_giaddr(RELAY).encode().unwrap()), None);
}

#[test]
fn network_that_is_split_and_reordered_keeps_its_leases() {
    let mut world = World::new(10);
    let mut relayed = node(1, Kind::System).message(MessageKind::Discover);
    let offer = world.send(&relayed.set_giaddr(RELAY).encode().unwrap()).unwrap();
    let address = PacketView::new(&offer.bytes).unwrap().yiaddr();
    let mut request = node(1, Kind::System).message(MessageKind::Request);
    request.set_address(code::REQUESTED_ADDRESS, address).set_giaddr(RELAY);
    assert_eq!(kind_of(world.send(&request.encode().unwrap())), Some(MessageKind::Ack));
    let left = world.change(|settings| {
        let whole = settings.subnets.pop().unwrap();
        for third in [79, 78] {
            let mut part = whole.clone();
            part.prefix = crate::Prefix::new(Ipv4Addr::new(10, third, 0, 0), 25).unwrap();
            part.pools = vec![Ipv4Addr::new(10, third, 0, 90)..=Ipv4Addr::new(10, third, 0, 120)];
            settings.subnets.push(part);
        }
    });
    assert_eq!((left, world.renews(&node(1, Kind::System), address)), (0, Some(MessageKind::Ack)));
}

#[test]
fn lease_outside_of_the_new_pools_ends_by_itself_and_comes_back_with_its_pool() {
    let mut world = World::new(10);
    let system = node(1, Kind::System);
    let address = world.address(&system).unwrap();
    assert_eq!(world.change(|settings| settings.subnets[0].pools = last(200, 209)), 1);
    // Not ours to say: the node goes on until its lease is over, and is then told something else.
    assert_eq!(world.renews(&system, address), None);
    assert_eq!(world.change(|settings| settings.subnets[0].pools = last(100, 109)), 0);
    for number in 10..19 {
        assert_ne!(world.address(&node(number, Kind::System)), Some(address), "it is not given away");
    }
    assert_eq!(world.renews(&system, address), Some(MessageKind::Ack));
    // The same for a server that began with the wrong pool.
    world.settings.subnets[0].pools = last(200, 209);
    let stored = world.stored.clone();
    world.engine = crate::Engine::new(world.settings.clone());
    for (key, value) in &stored {
        let record = crate::LeaseRecord::read(key, value).unwrap();
        assert!(!world.engine.restore(&record, crate::Hint::default()));
    }
    assert_eq!(world.change(|settings| settings.subnets[0].pools = last(100, 109)), 0);
    assert_eq!(world.renews(&system, address), Some(MessageKind::Ack));
}

#[test]
fn lease_that_comes_back_is_not_lost_to_what_its_node_was_offered_meanwhile() {
    let mut world = World::new(10);
    let system = node(1, Kind::System);
    let address = world.address(&system).unwrap();
    world.change(|settings| settings.subnets[0].pools = last(200, 209));
    world.wait(LEASE - Duration::from_secs(60));
    let offer = world.send(&system.discover()).unwrap();
    assert_ne!(PacketView::new(&offer.bytes).unwrap().yiaddr(), address);
    world.change(|settings| settings.subnets[0].pools = vec![address..=address]);
    assert_eq!(world.address(&node(2, Kind::System)), None, "its lease still runs");
    assert_eq!(world.renews(&system, address), Some(MessageKind::Ack));
}

#[test]
fn address_that_is_reserved_while_another_has_it_waits_for_the_end_of_that_lease() {
    for restarts in [false, true] {
        let mut world = World::new(10);
        let (holder, owner) = (node(1, Kind::System), node(2, Kind::System));
        let address = world.address(&holder).unwrap();
        let before = world.address(&owner).unwrap();
        let reservation = Reservation { mac: owner.mac, address };
        world.change(|settings| settings.reservations.push(reservation));
        if restarts {
            world.restart();
        }
        assert_eq!(world.address(&owner), Some(before), "both at one address would be worse than to wait");
        assert_eq!(world.renews(&holder, address), Some(MessageKind::Nak), "it has to go elsewhere");
        let moved = world.address(&holder).unwrap();
        assert!(moved != address && moved != before);
        world.wait(LEASE + Duration::from_secs(1));
        assert_eq!(world.renews(&owner, before), Some(MessageKind::Nak));
        assert_eq!(world.address(&owner), Some(address));
        assert_eq!(world.renews(&owner, address), Some(MessageKind::Ack));
    }
}

#[test]
fn reservation_that_is_taken_back_leaves_the_node_where_it_was() {
    let mut world = World::new(10);
    let system = node(1, Kind::System);
    let address = world.address(&system).unwrap();
    let reservation = Reservation { mac: system.mac, address: Ipv4Addr::new(10, 77, 0, 50) };
    world.change(|settings| settings.reservations.push(reservation));
    assert_eq!(world.change(|settings| settings.reservations.clear()), 0);
    assert_eq!(world.renews(&system, address), Some(MessageKind::Ack));
}

#[test]
fn offer_that_waits_for_its_probe_leaves_only_if_its_address_may_still_be_given() {
    for stays in [true, false] {
        let mut world = World::with(Settings { probe: true, ..settings(10) });
        assert_eq!(world.send(&node(1, Kind::System).discover()), None);
        assert_eq!(world.probed.len(), 1);
        let pools = if stays { last(90, 120) } else { last(200, 209) };
        world.change(|settings| settings.subnets[0].pools = pools);
        world.wait(PROBE_WAIT);
        let hint = world.hint();
        let offer = world.engine.handle_timeout(world.now, &hint);
        assert_eq!(offer.is_some(), stays);
        assert_eq!(world.engine.poll_timeout(), None);
        let asked = world.engine.handle(
            world.now,
            &hint,
            crate::Datagram {
                port: crate::Port::Dhcp,
                source: super::NOWHERE,
                bytes: &node(1, Kind::System).discover(),
            },
        );
        assert_eq!(matches!(asked.action, Action::Probe(_)), !stays, "a new address is probed anew");
    }
}
