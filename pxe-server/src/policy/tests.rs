mod secure_boot;

use dhcp_engine::Architecture;
use node_api::FirmwareKind;
use site_file::Overrides;
use store::Store;

use super::*;
use crate::bundle::tests::{make_bundle, trust};
use crate::netboot::Asks;
use crate::nodes::NodeRules;
use crate::site::parse_site;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

/// The policy of a site file, and its store.
fn policy(text: &str) -> (Policy, Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    make_bundle(folder.path());
    let overrides = Overrides { partial: true, ..Overrides::default() };
    let site = parse_site("site.toml", text, None, &overrides).unwrap();
    let store = Store::open("memory:").unwrap();
    let rules = NodeRules { approve: site.approve.clone(), names: site.nodes.clone() };
    let policy = Policy {
        nodes: Arc::new(Nodes::open(store.clone(), rules).unwrap()),
        bundle: Arc::new(Bundle::open(folder.path(), &trust()).unwrap()),
        site: Arc::new(Current::new(site.changeable())),
        once: OnceBook::open(store.clone()).unwrap(),
        relays: Arc::default(),
        fetches: Fetches::default(),
    };
    (policy, store, folder)
}

fn request(mac: MacAddr) -> BootRequest {
    BootRequest {
        mac,
        uuid: None,
        serial: None,
        platform: FirmwareKind::Uefi,
        loader: Loader::Ipxe,
        address: Ipv4Addr::new(10, 77, 0, 9),
        asks: Asks::Start,
        user: None,
    }
}

fn server() -> Server {
    Server { http: "10.77.0.1:80".parse().unwrap(), script_url: "http://10.77.0.1/boot.ipxe".into() }
}

fn seen(number: u32, relay: Option<Ipv4Addr>) -> DhcpSeen {
    let [a, b, c, d] = number.to_be_bytes();
    DhcpSeen {
        mac: MacAddr([2, 0xbb, a, b, c, d]),
        program: Program::PxeRom(Architecture::X64),
        uuid: None,
        vendor_class: None,
        relay,
        address: Ipv4Addr::UNSPECIFIED,
        refused: None,
    }
}

#[test]
fn flood_of_firmware_with_random_addresses_stores_nothing_and_stops_nobody() {
    let relay = Ipv4Addr::new(10, 78, 0, 254);
    let (policy, store, _folder) = policy(
        "[entry.hw]\ninventory = true\n[entry.disk]\nlocal = 'auto'\n[group.behind]\nmatch = { relay = '10.78.0.254' }\nboot = 'disk'\n\
         [default]\nboot = 'hw'\n",
    );
    let mine = DhcpSeen { mac: MAC, ..seen(0, Some(relay)) };
    policy.saw_dhcp(&mine);
    for number in 0..50_000 {
        policy.saw_dhcp(&seen(number, Some(relay)));
    }
    assert_eq!(store.list("").unwrap(), []);
    assert!(policy.nodes.names().len() < 5000);
    // A node that comes in the middle of it is a node, with the rules of its relay.
    policy.saw_dhcp(&mine);
    assert_eq!(policy.decide(&request(MAC), &server()), policy.decide(&request(MAC), &server()));
    assert!(policy.hint(MAC).boots_locally);
    let other = MacAddr([0x52, 0x54, 0, 0, 0, 2]);
    assert!(matches!(policy.decide(&request(other), &server()), BootDecision::Agent { .. }));
    assert_eq!(store.list("node/").unwrap().len(), 1);
}

#[test]
fn node_is_left_alone_only_while_its_own_disk_is_what_it_gets() {
    let (policy, _, _folder) = policy("[default]\nlocal = 'ignore'\n");
    policy.saw_dhcp(&DhcpSeen { mac: MAC, ..seen(0, None) });
    assert!(!policy.hint(MAC).left_alone, "its agent has to come first");
    let name = policy.nodes.discover(MAC).unwrap();
    policy.nodes.install_for_test(&name);
    assert_eq!(policy.hint(MAC), Hint { boots_locally: true, left_alone: true, ..Hint::default() });
    policy.nodes.deploy(&[name], "somebody").unwrap();
    assert_eq!(policy.hint(MAC), Hint { known: true, ..Hint::default() });
}

#[test]
fn once_is_answered_before_a_node_is_left_alone() {
    let (policy, store, _folder) = policy(
        "[entry.hw]\ninventory = true\n[entry.disk]\nlocal = 'ignore'\n[group.g]\nmatch = { hosts = 'n1' }\nonce = 'hw'\n\
         then = 'disk'\n[[node]]\nmac = '52:54:00:00:00:01'\nname = 'n1'\n",
    );
    assert!(!policy.hint(MAC).left_alone);
    assert!(matches!(policy.decide(&request(MAC), &server()), BootDecision::Agent { .. }));
    assert!(!policy.hint(MAC).left_alone, "the same boot");
    // A minute later it is another boot.
    let had = br#"{"rule":"group.g:hw","at_unix_ms":1}"#;
    let write = store::Write::put(format!("once/{}", MAC.hyphenated()), store::Expect::Anything, *had);
    store.commit(&[write]).unwrap();
    let later = Policy { once: OnceBook::open(store).unwrap(), ..policy };
    assert!(later.hint(MAC).left_alone);
    assert_eq!(later.hint(MacAddr([0x52, 0x54, 0, 0, 0, 2])), Hint::default());
}

#[test]
fn node_that_may_choose_is_never_left_alone() {
    let (policy, ..) = policy(
        "[entry.disk]\nlocal = 'ignore'\n[menu.m]\nitems = ['disk']\n[default]\nmenu = 'm'\nlocal = 'ignore'\n",
    );
    assert_eq!(policy.hint(MAC), Hint::default());
    // A loader that runs already is told to end, as if nothing had been said.
    let item = BootRequest { asks: Asks::Item("disk".into()), ..request(MAC) };
    let BootDecision::Script(script) = policy.decide(&item, &server()) else { panic!("a script") };
    assert!(script.contains("exit 1"), "{script}");
}
