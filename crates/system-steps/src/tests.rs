use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use node_api::{BootOrder, Step, StepFile, StepFileKind};
use proptest::prelude::*;
use serde::Deserialize;
use toml::Spanned;

use crate::{Checked, Made, Node, RawSystem, Source, SourceFile, SourceKind, StepsError, Systems, check};

/// What the tests' site has beside its file.
struct Shelf;

impl Source for Shelf {
    fn folder(&self, path: &Path) -> Result<Vec<SourceFile>, String> {
        let file = |path: &str, mode, bytes: &[u8]| SourceFile {
            path: path.into(),
            mode,
            kind: SourceKind::File(bytes.to_vec()),
        };
        match path.to_str() {
            Some("common") => Ok(vec![
                file("/etc/motd.tmpl", 0o644, b"${name} of ${rack}: $${HOME} costs $5\n"),
                file("/etc/both", 0o600, b"common"),
                SourceFile { path: "/etc".into(), mode: 0o755, kind: SourceKind::Folder },
                SourceFile {
                    path: "/etc/localtime".into(),
                    mode: 0o777,
                    kind: SourceKind::Link(b"../usr/share/zoneinfo/UTC".to_vec()),
                },
            ]),
            Some("special") => Ok(vec![file("/etc/both", 0o640, b"special")]),
            Some("wrong") => Ok(vec![file("/etc/x.tmpl", 0o644, b"${nothing}"), file("/a/../b", 0o644, b"")]),
            Some("huge") => Ok(vec![file("/huge", 0o644, &vec![0; (4 << 20) + 1])]),
            _ => Err("it is not there".into()),
        }
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        match path.to_str() {
            Some("hook.sh") => Ok(b"#!/bin/sh\necho $ESIR_NAME\n".to_vec()),
            Some("note.txt") => Ok(b"no program".to_vec()),
            Some("user-data.tmpl") => Ok(b"#cloud-config\nfqdn: ${fqdn}\n".to_vec()),
            _ => Err("it is not there".into()),
        }
    }
}

#[derive(Deserialize)]
struct File {
    system: Spanned<RawSystem>,
}

fn checked(text: &str) -> Checked {
    let file: File = toml::from_str(text).unwrap();
    check(file.system, &BTreeSet::from(["rack".to_owned()]), &Shelf)
}

fn node(rules: &[&str]) -> Node {
    let values = [("name", "n7"), ("mac", "52:54:00:aa:bb:cc"), ("address", "10.77.0.17"), ("rack", "r3")];
    Node {
        rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        values: values.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        machine_id: "00ff".into(),
    }
}

fn try_made(text: &str) -> Result<Made, StepsError> {
    let Checked { settings, problems } = checked(text);
    assert_eq!(problems, []);
    let mut systems = Systems::default();
    systems.add("default", settings);
    systems.steps(&node(&["default"]))
}

fn made(text: &str) -> Made {
    try_made(text).unwrap()
}

fn step<'m>(made: &'m Made, name: &str) -> &'m Step {
    made.steps.iter().find(|step| step.name == name).unwrap_or_else(|| panic!("no step {name} in\n{made}"))
}

fn file<'m>(made: &'m Made, path: &str) -> &'m StepFile {
    let mut files = made.steps.iter().flat_map(|step| &step.files);
    files.find(|file| file.path == path).unwrap_or_else(|| panic!("no file {path} in\n{made}"))
}

fn text(made: &Made, path: &str) -> String {
    String::from_utf8(file(made, path).contents.0.clone()).unwrap()
}

fn script(made: &Made, name: &str) -> String {
    String::from_utf8(step(made, name).program.as_ref().unwrap().contents.0.clone()).unwrap()
}

/// The problems of a table, each with what it has to say.
fn problems(text: &str, expected: &[&str]) {
    let found = checked(text).problems;
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.what.contains(expected), "{}\nshould contain {expected}", found.what);
        assert!(found.span.clone().is_some_and(|span| span.end <= text.len()));
    }
}

