//! Who gets which loader: what was found out, what the site says, and what outlives the server.

use super::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const X64: Architecture = Architecture::X64;

/// A server that is started again with this store; of the former one nothing else is left.
fn start_again(store: &Store, site: &str) -> (Policy, tempfile::TempDir) {
    let (other, _, folder) = policy(site);
    let nodes = Arc::new(Nodes::open(store.clone(), NodeRules::default()).unwrap());
    (Policy { nodes, once: OnceBook::open(store.clone()).unwrap(), ..other }, folder)
}

impl Policy {
    /// As the DHCP engine tells it, with the hint that it was given for this packet.
    fn hears(&self, program: Program) -> UefiLoader {
        let loader = self.hint(MAC).loader;
        let firmware = matches!(program, Program::PxeRom(X64) | Program::UefiHttp(X64));
        self.saw_dhcp(&DhcpSeen {
            mac: MAC,
            program,
            uuid: None,
            vendor_class: None,
            relay: None,
            address: ADDRESS,
            refused: match loader {
                UefiLoader::IpxeFetched if firmware => Some(Refused::Ipxe),
                UefiLoader::SignedFetched if firmware => Some(Refused::Shim),
                _ => None,
            },
        });
        loader
    }

    /// Two boots of a machine that fetches iPXE and refuses to start it.
    fn sees_a_refusal(&self) {
        assert_eq!(self.hears(Program::PxeRom(X64)), UefiLoader::Ipxe);
        self.fetches(FirstLoader::Ipxe);
        assert_eq!(self.hears(Program::PxeRom(X64)), UefiLoader::IpxeFetched);
        assert_eq!(self.hears(Program::PxeRom(X64)), UefiLoader::Signed);
    }

    fn fetches(&self, what: FirstLoader) {
        self.saw_fetched(ADDRESS, what);
    }

    /// And two more in which it refuses shim.
    fn sees_a_refusal_of_shim_too(&self) {
        self.sees_a_refusal();
        for _ in 0..2 {
            self.fetches(FirstLoader::Shim);
            assert_eq!(self.hears(Program::PxeRom(X64)), UefiLoader::SignedFetched);
        }
        assert_eq!(self.hears(Program::PxeRom(X64)), UefiLoader::Nothing);
    }

    fn alarm(&self) -> Option<String> {
        self.nodes.view(&self.nodes.names()[0]).unwrap().alarm
    }
}

#[test]
fn machine_that_refuses_ipxe_gets_what_is_signed_also_from_a_restarted_server() {
    let (first, store, _folder) = policy("");
    first.sees_a_refusal();
    // It asks for its configuration as GRUB, in which no iPXE speaks.
    let by_grub = BootRequest { loader: Loader::Grub, ..request(MAC) };
    assert!(matches!(first.decide(&by_grub, &server()), BootDecision::Agent { .. }));
    let (again, _folder) = start_again(&store, "");
    assert_eq!(again.hears(Program::PxeRom(X64)), UefiLoader::Signed);
    // Secure Boot was turned off, and somebody started iPXE from a stick.
    again.decide(&request(MAC), &server());
    assert_eq!(again.hears(Program::PxeRom(X64)), UefiLoader::Ipxe);
}

#[test]
fn machine_on_which_ipxe_speaks_goes_on_getting_it() {
    let (policy, ..) = policy("");
    for _ in 0..3 {
        assert_eq!(policy.hears(Program::PxeRom(X64)), UefiLoader::Ipxe);
        policy.fetches(FirstLoader::Ipxe);
        policy.hears(Program::Ipxe);
        policy.hears(Program::System);
    }
    policy.sees_a_refusal();
    policy.hears(Program::Ipxe);
    assert_eq!(policy.hears(Program::UefiHttp(X64)), UefiLoader::Ipxe);
    // A machine that goes on to HTTP boot in the same boot has refused it as well.
    policy.fetches(FirstLoader::Ipxe);
    assert_eq!(policy.hears(Program::UefiHttp(X64)), UefiLoader::IpxeFetched);
    assert_eq!(policy.hears(Program::PxeRom(X64)), UefiLoader::Signed);
}

