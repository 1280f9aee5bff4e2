//! Packets as real programs send them, recorded on virtual machines while they booted.

use dhcp_wire::PacketView;

use super::World;
use crate::{Architecture, Port, Program};

/// The machine that all of them are of.
const UUID: &str = "4e534953-0000-4000-8000-525400770001";
const MAC: &str = "52:54:00:77:00:01";

/// Name, packet, what sent it, what it is told to load.
const RECORDED: [(&str, &[u8], Program, &str); 6] = [
    ("iPXE in a ROM", include_bytes!("recorded/ipxe-rom-discover.bin"), Program::Ipxe, super::SCRIPT_URL),
    ("undionly.kpxe", include_bytes!("recorded/undionly-discover.bin"), Program::Ipxe, super::SCRIPT_URL),
    ("snponly.efi", include_bytes!("recorded/snponly-discover.bin"), Program::Ipxe, super::SCRIPT_URL),
    (
        "OVMF's PXE",
        include_bytes!("recorded/uefi-pxe-discover.bin"),
        Program::PxeRom(Architecture::X64),
        "snponly.efi",
    ),
    (
        "OVMF's HTTP boot",
        include_bytes!("recorded/uefi-http-discover.bin"),
        Program::UefiHttp(Architecture::X64),
        "http://10.77.0.1/ipxe.efi",
    ),
    ("our agent", include_bytes!("recorded/agent-discover.bin"), Program::System, ""),
];

#[test]
fn each_program_is_recognised_and_all_get_one_address() {
    let mut world = World::new(10);
    let mut addresses = Vec::new();
    for (name, bytes, program, file) in RECORDED {
        let offer = world.send(bytes).unwrap_or_else(|| panic!("{name} is not answered: {:?}", world.reason));
        let seen = world.seen.last().unwrap();
        assert_eq!((seen.program, seen.mac.to_string().as_str()), (program, MAC), "{name}");
        assert_eq!(seen.uuid.as_deref(), (program != Program::System).then_some(UUID), "{name}");
        let offer = PacketView::new(&offer.bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&offer.boot_file()), file, "{name}");
        addresses.push(offer.yiaddr());
    }
    addresses.dedup();
    assert_eq!(addresses.len(), 1, "ROM, iPXE and agent are one machine: {addresses:?}");
}

#[test]
fn ovmf_beside_another_server_is_answered_on_4011_and_nowhere_else() {
    let mut settings = super::settings(10);
    settings.mode = crate::Mode::Proxy;
    let mut world = World::with(settings);
    assert!(world.send(include_bytes!("recorded/uefi-pxe-discover.bin")).is_some());
    let request = include_bytes!("recorded/uefi-pxe-request.bin");
    assert_eq!(world.send(request), None, "it took the other server's address");
    let again = include_bytes!("recorded/uefi-pxe-4011.bin");
    let source = std::net::SocketAddrV4::new(PacketView::new(again).unwrap().ciaddr(), dhcp_wire::PXE_PORT);
    let reply = world.send_to(Port::Pxe, source, again).unwrap();
    assert_eq!((reply.from, reply.to), (Port::Pxe, source));
    assert_eq!(PacketView::new(&reply.bytes).unwrap().boot_file().as_ref(), b"snponly.efi");
}