#[test]
fn a_site_that_says_nothing_has_its_nodes_ask_for_addresses_by_whatever_they_have() {
    let made = made("[system]\n");
    let names: Vec<&str> = made.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "network for netplan",
            "network for NetworkManager",
            "network for systemd-networkd",
            "network for ifupdown: its first file",
            "network for ifupdown",
            "network for systemd-networkd, now enabled",
            "cloud-init"
        ]
    );
    assert!(text(&made, "/etc/netplan/60-esir.yaml").contains(
        "    boot0:\n      match:\n        macaddress: \"52:54:00:aa:bb:cc\"\n      dhcp4: true\n      dhcp-identifier: mac\n"
    ));
    assert_eq!(
        text(&made, "/etc/NetworkManager/system-connections/esir.nmconnection"),
        "# Written at deployment.\n[connection]\nid=esir-boot0\ntype=ethernet\n\n[ethernet]\n\
         mac-address=52:54:00:aa:bb:cc\n\n[ipv4]\nmethod=auto\ndhcp-client-id=mac\n\n[ipv6]\nmethod=auto\n"
    );
    assert_eq!(
        text(&made, "/etc/systemd/network/10-esir.network"),
        "# Written at deployment.\n[Match]\nMACAddress=52:54:00:aa:bb:cc\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\n\
         ClientIdentifier=mac\nUseDomains=yes\n"
    );
    assert_eq!(
        text(&made, "/etc/network/interfaces.d/esir"),
        "# Written at deployment.\nauto boot0\niface boot0 inet dhcp\n"
    );
    assert_eq!(made.boot_order, BootOrder::NetworkFirst);
}

const STATIC: &str = "[system.network]\naddress = ['${address}/22', 'fd00::17/64']\ngateway = ['10.77.0.1', 'fd00::1']\n\
                      dns = '10.77.0.2'\nsearch = ['cluster.example', 'example']\nmtu = 9000\n\
                      [[system.network.interface]]\nmac = '52:54:00:AA:BB:CD'\naddress = '10.78.0.17/24'\n";

#[test]
fn fixed_addresses_are_written_in_the_words_of_each_manager() {
    let made = made(STATIC);
    assert_eq!(
        text(&made, "/etc/netplan/60-esir.yaml"),
        "# Written at deployment.\nnetwork:\n  version: 2\n  ethernets:\n    boot0:\n      match:\n        \
         macaddress: \"52:54:00:aa:bb:cc\"\n      addresses: [\"10.77.0.17/22\", \"fd00::17/64\"]\n      routes:\n        \
         - to: \"0.0.0.0/0\"\n          via: \"10.77.0.1\"\n        - to: \"::/0\"\n          via: \"fd00::1\"\n      \
         nameservers:\n        addresses: [\"10.77.0.2\"]\n        search: [\"cluster.example\", \"example\"]\n      \
         mtu: 9000\n    nic1:\n      match:\n        macaddress: \"52:54:00:aa:bb:cd\"\n      addresses: \
         [\"10.78.0.17/24\"]\n"
    );
    assert_eq!(
        text(&made, "/etc/NetworkManager/system-connections/esir.nmconnection"),
        "# Written at deployment.\n[connection]\nid=esir-boot0\ntype=ethernet\n\n[ethernet]\n\
         mac-address=52:54:00:aa:bb:cc\nmtu=9000\n\n[ipv4]\nmethod=manual\naddress1=10.77.0.17/22\n\
         gateway=10.77.0.1\ndns=10.77.0.2;\ndns-search=cluster.example;example;\n\n[ipv6]\nmethod=manual\n\
         address1=fd00::17/64\ngateway=fd00::1\n"
    );
    assert_eq!(
        text(&made, "/etc/systemd/network/10-esir.network"),
        "# Written at deployment.\n[Match]\nMACAddress=52:54:00:aa:bb:cc\n\n[Link]\nMTUBytes=9000\n\n[Network]\n\
         Address=10.77.0.17/22\nAddress=fd00::17/64\nGateway=10.77.0.1\nGateway=fd00::1\nDNS=10.77.0.2\n\
         Domains=cluster.example\nDomains=example\n"
    );
    assert_eq!(
        text(&made, "/etc/network/interfaces.d/esir"),
        "# Written at deployment.\nauto boot0\niface boot0 inet static\n    address 10.77.0.17/22\n    \
         gateway 10.77.0.1\n    mtu 9000\niface boot0 inet6 static\n    address fd00::17/64\n    gateway fd00::1\n    \
         mtu 9000\n    dns-nameservers 10.77.0.2\n    dns-search cluster.example example\nauto nic1\n\
         iface nic1 inet static\n    address 10.78.0.17/24\n"
    );
    assert_eq!(
        text(&made, "/etc/resolv.conf"),
        "# Written at deployment.\nsearch cluster.example example\nnameserver 10.77.0.2\n"
    );
}