#[test]
fn person_can_have_ipxe_tried_again() {
    let (policy, ..) = policy("");
    policy.sees_a_refusal();
    let names = policy.nodes.names();
    assert!(policy.nodes.view(&names[0]).unwrap().refused_ipxe_unix_ms.is_some());
    assert_eq!(policy.nodes.try_ipxe(&names, "somebody").unwrap(), names);
    assert!(policy.nodes.try_ipxe(&names, "somebody").unwrap().is_empty());
    policy.sees_a_refusal();
    let history = policy.nodes.detail(&names[0]).unwrap().unwrap().history;
    let said: Vec<&str> = history.iter().map(|entry| entry.text.as_str()).collect();
    assert_eq!(said.iter().filter(|text| text.contains("refused iPXE")).count(), 2, "{said:?}");
    assert!(said.iter().any(|text| text.contains("ordered by somebody")), "{said:?}");
}

#[test]
fn site_has_the_last_word() {
    let (found, store, _folder) = policy("");
    found.sees_a_refusal();
    let never = "[[node]]\nmac = '52:54:00:00:00:01'\nname = 'n1'\nsecure_boot = false\n";
    let (never, _folder) = start_again(&store, never);
    never.fetches(FirstLoader::Ipxe);
    assert_eq!(never.hears(Program::PxeRom(X64)), UefiLoader::Ipxe);
    let site = "[group.locked]\nmatch = { mac = '52:54:00:*' }\nsecure_boot = true\n[default]\nsecure_boot = false\n";
    let (always, ..) = policy(site);
    assert_eq!(always.hears(Program::PxeRom(X64)), UefiLoader::Signed);
    assert_eq!(always.hint(MacAddr([2, 0, 0, 0, 0, 2])).loader, UefiLoader::Ipxe);
    assert!(!always.hint(MAC).left_alone && always.site.get().menus.is_empty(), "no menu is meant by that");
}

#[test]
fn machine_that_refuses_shim_too_is_named_with_the_remedy_and_offered_nothing_more() {
    let (first, store, _folder) = policy("");
    first.sees_a_refusal_of_shim_too();
    let name = first.nodes.names().remove(0);
    let alarm = first.alarm().unwrap();
    assert!(alarm.contains("refuses iPXE and shim") && alarm.contains("third-party UEFI CA"), "{alarm}");
    assert!(alarm.contains(&format!("pxe-server try-ipxe {name}")), "{alarm}");
    let (again, _folder) = start_again(&store, "");
    assert_eq!(again.hears(Program::PxeRom(X64)), UefiLoader::Nothing);
    assert_eq!(again.alarm(), Some(alarm));
    // A person has turned Secure Boot off and says so.
    again.nodes.try_ipxe(std::slice::from_ref(&name), "somebody").unwrap();
    assert_eq!((again.hears(Program::PxeRom(X64)), again.alarm()), (UefiLoader::Ipxe, None));
    // Or has not, and the walk begins anew.
    again.sees_a_refusal_of_shim_too();
    // iPXE from a stick shows that it was turned off.
    again.hears(Program::Ipxe);
    assert_eq!((again.hears(Program::PxeRom(X64)), again.alarm()), (UefiLoader::Ipxe, None));
}

#[test]
fn machine_that_was_switched_off_once_between_shim_and_grub_goes_on_getting_them() {
    let (policy, ..) = policy("");
    policy.sees_a_refusal();
    for _ in 0..3 {
        policy.fetches(FirstLoader::Shim);
        assert_eq!(policy.hears(Program::PxeRom(X64)), UefiLoader::SignedFetched);
        policy.fetches(FirstLoader::Shim);
        policy.saw_shim_run(ADDRESS);
        assert_eq!(policy.hears(Program::PxeRom(X64)), UefiLoader::Signed);
    }
    assert_eq!(policy.alarm(), None);
}

#[test]
fn site_that_wants_shim_goes_on_giving_it_and_is_told_that_it_is_refused() {
    let (policy, ..) = policy("[default]\nsecure_boot = true\n");
    assert_eq!(policy.hears(Program::PxeRom(X64)), UefiLoader::Signed);
    for _ in 0..2 {
        policy.fetches(FirstLoader::Shim);
        assert_eq!(policy.hears(Program::PxeRom(X64)), UefiLoader::SignedFetched);
    }
    assert_eq!(policy.hears(Program::PxeRom(X64)), UefiLoader::Signed);
    assert!(policy.alarm().unwrap().contains("refuses shim, "));
    // Its CA is trusted now.
    policy.fetches(FirstLoader::Shim);
    policy.saw_shim_run(ADDRESS);
    assert_eq!(policy.alarm(), None);
}
