use dhcproto::Decodable;
use proptest::prelude::*;

use super::*;
use crate::{Answer, AnswerError, Asker, Lease, Message};

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// A packet from a node with these option bytes behind the magic cookie.
fn packet(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    bytes[CHADDR..CHADDR + 6].copy_from_slice(&MAC.0);
    bytes[MAGIC_AT..].copy_from_slice(&MAGIC);
    bytes.extend_from_slice(options);
    bytes
}

fn option(bytes: &[u8], code: u8) -> Option<Vec<u8>> {
    PacketView::new(bytes).unwrap().option(code).map(Cow::into_owned)
}

#[test]
fn headers_that_would_crash_a_decoder_are_refused() {
    assert_eq!(PacketView::new(&[]).unwrap_err(), DecodeError::Short(0));
    assert_eq!(PacketView::new(&packet(&[])[..239]).unwrap_err(), DecodeError::Short(239));
    assert_eq!(PacketView::new(&packet(&[0; 4096])).unwrap_err(), DecodeError::Long(4336));
    let mut bytes = packet(&[]);
    bytes[2] = 17;
    assert_eq!(PacketView::new(&bytes).unwrap_err(), DecodeError::HardwareLength(17));
    let mut bytes = packet(&[]);
    bytes[MAGIC_AT] = 0;
    assert_eq!(PacketView::new(&bytes).unwrap_err(), DecodeError::Magic);
}

#[test]
fn only_ethernet_nics_have_a_mac() {
    assert_eq!(PacketView::new(&packet(&[])).unwrap().mac(), Some(MAC));
    for (at, value) in [(1, 32), (2, 16), (CHADDR, 0xff)] {
        let mut bytes = packet(&[]);
        bytes[at] = value;
        assert_eq!(PacketView::new(&bytes).unwrap().mac(), None, "byte {at} = {value}");
    }
}

#[test]
fn a_bad_option_hides_nothing_before_or_behind_it() {
    // A host name that is no UTF-8, an architecture of one byte, then the vendor class, then a cut-off option.
    let bytes = packet(&[53, 1, 1, 12, 2, 0xff, 0xfe, 93, 1, 0, 60, 3, b'P', b'X', b'E', 77, 200, b'i']);
    let view = PacketView::new(&bytes).unwrap();
    assert_eq!(view.kind(), Some(MessageKind::Discover));
    assert_eq!(view.architectures(), Vec::<u16>::new());
    assert_eq!(option(&bytes, code::VENDOR_CLASS), Some(b"PXE".to_vec()));
    assert_eq!(option(&bytes, code::USER_CLASS), None);
}

#[test]
fn parts_of_a_long_option_are_joined() {
    let bytes = packet(&[67, 2, b'a', b'b', 53, 1, 1, 67, 2, b'c', 0, 255, 67, 1, b'x']);
    assert_eq!(option(&bytes, code::BOOT_FILE), Some(b"abc\0".to_vec()));
    assert_eq!(PacketView::new(&bytes).unwrap().boot_file().as_ref(), b"abc");
}

#[test]
fn options_in_the_name_fields_are_found() {
    let mut bytes = packet(&[52, 1, 3, 255]);
    bytes[FILE..FILE + 5].copy_from_slice(&[53, 1, 3, 255, 9]);
    bytes[SNAME..SNAME + 6].copy_from_slice(&[93, 2, 0, 7, 0, 255]);
    let view = PacketView::new(&bytes).unwrap();
    assert_eq!((view.kind(), view.architectures()), (Some(MessageKind::Request), vec![7]));
    assert_eq!((view.boot_file().as_ref(), view.server_name()), (&b""[..], &b""[..]));
}

#[test]
fn machine_uuid_is_normalised_and_useless_ones_are_none() {
    let uuid = [0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8];
    let with = |kind: u8, uuid: [u8; 16]| {
        let bytes = packet(&[&[97, 17, kind][..], &uuid].concat());
        PacketView::new(&bytes).unwrap().machine_uuid()
    };
    assert_eq!(with(0, uuid).as_deref(), Some("01234567-89ab-cdef-0102-030405060708"));
    assert_eq!(with(1, uuid), None);
    assert_eq!(with(0, [0; 16]), None);
    assert_eq!(with(0, [0xff; 16]), None);
}

#[test]
fn relay_sub_options_are_found_also_behind_code_255() {
    let bytes = packet(&[82, 9, 255, 1, 7, 5, 4, 10, 0, 0, 1]);
    let view = PacketView::new(&bytes).unwrap();
    assert_eq!(view.relay_option(code::RELAY_LINK_SELECTION), Some(vec![10, 0, 0, 1]));
    assert_eq!(view.relay_option(code::RELAY_SERVER_ID), None);
}

