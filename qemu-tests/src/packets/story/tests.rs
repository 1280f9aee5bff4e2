use dhcp_wire::{MacAddr, Message, MessageKind};

use super::*;
use crate::packets::frame::tests::{segment, udp};
use crate::{FirmwareKind, Nic};

const SERVER: &str = "10.77.0.1";
const NODE_AT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 130);

fn spec() -> MachineSpec {
    MachineSpec {
        name: "a".into(),
        firmware: FirmwareKind::Bios,
        secure_boot: false,
        nic: Nic::E1000,
        mac: [0x52, 0x54, 0, 0x77, 0, 1],
        memory_mib: 1024,
        processors: 1,
        disks: Vec::new(),
        network_first: false,
        words: Vec::new(),
    }
}

fn discover(xid: u32) -> Vec<u8> {
    let mut message = Message::from_node(MessageKind::Discover, MacAddr(spec().mac), xid);
    message.set_bytes(code::VENDOR_CLASS, b"PXEClient:Arch:00000:UNDI:002001").unwrap();
    message.set_bytes(code::ARCHITECTURE, &[0, 0]).unwrap().set_broadcast();
    udp("0.0.0.0:68", "255.255.255.255:67", &message.encode().unwrap())
}

fn offer(server: &str, file: &str) -> Vec<u8> {
    let asked = discover(7);
    let mut answer = Message::answer(&PacketView::new(&asked[42..]).unwrap(), MessageKind::Offer).unwrap();
    answer.set_yiaddr(NODE_AT);
    if !file.is_empty() {
        answer.set_boot_file(file).unwrap();
    }
    udp(&format!("{server}:67"), "255.255.255.255:68", &answer.encode().unwrap())
}

fn is_told(frames: &[Vec<u8>], expected: &[&str]) {
    let told = told(frames, &Names::of(&spec()).and(Ipv4Addr::new(10, 77, 0, 2), "dnsmasq"));
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn repeats_are_told_once_and_offers_in_any_order_alike() {
    let url = "http://10.77.0.1/boot.ipxe?mac=52-54-00-77-00-01";
    let expected = [
        "node > everybody        DHCP  DISCOVER broadcast 60=PXEClient:Arch:00000:UNDI:002001 93=0",
        "dnsmasq > everybody     DHCP  OFFER yiaddr=node",
        "server > everybody      DHCP  OFFER yiaddr=node file=67=http://server/boot.ipxe?mac=MAC",
    ];
    let (ours, other) = (offer(SERVER, url), offer("10.77.0.2", ""));
    is_told(&[discover(7), ours.clone(), other.clone()], &expected);
    is_told(&[discover(7), other, discover(7), ours], &expected);
}

#[test]
fn a_late_repeat_is_told_no_more_and_a_second_start_with_the_same_numbers_is() {
    let get = segment("10.77.0.130:1024", "10.77.0.1:80", 0x18, 1, b"GET /a HTTP/1.1\r\n\r\n");
    let frames = [discover(7), offer(SERVER, ""), get.clone(), offer(SERVER, ""), discover(7)];
    is_told(
        &[&frames[..], &[offer(SERVER, ""), get]].concat(),
        &[
            "node > everybody        DHCP  DISCOVER broadcast 60=PXEClient:Arch:00000:UNDI:002001 93=0",
            "server > everybody      DHCP  OFFER yiaddr=node",
            "node > server           HTTP  GET /a",
            "node > everybody        DHCP  DISCOVER broadcast 60=PXEClient:Arch:00000:UNDI:002001 93=0",
            "server > everybody      DHCP  OFFER yiaddr=node",
        ],
    );
}

#[test]
fn a_transfer_is_its_request_its_options_and_its_end() {
    let (node, server) = ("10.77.0.130:1024", "10.77.0.1:4000");
    let request = ReadRequest {
        name: "a.efi".into(),
        tsize: true,
        blksize: Some(8),
        windowsize: Some(4),
        ..ReadRequest::default()
    };
    let frames = [
        offer(SERVER, ""),
        udp(node, "10.77.0.1:69", &request.encode()),
        udp(node, "10.77.0.1:69", &request.encode()),
        udp(server, node, b"\0\x06tsize\x0011\0blksize\x008\0"),
        udp(node, server, &[0, 4, 0, 0]),
        udp(server, node, b"\0\x03\0\x01abcdefgh"),
        udp(server, node, b"\0\x03\0\x02abc"),
        udp(node, server, &[0, 4, 0, 2]),
        udp(node, server, &[0, 4, 0, 2]),
    ];
    is_told(
        &frames,
        &[
            "server > everybody      DHCP  OFFER yiaddr=node",
            "node > server           TFTP  RRQ a.efi tsize blksize=8 windowsize=4",
            "server > node           TFTP  OACK tsize=SIZE blksize=8",
            "node > server           TFTP  ACK of the last block",
        ],
    );
}

#[test]
fn of_http_the_request_and_the_answer_are_told_until_the_agent_calls() {
    let (node, server) = ("10.77.0.130:1024", "10.77.0.1:80");
    let get = b"GET /boot/5f3a/vmlinuz?mac=52-54-00-77-00-01 HTTP/1.1\r\nUser-Agent: iPXE/1.0.0+\r\n\r\n";
    let frames = [
        offer(SERVER, ""),
        segment(node, server, 0x18, 1, get),
        segment(node, server, 0x18, 1, get),
        segment(server, node, 0x18, 1, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        segment(node, "10.77.0.1:8443", 0x02, 1, b""),
        segment(node, server, 0x18, 90, get),
    ];
    is_told(
        &frames,
        &[
            "server > everybody      DHCP  OFFER yiaddr=node",
            "node > server           HTTP  GET /boot/BUNDLE/vmlinuz?mac=MAC  (iPXE)",
            "server > node           HTTP  200 OK",
            "node > server           TLS   the agent's first connection",
        ],
    );
}

#[test]
fn machine_s_uuid_is_told_also_as_grub_writes_it() {
    assert_eq!(as_in_option_97(&spec().uuid_text()), "5349534e-0000-0040-8000-525400770001");
}
