//! New addresses are probed before they are offered.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcp_wire::{MacAddr, MessageKind, PacketView, code};

use super::{Kind, RELAY, World, node, reply_kind, settings};
use crate::{PROBE_WAIT, PROBES_MAX, Reply, Reservation};

const SQUATTER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0xee]);

fn world() -> World {
    let mut settings = settings(10);
    settings.probe = true;
    let mac = node(9, Kind::System).mac;
    settings.reservations = vec![Reservation { mac, address: Ipv4Addr::new(10, 77, 0, 9) }];
    World::with(settings)
}

impl World {
    fn hear_arp(&mut self, address: Ipv4Addr, mac: MacAddr) -> Option<Reply> {
        let hint = self.hint();
        let action = self.engine.hear_arp(self.now, &hint, address, mac)?;
        self.act(action)
    }

    /// What leaves now that its time is over.
    fn timeout(&mut self) -> Vec<Reply> {
        let hint = self.hint();
        std::iter::from_fn(|| self.engine.handle_timeout(self.now, &hint)).collect()
    }
}

#[test]
fn new_address_is_offered_after_nobody_claimed_it_and_a_known_one_at_once() {
    let mut world = world();
    assert_eq!(world.send(&node(1, Kind::UefiPxe).discover()), None);
    let probed = world.probed.pop().unwrap();
    assert_eq!(world.engine.poll_timeout(), Some(world.now.after(PROBE_WAIT)));
    // Nobody waits for it.
    assert!(world.send(&node(9, Kind::System).discover()).is_some(), "a reservation");
    assert!(world.timeout().is_empty());
    world.wait(PROBE_WAIT);
    let offers = world.timeout();
    assert_eq!((offers.len(), reply_kind(&offers[0])), (1, MessageKind::Offer));
    assert_eq!(PacketView::new(&offers[0].bytes).unwrap().yiaddr(), probed);
    assert_eq!(world.engine.poll_timeout(), None);
    assert!(world.dora(&node(1, Kind::IpxeUefi)).is_some(), "the second time at once");
    assert!(world.probed.is_empty());
}

#[test]
fn claimed_address_rests_and_the_node_is_offered_another() {
    let mut world = world();
    world.send(&node(1, Kind::System).discover());
    let taken = world.probed.pop().unwrap();
    assert_eq!(world.hear_arp(taken, SQUATTER), None);
    let other = world.probed.pop().unwrap();
    assert_ne!(taken, other);
    world.wait(PROBE_WAIT);
    let offers = world.timeout();
    assert_eq!(PacketView::new(&offers[0].bytes).unwrap().yiaddr(), other);
    // Nobody else is offered it either.
    for number in 10..18 {
        world.send(&node(number, Kind::System).discover());
    }
    assert!(world.probed.len() == 8 && !world.probed.contains(&taken));
}

#[test]
fn node_that_still_answers_at_its_old_address_is_no_conflict() {
    let mut world = world();
    world.send(&node(1, Kind::System).discover());
    let probed = world.probed.pop().unwrap();
    assert_eq!(world.hear_arp(probed, node(1, Kind::System).mac), None);
    assert_eq!(world.hear_arp(Ipv4Addr::new(10, 77, 0, 1), SQUATTER), None, "not what was asked");
    world.wait(PROBE_WAIT);
    assert_eq!(world.timeout().len(), 1);
}

#[test]
fn node_that_asks_again_meanwhile_is_answered_once_and_to_its_last_question() {
    let mut world = world();
    world.send(&node(1, Kind::System).discover());
    let mut again = node(1, Kind::System).message(MessageKind::Discover);
    again.set_secs(3).set_bytes(code::MACHINE_ID, &[0; 17]).unwrap();
    assert_eq!(world.send(&again.encode().unwrap()), None);
    assert_eq!(world.probed.len(), 1);
    world.wait(PROBE_WAIT);
    assert_eq!(world.timeout().len(), 1);
}

#[test]
fn whoever_claims_every_address_stops_one_question_and_not_the_server() {
    let mut world = world();
    world.send(&node(1, Kind::System).discover());
    let mut claimed = 0;
    while let Some(address) = world.probed.pop() {
        world.hear_arp(address, SQUATTER);
        claimed += 1;
    }
    assert_eq!(claimed, 5);
    world.wait(PROBE_WAIT);
    assert!(world.timeout().is_empty());
    assert!(world.send(&node(9, Kind::System).discover()).is_some());
    world.wait(Duration::from_secs(1));
    world.send(&node(1, Kind::System).discover());
    assert_eq!(world.probed.len(), 1, "and when it asks again it is tried again");
}

#[test]
fn flood_is_not_probed_without_bound_and_relays_not_at_all() {
    let mut settings = settings(10);
    settings.probe = true;
    settings.subnets[0].pools = vec![Ipv4Addr::new(10, 77, 0, 10)..=Ipv4Addr::new(10, 77, 0, 250)];
    settings.subnets[0].prefix = crate::Prefix::new(Ipv4Addr::new(10, 77, 0, 0), 16).unwrap();
    settings.subnets[0].pools = vec![Ipv4Addr::new(10, 77, 8, 0)..=Ipv4Addr::new(10, 77, 15, 255)];
    let mut world = World::with(settings);
    let discover = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let mac = MacAddr([2, 0, 0, 0, high, low]);
        dhcp_wire::Message::from_node(MessageKind::Discover, mac, 1).encode().unwrap()
    };
    let at_once = (0..1500).filter(|number| world.send(&discover(*number)).is_some()).count();
    assert_eq!((world.probed.len(), at_once), (PROBES_MAX, 1500 - PROBES_MAX));
    let mut message = node(1, Kind::System).message(MessageKind::Discover);
    assert!(world.send(&message.set_giaddr(RELAY).encode().unwrap()).is_some());
}
