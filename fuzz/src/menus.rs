//! The site file's menus, and every script that can come of them.
//!
//! Never depends on the fuzzer: the same function replays the corpus in `crates/boot-menu/tests/corpus.rs`.

use std::net::{Ipv4Addr, SocketAddrV4};

use boot_menu::{Facts, Firmware, NodeRule, RawChoice, Sections, Server, check};
use toml::de::DeTable;

mod judge;

/// Entries and menus that are rendered alone; more find nothing that these don't.
const ALONE_MAX: usize = 8;

/// The file up to a NUL, then what a node says of itself. Whatever is taken, and whatever is refused, stays in its place
/// in every script.
pub fn menus(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0).map(String::from_utf8_lossy);
    let (file, serial, name) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let (document, _) = DeTable::parse_recoverable(&file);
    let mut sections = Sections::default();
    for (key, value) in document.into_inner() {
        let key = key.get_ref().to_string();
        let _ = sections.take(&key, value);
    }
    let mac = "52:54:00:00:00:01".parse().expect("an address");
    let node = NodeRule { mac, name: "n1".into(), group: None, choice: RawChoice::default() };
    let (menus, problems) = check(sections, vec![node]);
    for problem in problems {
        assert!(!problem.what.is_empty() && problem.span.is_none_or(|span| span.end <= file.len()));
    }
    let server = Server {
        http: SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 80),
        script_url: "http://10.77.0.1/boot.ipxe?mac=${mac:hexhyp}".into(),
    };
    for firmware in Firmware::ALL {
        let facts = Facts {
            mac,
            name: name.to_string(),
            serial: Some(serial.to_string()),
            uuid: None,
            address: Some(Ipv4Addr::new(10, 77, 0, 9)),
            relay: None,
            firmware,
        };
        let names: Vec<String> = menus.names().take(ALONE_MAX).map(str::to_owned).collect();
        let alone = names.iter().flat_map(|name| {
            [menus.resolve_entry(&facts, &server, name), menus.resolve_menu(&facts, &server, name)]
        });
        for plan in alone.flatten().chain(menus.resolve(&facts, &server, |_| false)) {
            judge::plan(&plan, &server, mac);
        }
    }
}