#[test]
fn a_network_that_the_image_brings_is_left_to_it_and_to_its_cloud_init() {
    let made = made("[system.network]\nmethod = 'image'\n");
    assert_eq!(made.steps.len(), 1);
    assert!(!text(&made, "/etc/cloud/cloud.cfg.d/99-esir.cfg").contains("network"));
    assert!(made.steps[0].files.iter().all(|file| file.kind != StepFileKind::Absent));
}

#[test]
fn the_more_special_table_wins_value_by_value_and_lists_of_work_add_up() {
    let mut systems = Systems::default();
    for (rule, text) in [
        (
            "default",
            "[system]\nfiles = ['common']\nenable = ['ssh', 'cron']\nhooks = ['hook.sh']\n\
                     [system.network]\ngateway = '10.77.0.1'\n[system.user.ops]\nkeys = ['ssh-ed25519 A']\n",
        ),
        ("group.gpu", "[system]\nfiles = ['special']\ndisable = ['cron']\n[system.user.gpu]\n"),
        (
            "node.n7",
            "[system]\nboot_order = 'disk_first'\n[system.network]\naddress = '10.77.0.9/24'\n\
                     [system.user.ops]\nkeys = ['ssh-ed25519 B']\n",
        ),
        ("node.n8", "[system]\nboot_order = 'untouched'\n"),
    ] {
        let Checked { settings, problems } = checked(text);
        assert_eq!(problems, []);
        systems.add(rule, settings);
    }
    let made = systems.steps(&node(&["node.n7", "group.gpu", "default"])).unwrap();
    let network = text(&made, "/etc/systemd/network/10-esir.network");
    assert!(network.contains("Address=10.77.0.9/24\nGateway=10.77.0.1\n"), "{network}");
    assert_eq!(text(&made, "~ops/.ssh/authorized_keys"), "ssh-ed25519 B\n");
    assert_eq!((text(&made, "/etc/both").as_str(), file(&made, "/etc/both").mode), ("special", 0o640));
    assert_eq!(
        script(&made, "services"),
        "#!/bin/sh\nset -eu\nsystemctl disable 'cron.service'\nsystemctl enable 'ssh.service'\n"
    );
    assert_eq!(made.boot_order, BootOrder::DiskFirst);
    let names: Vec<&str> = made.steps.iter().map(|step| step.name.as_str()).skip(7).collect();
    assert_eq!(names, ["user gpu", "user ops", "files", "services", "hook hook.sh"]);
}

#[test]
fn an_overlay_keeps_links_and_modes_and_fills_its_templates() {
    let made = made(
        "[system]\nfiles = ['common', 'special']\n[system.file.'/etc/both']\nowner = 'ops:adm'\nmode = '0400'\n\
         [system.file.'/etc/issue']\ncontent = 'on ${fqdn}'\n",
    );
    assert_eq!(text(&made, "/etc/motd"), "n7 of r3: ${HOME} costs $5\n");
    assert_eq!(text(&made, "/etc/issue"), "on n7");
    let both = file(&made, "/etc/both");
    assert_eq!((both.owner.as_str(), both.mode), ("ops:adm", 0o400));
    let kinds: Vec<_> =
        step(&made, "files").files.iter().map(|file| (file.path.as_str(), file.kind)).collect();
    assert_eq!(
        kinds,
        [
            ("/etc", StepFileKind::Folder),
            ("/etc/both", StepFileKind::File),
            ("/etc/issue", StepFileKind::File),
            ("/etc/localtime", StepFileKind::Link),
            ("/etc/motd", StepFileKind::File)
        ]
    );
}

