use dhcp_wire::{Answer, Asker, MacAddr};
use store::Store;

use super::*;
use crate::netboot::tests::{NodeSpace, Stranger, in_a_namespace, start_with};
use crate::nodes::NodeRules;
use crate::site::parse_site;

const BEFORE: &str = "[dhcp]\npool = '10.77.0.100-10.77.0.109'\nrouter = '10.77.0.1'\n";

fn site(text: &str) -> Site {
    let overrides = Overrides {
        interface: Some("server0".into()),
        images: vec!["debian.esir".into()],
        ..Overrides::default()
    };
    parse_site("site.toml", text, None, &overrides).unwrap()
}

fn mac(number: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, number])
}

/// One node's address, first as a new node and then as one that renews.
async fn address(space: &Arc<NodeSpace>, number: u8) -> Option<std::net::Ipv4Addr> {
    let space = Arc::clone(space);
    let dora = move || space.inside(|| Stranger::new().dora(mac(number)));
    tokio::task::spawn_blocking(dora).await.unwrap()
}

/// The router that a node is told.
async fn router(space: &Arc<NodeSpace>, number: u8) -> Option<std::net::Ipv4Addr> {
    let space = Arc::clone(space);
    let ask = move || {
        space.inside(|| {
            let (stranger, asker) =
                (Stranger::new(), Asker { mac: mac(number), xid: 9, secs: 0, vendor_class: "test" });
            stranger.send(&asker.discover(None).unwrap());
            match stranger.answer(&asker) {
                Some(Answer::Offer(offer)) => offer.routers.first().copied(),
                _ => None,
            }
        })
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

async fn new_settings_on_the_wire() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["vmlinuz", "initrd.img", "snponly.efi"] {
        std::fs::write(directory.path().join(name), name).unwrap();
    }
    let space = Arc::new(NodeSpace::new());
    let store = Store::open("memory:").unwrap();
    let started = site(BEFORE);
    let netboot = start_with(directory.path(), &store, started.dhcp.clone()).await.unwrap();
    let mut running = Running {
        current: Arc::new(Current::new(started.changeable())),
        nodes: Arc::new(Nodes::open(store.clone(), NodeRules::default()).unwrap()),
        dhcp: netboot.dhcp_changes(),
        dhcp_now: started.dhcp.clone(),
        started,
    };
    let first = address(&space, 1).await.unwrap();
    assert!((100..110).contains(&first.octets()[3]), "{first}");

    // Pools, options, reservations and menus change; the lease goes on.
    let after = "[dhcp]\npool = '10.77.0.90-10.77.0.250'\nrouter = '10.77.0.254'\n[[dhcp.subnet]]\nnetwork = '10.78.0.0/24'\n\
                 pool = '10.78.0.9-10.78.0.99'\n[[node]]\nmac = '52:54:00:00:00:02'\nname = 'n2'\naddress = '10.77.0.7'\n\
                 [default]\nlocal = 'ignore'\n";
    running.take(&site(after)).await.unwrap();
    assert_eq!(address(&space, 1).await, Some(first));
    assert_eq!(address(&space, 2).await, Some([10, 77, 0, 7].into()));
    assert_eq!(router(&space, 1).await, Some([10, 77, 0, 254].into()));
    assert_eq!(running.nodes.before_boot(mac(2)).0, "n2");
    assert!(!running.current.get().menus.is_silent());

    // A file that fits no network of this machine changes nothing at all, its menus included.
    let bad = "[dhcp]\npool = '10.99.0.1-10.99.0.9'\n[default]\nlocal = 'auto'\n";
    let error = format!("{:#}", running.take(&site(bad)).await.unwrap_err());
    assert!(error.contains("10.99.0.1-10.99.0.9 is not within"), "{error}");
    assert_eq!(router(&space, 1).await, Some([10, 77, 0, 254].into()));
    assert!(!running.current.get().menus.is_silent());

    // What takes a restart leaves DHCP as it is, and the rest is taken.
    let fixed = format!("{BEFORE}probe = false\n");
    assert_eq!(running.started.fixed_differences(&site(&fixed)), ["dhcp.probe"]);
    running.take(&site(&fixed)).await.unwrap();
    assert_eq!(router(&space, 1).await, Some([10, 77, 0, 254].into()));
    assert!(running.current.get().menus.is_silent());
    running.take(&site(BEFORE)).await.unwrap();
    assert_eq!(router(&space, 1).await, Some([10, 77, 0, 1].into()));
    assert_eq!(address(&space, 1).await, Some(first));
    netboot.shutdown().await;
}

#[test]
fn other_dhcp_settings_are_taken_while_the_server_runs() {
    in_a_namespace(&[], new_settings_on_the_wire);
}
