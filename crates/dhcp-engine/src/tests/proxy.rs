//! Beside another server that gives the addresses.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcp_wire::{MacAddr, Message, MessageKind, PacketView, code};

use super::{Kind, RELAY, SERVER, World, describe, golden, node, settings};
use crate::{Mode, Port, Reason, UefiProxy};

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

fn world(uefi_proxy: UefiProxy) -> World {
    let mut settings = settings(10);
    settings.mode = Mode::Proxy;
    settings.uefi_proxy = uefi_proxy;
    World::with(settings)
}

#[test]
fn firmware_is_offered_what_to_boot_and_no_address() {
    let programs = [
        (Kind::BiosRom, "bios-rom"),
        (Kind::UefiPxe, "uefi-pxe"),
        (Kind::UefiHttp, "uefi-http"),
        (Kind::IpxeBios, "ipxe-bios"),
    ];
    for (kind, name) in programs {
        let mut world = world(UefiProxy::Binl);
        let offer = world.send(&node(1, kind).discover()).unwrap();
        let packet = PacketView::new(&offer.bytes).unwrap();
        assert_eq!((packet.yiaddr(), packet.number_option(code::LEASE_TIME)), (Ipv4Addr::UNSPECIFIED, None));
        golden(&format!("dhcp-proxy-{name}-offer"), &describe(&offer.bytes));
        assert!(world.stored.is_empty());
    }
}

#[test]
fn systems_and_requests_are_the_other_server_s() {
    let mut world = world(UefiProxy::Binl);
    assert_eq!(world.send(&node(1, Kind::System).discover()), None);
    let offered = Ipv4Addr::new(10, 77, 0, 120);
    assert_eq!(world.send(&node(1, Kind::UefiPxe).select_of(OTHER, offered)), None);
    assert_eq!(world.reason, Some(Reason::OtherServer(OTHER)));
    for packet in [
        node(1, Kind::UefiPxe).select(offered),
        node(1, Kind::UefiPxe).renew(offered),
        node(1, Kind::UefiPxe).release(offered),
        node(1, Kind::UefiPxe).decline(offered),
    ] {
        assert_eq!(world.send(&packet), None);
    }
    assert!(world.stored.is_empty());
}

#[test]
fn uefi_asks_for_its_file_on_4011_unless_the_site_says_otherwise() {
    let vendor = |uefi_proxy| {
        let mut world = world(uefi_proxy);
        let offer = world.send(&node(1, Kind::UefiPxe).discover()).unwrap();
        let packet = PacketView::new(&offer.bytes).unwrap();
        assert_eq!(packet.option(code::VENDOR_CLASS).unwrap().as_ref(), b"PXEClient");
        packet.option(code::VENDOR).map(std::borrow::Cow::into_owned)
    };
    assert_eq!(vendor(UefiProxy::Binl), None);
    assert_eq!(vendor(UefiProxy::Direct), Some(vec![6, 1, 8, 255]));

    let mut world = world(UefiProxy::Binl);
    let address = Ipv4Addr::new(10, 77, 0, 120);
    let source = SocketAddrV4::new(address, 4011);
    let reply = world.send_to(Port::Pxe, source, &node(1, Kind::UefiPxe).renew(address)).unwrap();
    let packet = PacketView::new(&reply.bytes).unwrap();
    assert_eq!((reply.to, reply.from, packet.kind()), (source, Port::Pxe, Some(MessageKind::Ack)));
    assert_eq!((packet.boot_file().as_ref(), packet.siaddr()), (&b"snponly.efi"[..], SERVER));
}

#[test]
fn relayed_firmware_is_answered_through_the_relay_whatever_its_network() {
    let mut world = world(UefiProxy::Binl);
    for relay in [RELAY, Ipv4Addr::new(10, 99, 0, 1)] {
        let mut message = node(1, Kind::BiosRom).message(MessageKind::Discover);
        let offer = world.send(&message.set_giaddr(relay).encode().unwrap()).unwrap();
        assert_eq!(offer.to, SocketAddrV4::new(relay, 67));
    }
}

#[test]
fn another_server_s_answer_to_our_own_question_is_reported() {
    for mode in [Mode::Dhcp, Mode::Proxy] {
        let mut settings = settings(10);
        let own = MacAddr([0x52, 0x54, 0, 0, 0, 0xff]);
        (settings.mode, settings.own_mac) = (mode, Some(own));
        let mut world = World::with(settings);
        let mut question = Message::from_node(MessageKind::Discover, own, 7);
        let question = question.set_giaddr(SERVER).encode().unwrap();
        assert_eq!(world.send(&question), None, "we hear ourselves");
        let mut offer = Message::answer(&PacketView::new(&question).unwrap(), MessageKind::Offer).unwrap();
        let answer = offer.set_address(code::SERVER_ID, OTHER).encode().unwrap();
        assert_eq!(world.send_to(Port::Dhcp, SocketAddrV4::new(OTHER, 67), &answer), None);
        assert_eq!(world.reason, Some(Reason::ForeignAnswer(OTHER)));
        let ours = offer.set_address(code::SERVER_ID, SERVER).encode().unwrap();
        assert_eq!(world.send(&ours), None);
        assert_eq!(world.reason, Some(Reason::NotFromNode));
        assert!(world.stored.is_empty());
    }
}