#[test]
fn users_are_made_by_the_images_own_useradd_and_a_second_time_nothing_changes() {
    let made = made(
        "[system.user.ops]\nuid = 1500\ngroups = ['adm', 'slurm']\nkeys = ['ssh-ed25519 A a', 'ssh-ed25519 B b']\n\
         sudo = true\n[system.user.root]\npassword = '$6$salt$0123456789abcdef'\nkeys = ['ssh-ed25519 R']\n",
    );
    let script_of_ops = script(&made, "user ops");
    for line in [
        "grep -q '^slurm:' /etc/group || groupadd 'slurm'\n",
        "id -u 'ops' >/dev/null 2>&1 || useradd --create-home --password '*' --uid 1500 --shell",
        "usermod --append --groups 'adm,slurm' 'ops'\n",
    ] {
        assert!(script_of_ops.contains(line), "{script_of_ops}");
    }
    assert_eq!(text(&made, "/etc/sudoers.d/esir-ops"), "ops ALL=(ALL:ALL) NOPASSWD: ALL\n");
    assert_eq!(file(&made, "/etc/sudoers.d/esir-ops").mode, 0o440);
    let keys = file(&made, "~ops/.ssh/authorized_keys");
    assert_eq!((keys.mode, keys.owner.as_str()), (0o600, "ops"));
    assert_eq!(
        script(&made, "user root"),
        "#!/bin/sh\nset -eu\nusermod --password '$6$salt$0123456789abcdef' 'root'\n"
    );
    assert_eq!(made.root_keys, ["ssh-ed25519 R"]);
}

#[test]
fn cloud_init_gets_a_seed_and_undoes_nothing() {
    let made =
        made("[system]\ndomain = 'cluster.example'\n[system.cloud_init]\nuser_data = 'user-data.tmpl'\n");
    let seed = "/var/lib/cloud/seed/nocloud";
    assert_eq!(
        text(&made, &format!("{seed}/meta-data")),
        "instance-id: esir-00ff\nlocal-hostname: n7.cluster.example\n"
    );
    assert_eq!(text(&made, &format!("{seed}/user-data")), "#cloud-config\nfqdn: n7.cluster.example\n");
    assert_eq!(
        text(&made, "/etc/cloud/cloud.cfg.d/99-esir.cfg"),
        "# Written at deployment.\ndatasource_list: [NoCloud, None]\nssh_deletekeys: false\nssh_genkeytypes: [rsa, ecdsa, ed25519]\nnetwork:\n  config: disabled\n"
    );
    assert_eq!(step(&made, "cloud-init").if_any, ["/usr/bin/cloud-init"]);
    let off = self::made("[system.cloud_init]\nrun = false\n");
    assert_eq!(step(&off, "cloud-init").files.len(), 1);
    assert_eq!(text(&off, "/etc/cloud/cloud-init.disabled"), "");
}

#[test]
fn a_hook_finds_the_nodes_variables_in_its_environment() {
    let made = made("[system]\nhooks = ['hook.sh']\nhook_limit_s = 7\n");
    let program = step(&made, "hook hook.sh").program.clone().unwrap();
    assert_eq!(program.limit_s, 7);
    let environment: BTreeMap<String, String> = program.environment.into_iter().collect();
    assert_eq!((environment["ESIR_NAME"].as_str(), environment["ESIR_RACK"].as_str()), ("n7", "r3"));
}