#[test]
fn relay_information_comes_back_unchanged_and_last() {
    // Sub-options out of order and one that is malformed: dhcproto would sort and drop.
    let raw = [2, 1, 9, 1, 2, b'p', b'1', 77];
    let request = packet(&[&[53, 1, 1, 82, 8][..], &raw, &[255]].concat());
    let mut answer = Message::answer(&PacketView::new(&request).unwrap(), MessageKind::Offer).unwrap();
    answer.set_boot_file("snponly.efi").unwrap();
    let bytes = answer.encode().unwrap();
    let last = PacketView::new(&bytes).unwrap().options().last().unwrap();
    assert_eq!(last, (82, &raw[..]));
    assert_eq!(PacketView::new(&bytes).unwrap().options().filter(|(code, _)| *code == 82).count(), 1);
}

#[test]
fn boot_names_end_in_nul_in_both_places_and_long_ones_stand_in_the_option_alone() {
    let request = packet(&[53, 1, 1]);
    let mut answer = Message::answer(&PacketView::new(&request).unwrap(), MessageKind::Ack).unwrap();
    answer.set_boot_file("snponly.efi").unwrap().set_boot_server("10.0.0.1").unwrap();
    let bytes = answer.encode().unwrap();
    assert_eq!(option(&bytes, code::BOOT_FILE), Some(b"snponly.efi\0".to_vec()));
    assert_eq!(option(&bytes, code::TFTP_SERVER), Some(b"10.0.0.1\0".to_vec()));
    assert_eq!(&bytes[FILE..FILE + 12], b"snponly.efi\0");
    assert_eq!(PacketView::new(&bytes).unwrap().server_name(), b"10.0.0.1");
    assert!(bytes.len() >= 300);

    let url = format!("http://10.0.0.1/{}", "x".repeat(200));
    let mut answer = Message::answer(&PacketView::new(&request).unwrap(), MessageKind::Ack).unwrap();
    answer.set_boot_file(&url).unwrap();
    let bytes = answer.encode().unwrap();
    assert_eq!(PacketView::new(&bytes).unwrap().boot_file().as_ref(), url.as_bytes());
    assert_eq!(bytes[FILE], 0);
    assert!(answer.set_boot_file(&"x".repeat(255)).is_err());
    assert!(answer.set_boot_file("a\0b").is_err());
}

const ASKER: Asker<'_> = Asker { mac: MAC, xid: 7, secs: 3, vendor_class: "esir-agent" };

fn lease() -> Lease {
    let second = std::time::Duration::from_secs;
    Lease {
        address: Ipv4Addr::new(10, 77, 0, 100),
        prefix_len: 24,
        server: Ipv4Addr::new(10, 77, 0, 1),
        lease: second(3600),
        renew_after: second(1800),
        rebind_after: second(3150),
        routers: vec![Ipv4Addr::new(10, 77, 0, 254)],
        dns: vec![Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)],
        ntp: Vec::new(),
        domain: Some("lab".into()),
        host_name: None,
        mtu: Some(1500),
    }
}

/// What a server says about `lease`, in an answer to `request`.
fn answer(request: &[u8], kind: MessageKind, lease: &Lease) -> Vec<u8> {
    let mut message = Message::answer(&PacketView::new(request).unwrap(), kind).unwrap();
    message.set_yiaddr(lease.address).set_address(code::SERVER_ID, lease.server);
    message.set_number(code::LEASE_TIME, 3600).set_number(code::SUBNET_MASK, 0xffff_ff00);
    message.set_addresses(code::ROUTER, &lease.routers).unwrap();
    message.set_addresses(code::DNS_SERVER, &lease.dns).unwrap();
    message.set_bytes(code::DOMAIN_NAME, b"lab\0").unwrap();
    message.set_bytes(code::INTERFACE_MTU, &[5, 0xdc]).unwrap();
    message.encode().unwrap()
}

#[test]
fn node_and_server_understand_each_other() {
    let discover = ASKER.discover(Some(Ipv4Addr::new(10, 77, 0, 9))).unwrap();
    let view = PacketView::new(&discover).unwrap();
    assert_eq!(
        (view.kind(), view.mac(), view.xid(), view.secs()),
        (Some(MessageKind::Discover), Some(MAC), 7, 3)
    );
    assert_eq!(view.address_option(code::REQUESTED_ADDRESS), Some(Ipv4Addr::new(10, 77, 0, 9)));
    assert!(view.is_request() && view.wants_broadcast());

    let offer = answer(&discover, MessageKind::Offer, &lease());
    let Answer::Offer(offered) = ASKER.read(&offer).unwrap() else { panic!("an offer") };
    assert_eq!(offered, lease());
    let request = ASKER.request(&offered).unwrap();
    let view = PacketView::new(&request).unwrap();
    assert_eq!(view.address_option(code::REQUESTED_ADDRESS), Some(offered.address));
    assert_eq!(view.address_option(code::SERVER_ID), Some(offered.server));
    let ack = answer(&request, MessageKind::Ack, &lease());
    assert_eq!(ASKER.read(&ack).unwrap(), Answer::Ack(lease()));

    let renew = ASKER.renew(&offered).unwrap();
    let view = PacketView::new(&renew).unwrap();
    assert_eq!((view.ciaddr(), view.address_option(code::SERVER_ID)), (offered.address, None));
    let mut nak = Message::answer(&view, MessageKind::Nak).unwrap();
    nak.set_bytes(code::ERROR_TEXT, b"not yours").unwrap();
    let nak = ASKER.read(&nak.encode().unwrap()).unwrap();
    assert_eq!(nak, Answer::Nak { server: None, text: Some("not yours".into()) });
}

