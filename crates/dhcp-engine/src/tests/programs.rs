//! What each program on a node is told to load.

use dhcp_wire::{Message, MessageKind, PacketView, code};

use super::{Kind, NOWHERE, World, describe, golden, node, settings};
use crate::{Architecture, BootNames, Mode, Port, Program, Reason, Refused, Settings, UefiLoader};

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
fn firmware_that_asks_again_on_4011_is_answered_from_there() {
    let mut world = World::new(10);
    for (kind, name) in [(Kind::UefiPxe, "uefi-pxe"), (Kind::IpxeUefi, "ipxe-uefi")] {
        let node = node(1, kind);
        let address = world.address(&node).unwrap();
        let source = std::net::SocketAddrV4::new(address, 4011);
        let reply = world.send_to(Port::Pxe, source, &node.renew(address)).unwrap();
        assert_eq!((reply.to, reply.from), (source, Port::Pxe));
        golden(&format!("dhcp-{name}-4011"), &describe(&reply.bytes));
    }
    let system = node(2, Kind::System);
    assert_eq!(world.send_to(Port::Pxe, NOWHERE, &system.discover()), None);
}

#[test]
fn firmware_without_its_boot_file_gets_a_plain_lease() {
    let mut settings = settings(10);
    settings.boot = BootNames { script_url: settings.boot.script_url, ..BootNames::default() };
    let mut world = World::with(settings);
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
fn node_that_boots_from_its_own_disk_hears_nothing_over_http_and_ipxe_still_gets_its_script() {
    let mut world = World::new(10);
    world.local.push(node(1, Kind::UefiHttp).mac);
    assert_eq!(world.send(&node(1, Kind::UefiHttp).discover()), None);
    assert_eq!(world.reason, Some(Reason::LeftAlone));
    assert!(world.seen.is_empty());
    // The script sends it on to its disk; without one iPXE would stop with an error.
    let (offer, _) = world.dora(&node(1, Kind::IpxeUefi)).unwrap();
    assert!(!PacketView::new(&offer.bytes).unwrap().boot_file().is_empty());
    assert!(world.address(&node(1, Kind::System)).is_some(), "its system gets its address");
    let (offer, _) = world.dora(&node(2, Kind::UefiHttp)).unwrap();
    assert!(!PacketView::new(&offer.bytes).unwrap().boot_file().is_empty());
}

#[test]
fn firmware_that_is_left_alone_finds_no_server_and_its_system_finds_one() {
    for mode in [Mode::Dhcp, Mode::Proxy] {
        let mut world = World::with(Settings { mode, ..settings(10) });
        for kind in [Kind::BiosRom, Kind::UefiPxe, Kind::UefiHttp, Kind::IpxeBios, Kind::IpxeUefi] {
            let node = node(1, kind);
            // What was begun before is brought to its end.
            let offered =
                world.send(&node.discover()).map(|offer| PacketView::new(&offer.bytes).unwrap().yiaddr());
            world.alone.push(node.mac);
            if let Some(offered) = offered.filter(|_| mode == Mode::Dhcp) {
                assert!(world.send(&node.select(offered)).is_some(), "{kind:?}");
            }
            assert_eq!(world.send(&node.discover()), None, "{kind:?}");
            assert_eq!(world.reason, Some(Reason::LeftAlone));
            let source = std::net::SocketAddrV4::new([10, 77, 0, 100].into(), 4011);
            assert_eq!(
                world.send_to(Port::Pxe, source, &node.renew([10, 77, 0, 100].into())),
                None,
                "{kind:?}"
            );
            world.alone.clear();
        }
        world.alone.push(node(2, Kind::System).mac);
        assert_eq!(world.address(&node(2, Kind::System)).is_some(), mode == Mode::Dhcp);
    }
}

#[test]
fn ipxe_is_never_sent_ipxe_again_whatever_it_says_beside() {
    let mut world = World::new(10);
    for (number, class) in [(1, "PXEClient:Arch:00000:UNDI:002001"), (2, "HTTPClient:Arch:00016:UNDI:003001")]
    {
        for (number, by) in [(number, code::USER_CLASS), (number + 10, code::IPXE)] {
            let mut message = Message::from_node(MessageKind::Discover, node(number, Kind::System).mac, 1);
            message.set_bytes(code::VENDOR_CLASS, class.as_bytes()).unwrap();
            message.set_bytes(by, b"iPXE").unwrap();
            let offer = world.send(&message.encode().unwrap()).unwrap();
            let file = PacketView::new(&offer.bytes).unwrap().boot_file().into_owned();
            assert!(file.starts_with(b"http://10.77.0.1/boot.ipxe?"), "{class} {by}");
        }
    }
}

/// What each program is offered, and what it is said to have refused.
fn offered(world: &mut World, kind: Kind) -> (String, Option<Refused>) {
    let (offer, ack) = world.dora(&node(1, kind)).unwrap();
    let file =
        |bytes: &[u8]| String::from_utf8(PacketView::new(bytes).unwrap().boot_file().into_owned()).unwrap();
    assert_eq!(file(&offer.bytes), file(&ack.bytes));
    (file(&offer.bytes), world.seen.last().unwrap().refused)
}

#[test]
fn firmware_that_asks_again_after_it_fetched_ipxe_gets_what_is_signed() {
    let loaders = [
        (UefiLoader::IpxeFetched, Some(Refused::Ipxe)),
        (UefiLoader::Signed, None),
        (UefiLoader::SignedFetched, Some(Refused::Shim)),
    ];
    for (loader, refused) in loaders {
        let mut world = World { loader, ..World::new(10) };
        assert_eq!(offered(&mut world, Kind::UefiPxe), ("shimx64.efi".into(), refused));
        // Neither PC BIOS nor what runs already has anything to refuse.
        assert_eq!(offered(&mut world, Kind::BiosRom), ("undionly.kpxe".into(), None));
        assert!(offered(&mut world, Kind::IpxeUefi).0.starts_with("http://10.77.0.1/boot.ipxe?"));
        assert_eq!(offered(&mut world, Kind::System), (String::new(), None));
    }
}

#[test]
fn firmware_that_refused_ipxe_is_noticed_over_http_and_then_left_to_its_next_entry() {
    let mut world = World { loader: UefiLoader::IpxeFetched, ..World::new(10) };
    assert_eq!(offered(&mut world, Kind::UefiHttp), (String::new(), Some(Refused::Ipxe)));
    world.loader = UefiLoader::SignedFetched;
    assert_eq!(offered(&mut world, Kind::UefiHttp), (String::new(), Some(Refused::Shim)));
    world.loader = UefiLoader::Signed;
    assert_eq!(world.send(&node(1, Kind::UefiHttp).discover()), None);
    assert_eq!(world.reason, Some(Reason::LeftAlone));
}

#[test]
fn firmware_that_starts_neither_ipxe_nor_shim_goes_on_to_its_next_boot_device() {
    let mut world = World { loader: UefiLoader::Nothing, ..World::new(10) };
    for kind in [Kind::UefiPxe, Kind::UefiHttp] {
        assert_eq!(world.send(&node(1, kind).discover()), None);
        assert_eq!(world.reason, Some(Reason::LeftAlone));
    }
    // Its system gets its address, and PC BIOS, or an iPXE on a stick, what they always get.
    assert_eq!(offered(&mut world, Kind::System), (String::new(), None));
    assert_eq!(offered(&mut world, Kind::BiosRom).0, "undionly.kpxe");
    assert!(offered(&mut world, Kind::IpxeUefi).0.starts_with("http://10.77.0.1/boot.ipxe?"));
}

#[test]
fn without_signed_files_everybody_gets_ipxe() {
    let mut settings = settings(10);
    settings.boot.x64_signed = None;
    let mut world = World { loader: UefiLoader::Signed, ..World::with(settings) };
    assert_eq!(offered(&mut world, Kind::UefiPxe).0, "snponly.efi");
}