#[test]
fn every_problem_says_what_to_write_instead() {
    problems(
        "[system]\ndomain = 'Two Words'\nfiles = ['none', 'wrong']\nhooks = ['note.txt', 'none.sh']\n\
         hook_limit_s = 0\nenable = ['-x', 'ssh']\nmask = ['ssh']\n[system.network]\nmethod = 'magic'\nmtu = 9\n\
         dns = '${'\n[system.user.'a b']\n[system.user.x]\npassword = 'secret'\nshell = 'bash'\n\
         [system.user.root]\nsudo = true\n[system.file.'etc/x']\n[system.file.'/etc/y']\nmode = '8'\nowner = 'a:b:c'\n",
        &[
            "hook_limit_s = 0; write 1 to 3600",
            "write one such as cluster.example",
            "write dhcp, static or image",
            "network.mtu = 9",
            "network.dns: `${` needs a name",
            "user.a b cannot be a user",
            "user.root has only password, keys and shell",
            "write one such as /bin/bash",
            "`openssl passwd -6` prints",
            "system.files: it is not there",
            "no variable `nothing` is set anywhere",
            "rename the file",
            "file.mode = \"8\" is no mode",
            "file.owner",
            "file.\"etc/x\" is no path",
            "`-x` is no unit",
            "two of enable, disable and mask",
            "begin it with a line such as #!/bin/sh",
            "it is not there",
        ],
    );
    assert!(!checked("[system.user.x]\npassword = 'secret'\n").problems[0].what.contains("secret"));
}

#[test]
fn what_does_not_fit_one_node_is_said_with_its_values() {
    let error = |text: &str| try_made(text).unwrap_err().to_string();
    assert!(
        error("[system.network]\naddress = '${rack}/24'\n")
            .contains("network.address is \"r3/24\" for this node")
    );
    assert!(error("[system.network]\naddress = '10.0.0.1/33'\n").contains("and no address with its prefix"));
    assert!(error("[system.network]\nmethod = 'static'\n").contains("has no network.address"));
    assert!(error("[system.network]\nsearch = 'a b'\n").contains("network.search is \"a b\""));
    assert!(error("[[system.network.interface]]\nmac = '${name}'\n").contains("hardware address"));
    assert!(error("[system]\nfiles = ['huge']\n").contains("belongs in the image"));
    assert!(error("[system.file.'/x']\ncontent = '${serial}'\n").contains("/x needs the variable `serial`"));
}

#[test]
fn what_is_shown_names_every_file_and_hides_no_program() {
    let made = made("[system]\nfiles = ['common']\nhooks = ['hook.sh']\n");
    let shown = format!("{made:#}");
    for words in [
        "write   /etc/motd, 0644, root's",
        "link    /etc/localtime -> ",
        "| echo $ESIR_NAME",
        "at most 300 s",
    ] {
        assert!(shown.contains(words), "{words} is not in\n{shown}");
    }
    assert!(!format!("{made}").contains("echo"));
}

proptest! {
    /// Whatever stands in a table: no panic, and no step whose paths could mean another place.
    #[test]
    fn no_text_of_a_table_gets_out_of_its_place(
        address in ".{0,20}", name in "[a-z'\";$`/.]{0,8}", path in "[a-z./~'\n]{0,12}", key in ".{0,30}"
    ) {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let text = format!(
            "[system]\nenable = [{0}]\n[system.network]\naddress = {1}\n[system.user.{0}]\nkeys = [{3}]\nsudo = true\n\
             [system.file.{2}]\ncontent = 'x'\n",
            quoted(&name), quoted(&address), quoted(&path), quoted(&key)
        );
        let Ok(file) = toml::from_str::<File>(&text) else { return Ok(()) };
        let Checked { settings, problems } = check(file.system, &BTreeSet::new(), &Shelf);
        if !problems.is_empty() { return Ok(()) }
        let mut systems = Systems::default();
        systems.add("default", settings);
        let Ok(made) = systems.steps(&node(&["default"])) else { return Ok(()) };
        for file in made.steps.iter().flat_map(|step| &step.files) {
            let inside = file.path.strip_prefix('~').unwrap_or(&file.path);
            prop_assert!(!inside.split('/').any(|part| part == ".."), "{}", file.path);
        }
        for program in made.steps.iter().filter_map(|step| step.program.as_ref()) {
            let script = String::from_utf8_lossy(&program.contents.0).into_owned();
            prop_assert_eq!(script.matches('\'').count() % 2, 0, "{}", script);
        }
    }
}
