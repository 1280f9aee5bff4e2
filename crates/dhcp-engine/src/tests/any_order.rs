//! Whatever nodes do in whatever order.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcp_wire::{MacAddr, MessageKind, PacketView};
use proptest::prelude::*;

use super::{Kind, LEASE, NOWHERE, World, node, settings};
use crate::{Moment, Port, Reply, Reservation};

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
    /// Another pool, and perhaps an address for one node.
    Change {
        first: u8,
        last: u8,
        reserved: Option<(u8, u8)>,
    },
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

/// The same, and other settings.
fn step_or_change() -> impl Strategy<Value = Step> {
    let reserved = prop::option::of((0..8_u8, 98..112_u8));
    let change = (98..106_u8, 104..112_u8, reserved).prop_map(|(first, last, reserved)| Step::Change {
        first: first.min(last),
        last,
        reserved,
    });
    prop_oneof![6 => step(), 1 => change]
}

/// What a bystander knows who only reads ACKs: who may use which address until when.
#[derive(Default)]
struct Bystander {
    held: HashMap<Ipv4Addr, (MacAddr, Moment)>,
    /// Addresses that are always one node's, and that node's only ones.
    reserved: Vec<(MacAddr, Ipv4Addr)>,
}

impl Bystander {
    fn hears(&mut self, now: Moment, reply: Option<Reply>) {
        let Some(reply) = reply else { return };
        let packet = PacketView::new(&reply.bytes).unwrap();
        if packet.kind() != Some(MessageKind::Ack) {
            return;
        }
        let (mac, address) = (packet.mac().unwrap(), packet.yiaddr());
        for (owner, its) in &self.reserved {
            assert_eq!(mac == *owner, address == *its, "{its} is reserved for {owner}");
        }
        if let Some((holder, until)) = self.held.get(&address) {
            assert!(
                *holder == mac || *until <= now,
                "{address} is {holder}'s until {until:?} and goes to {mac} at {now:?}"
            );
        }
        // A node that takes another address has left its former one.
        self.held.retain(|_, (holder, _)| *holder != mac);
        self.held.insert(address, (mac, now.after(LEASE)));
    }

    fn address_of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.held.iter().find(|(_, (holder, _))| *holder == mac).map(|(address, _)| *address)
    }
}

/// Takes one step, and lets the bystander hear what comes of it.
fn take(step: Step, world: &mut World, bystander: &mut Bystander) {
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
        Step::Restart => {
            world.restart_with_what_fits();
        }
        Step::Change { first, last, reserved } => {
            let reserved =
                reserved.map(|(number, last)| Reservation { mac: by(number).mac, address: in_pool(last) });
            world.settings.reservations = reserved.into_iter().collect();
            world.settings.subnets[0].pools = vec![in_pool(first)..=in_pool(last)];
            world.engine.reconfigure(world.now, world.settings.clone());
        }
    }
}

proptest! {
    #[test]
    fn two_nodes_never_have_one_address(steps in prop::collection::vec(step(), 1..120)) {
        let mut settings = settings(10);
        let reserved = |number, last| (node(number, Kind::System).mac, Ipv4Addr::new(10, 77, 0, last));
        let reserved = vec![reserved(0, 104), reserved(1, 99)];
        settings.reservations = reserved.iter().map(|(mac, address)| Reservation { mac: *mac, address: *address }).collect();
        let mut world = World::with(settings);
        let mut bystander = Bystander { reserved, ..Bystander::default() };
        world.known = (0..4).map(|number| node(number, Kind::System).mac).collect();
        for step in steps {
            take(step, &mut world, &mut bystander);
        }
    }

    #[test]
    fn nor_when_the_settings_change_under_them(steps in prop::collection::vec(step_or_change(), 1..160)) {
        let (mut world, mut bystander) = (World::new(10), Bystander::default());
        world.known = (0..4).map(|number| node(number, Kind::System).mac).collect();
        for step in steps {
            take(step, &mut world, &mut bystander);
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
