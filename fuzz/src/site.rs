//! The whole site file as the server and `pxe-server check` read it, and what must hold of every site that is taken.
//!
//! Never depends on the fuzzer: the same function replays the corpus in `crates/site-file/tests/corpus.rs`.

mod judge;
mod shelf;

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use boot_menu::{Facts, Firmware, Server, kernel_words_problem};
use dhcp_wire::MacAddr;
use disk_layout::{Chosen, Plan, Seeds};
use site_file::{DhcpConfig, Overrides, Site, SiteText, parse_site};
use system_steps::{Node, STEP_BYTES_MAX};

use shelf::Shelf;

const FILE: &str = "site.toml";
/// Nodes that are booted and made; more find nothing that these don't.
const NODES_MAX: usize = 4;

/// The text up to a NUL, a path of every overlay up to the next, the bytes of its file. Whether it is a good site.
pub fn site(data: &[u8]) -> bool {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let path = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let beside = Shelf(&path, parts.next().unwrap_or_default());
    let read = |overrides: &Overrides| {
        parse_site(SiteText { file: FILE, text: &text, base: Some(Path::new("/srv")) }, overrides, &beside)
    };
    let alone = Overrides { partial: true, ..Overrides::default() };
    let served = Overrides {
        interface: Some("eth1".into()),
        images: vec!["debian.esir".into()],
        ..Overrides::default()
    };
    let taken = match (read(&alone), read(&served)) {
        (Ok(alone), Ok(served)) => {
            let command_line = ["server", "image"];
            let others = alone.fixed_differences(&served);
            assert!(others.iter().all(|section| command_line.contains(section)), "{others:?}");
            assert!(alone.changeable() == served.changeable() && served.images.len() == 1);
            alone
        }
        (Err(alone), served) => {
            points_into(&text, &alone.0);
            // The command line puts another interface into the file's place.
            let matters = alone.0.iter().any(|problem| !problem.contains("cannot be an interface"));
            assert_eq!(served.is_err(), matters, "{alone}");
            return false;
        }
        (Ok(_), Err(served)) => panic!("taken alone and refused when it is served: {served}"),
    };
    assert_eq!(read(&alone).as_ref(), Ok(&taken), "the same text is another site");
    holds(&taken);
    networks_hold(&taken.dhcp);
    nodes_boot_and_are_made(&taken);
    true
}

/// One line each, with a line of the file, a sentence, and nothing that a terminal takes for a command.
fn points_into(text: &str, problems: &[String]) {
    assert!(!problems.is_empty());
    let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    for problem in problems {
        assert!(!problem.contains(char::is_control), "{problem:?}");
        let (place, what) = problem.split_once(": ").expect("a place");
        let line = place.strip_prefix(FILE).expect("the file's name");
        let line = line.strip_prefix(':').map(|line| line.parse::<usize>().expect("a line's number"));
        assert!(line.is_none_or(|line| (1..=lines).contains(&line)) && !what.is_empty(), "{problem}");
    }
}

fn holds(site: &Site) {
    assert!(site.interface.as_ref().is_none_or(|name| (1..=15).contains(&name.len()) && !name.contains('/')));
    let ports = [site.http_port, site.agent_port, site.peer_port];
    assert!(!ports.contains(&0) && HashSet::from(ports).len() == ports.len());
    assert!(site.approve.macs.iter().all(|mac| mac.is_unicast()));
    assert_eq!(kernel_words_problem(&site.boot_arguments), None);
    assert!(Plan::on(&site.layout, &Chosen::roomy(&site.layout), &Seeds::default()).is_ok());
    assert!(site.authorized_keys.iter().all(|key| key.lines().count() == 1));
    assert!(site.linger_max_s <= 86_400);
    assert!(!site.module_deny.iter().any(|module| module.contains(char::is_whitespace)));
    let (mut macs, mut names) = (HashSet::new(), HashSet::new());
    for node in &site.nodes {
        assert!(node.mac.is_unicast() && macs.insert(node.mac) && names.insert(&node.name));
        assert!(!node.name.is_empty() && !node.name.contains(['.', '/', ' ']));
        assert_eq!(site.menus.node_name(node.mac), Some(node.name.as_str()));
    }
}

fn networks_hold(dhcp: &DhcpConfig) {
    let (mut macs, mut addresses) = (HashSet::new(), HashSet::new());
    for reservation in &dhcp.reservations {
        assert!(macs.insert(reservation.mac) && addresses.insert(reservation.address));
    }
    for (number, (prefix, network)) in dhcp.subnets.iter().enumerate() {
        assert_eq!(network.problems(*prefix), Vec::<String>::new());
        assert!(!dhcp.subnets.iter().skip(number + 1).any(|(other, _)| other.overlaps(*prefix)));
    }
    for network in dhcp.subnets.iter().map(|(_, network)| network).chain([&dhcp.link]) {
        assert!(network.pools.iter().all(|pool| pool.start() <= pool.end()));
        assert!((60..=604_800).contains(&network.lease.as_secs()) && network.dns.len() <= 8);
        let domain = network.domain.as_deref().unwrap_or("none");
        assert!((1..=253).contains(&domain.len()) && !domain.contains(char::is_whitespace));
    }
}

/// Each node gets scripts that say what is meant, and steps that fit a task or a sentence that says why not.
fn nodes_boot_and_are_made(site: &Site) {
    let http = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 80);
    let server = Server { http, script_url: "http://10.77.0.1/boot.ipxe?mac=${mac:hexhyp}".into() };
    for (mac, name) in site.menus.nodes().take(NODES_MAX) {
        for firmware in Firmware::ALL {
            let facts = facts(mac, name, firmware);
            for had_once in [false, true] {
                if let Some(plan) = site.menus.resolve(&facts, &server, |_| had_once) {
                    judge::plan(&plan, &server, mac);
                }
            }
            let node = Node {
                rules: site.menus.rule_names(&facts),
                values: site.menus.variables(&facts, &server),
                machine_id: "0".repeat(32),
            };
            match site.systems.steps(&node) {
                Ok(made) => {
                    let files = made.steps.iter().flat_map(|step| &step.files);
                    assert!(files.map(|file| file.contents.0.len()).sum::<usize>() <= STEP_BYTES_MAX);
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

fn facts(mac: MacAddr, name: &str, firmware: Firmware) -> Facts {
    let address = Some(Ipv4Addr::new(10, 77, 0, 9));
    Facts { mac, name: name.to_owned(), serial: None, uuid: None, address, relay: None, firmware }
}