#[test]
fn answers_to_others_and_impossible_answers_are_refused() {
    let discover = ASKER.discover(None).unwrap();
    let ack = answer(&discover, MessageKind::Ack, &lease());
    let other_xid = Asker { xid: 8, ..ASKER };
    let other_mac = Asker { mac: MacAddr([2, 0, 0, 0, 0, 1]), ..ASKER };
    assert_eq!(other_xid.read(&ack), Err(AnswerError::NotOurs));
    assert_eq!(other_mac.read(&ack), Err(AnswerError::NotOurs));
    assert_eq!(ASKER.read(&discover), Err(AnswerError::NotOurs));
    let nowhere = answer(&discover, MessageKind::Ack, &Lease { address: Ipv4Addr::UNSPECIFIED, ..lease() });
    assert!(matches!(ASKER.read(&nowhere), Err(AnswerError::Lacks(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(head in prop::collection::vec(any::<u8>(), 0..400), fix in any::<bool>()) {
        let mut bytes = head;
        if fix && bytes.len() >= HEADER_BYTES {
            bytes[2] %= 17;
            bytes[MAGIC_AT..HEADER_BYTES].copy_from_slice(&MAGIC);
        }
        read_everything(&bytes);
    }

    #[test]
    fn any_options_are_survived(options in prop::collection::vec(any::<u8>(), 0..600), name in prop::collection::vec(any::<u8>(), 192)) {
        let mut bytes = packet(&options);
        bytes[SNAME..SNAME + 192].copy_from_slice(&name);
        read_everything(&bytes);
    }

    /// The oracle is dhcproto's decoder, on packets that it reads without trouble.
    #[test]
    fn what_we_encode_another_decoder_reads(
        address in any::<u32>(), xid in any::<u32>(), name in "[a-z/.]{1,120}", vendor in prop::collection::vec(any::<u8>(), 1..255),
    ) {
        let mut message = Message::from_node(MessageKind::Request, MAC, xid);
        message.set_yiaddr(address.into()).set_address(code::SERVER_ID, address.into());
        message.set_boot_file(&name).unwrap().set_bytes(code::VENDOR, &vendor).unwrap();
        let bytes = message.encode().unwrap();

        let view = PacketView::new(&bytes).unwrap();
        prop_assert_eq!(view.yiaddr(), Ipv4Addr::from(address));
        let boot_file = view.boot_file();
        prop_assert_eq!(boot_file.as_ref(), name.as_bytes());
        prop_assert_eq!(option(&bytes, code::VENDOR), Some(vendor.clone()));

        let theirs = dhcproto::v4::Message::from_bytes(&bytes).unwrap();
        prop_assert_eq!((theirs.xid(), theirs.yiaddr()), (xid, Ipv4Addr::from(address)));
        let get = |code: u8| theirs.opts().get(code.into()).cloned();
        prop_assert_eq!(get(code::VENDOR), Some(dhcproto::v4::DhcpOption::VendorExtensions(vendor)));
        prop_assert_eq!(get(code::SERVER_ID), Some(dhcproto::v4::DhcpOption::ServerIdentifier(address.into())));
    }
}

fn read_everything(bytes: &[u8]) {
    let _ = ASKER.read(bytes);
    let Ok(view) = PacketView::new(bytes) else { return };
    let _ = format!("{view:?} {} {} {:?}", view.secs(), view.hops(), view.siaddr());
    let _ = (view.mac(), view.boot_file(), view.server_name(), view.architectures(), view.machine_uuid());
    for code in 0..=255 {
        let _ = (
            view.option(code),
            view.number_option(code),
            view.addresses_option(code),
            view.relay_option(code),
        );
    }
    if let Some(answer) = Message::answer(&view, MessageKind::Offer) {
        let encoded = answer.encode().expect("an answer can always be encoded");
        let echoed = PacketView::new(&encoded).expect("and read");
        assert_eq!(
            echoed.option(code::RELAY_AGENT).unwrap_or_default(),
            view.option(code::RELAY_AGENT).unwrap_or_default()
        );
    }
}
