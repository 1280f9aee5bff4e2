use disk_layout::Layout;

use super::*;

fn overrides() -> Overrides {
    Overrides { interface: Some("eth1".into()), images: vec!["debian.esir".into()], ..Overrides::default() }
}

#[test]
fn one_line_start_needs_no_file() {
    let site = read_site(None, &overrides()).unwrap();
    assert_eq!(site.interface.as_deref(), Some("eth1"));
    assert_eq!((site.http_port, site.agent_port, site.peer_port), (80, 8443, 6881));
    assert_eq!(site.admin, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(site.layout, Layout::default());
    assert!(!site.approve.all && !site.swarm_open && !site.boot_from_peers);
}

#[test]
fn example_is_a_good_site() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("site.example.toml");
    let site = read_site(Some(&path), &Overrides { partial: true, ..Overrides::default() }).unwrap();
    assert_eq!(site.menus.nodes().count(), 2);
    assert_eq!(site.menus.files().len(), 2, "memtest for both kinds of firmware");
}

const SYSTEMS: &str = "[system]\nfiles = ['files/common']\n[vars]\nrack = 'r1'\n\
                       [group.gpu]\nmatch = { hosts = 'g[1-4]' }\n[group.gpu.system]\nenable = ['nvidia-persistenced']\n\
                       [[node]]\nmac = '52:54:00:00:00:01'\nname = 'g1'\ngroup = 'gpu'\nvars = { rack = 'r2' }\n\
                       [node.system.network]\naddress = '10.77.0.11/24'\n";

#[test]
fn tables_of_systems_hold_by_the_rules_that_menus_have_and_overlays_are_read_beside_the_file() {
    use boot_menu::{Facts, Firmware, Server};
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("files/common/etc")).unwrap();
    std::fs::write(dir.path().join("files/common/etc/motd.tmpl"), "${name} ${rack}").unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.path().join("files/common/etc/link")).unwrap();
    let site = parse_site("site.toml", SYSTEMS, Some(dir.path()), &overrides()).unwrap();
    let facts = Facts {
        mac: "52:54:00:00:00:01".parse().unwrap(),
        name: "g1".into(),
        serial: None,
        uuid: None,
        address: None,
        relay: None,
        firmware: Firmware::Bios,
    };
    let server = Server { http: "10.77.0.1:80".parse().unwrap(), script_url: String::new() };
    let made = crate::tasks::steps(&site.changeable(), &facts, &server, "00").unwrap();
    let shown = format!("{made:#}");
    for words in
        ["| g1 r2", "link    /etc/link -> /nowhere", "nvidia-persistenced.service", "Address=10.77.0.11/24"]
    {
        assert!(shown.contains(words), "{words} is not in\n{shown}");
    }
}
