//! Goldens of each kind of item, precedence, and properties: nothing breaks out of its place in a script.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use proptest::prelude::*;
use toml::de::DeTable;

use crate::*;

mod oracle;

/// Set to anything, tests write what they see instead of comparing; then look at the difference with git.
const REFRESH: &str = "ESIR_REFRESH_GOLDENS";

const SITE: &str = r#"
[vars]
mirror = "http://10.77.0.1/mirror"
[user.admin]
digest = "0123456789abcdef0123456789abcdef"
grub = "grub.pbkdf2.sha512.10000.AB.CD"
[user.guest]
digest = "0123456789abcdef0123456789abcdef"
[entry.deploy]
title = "Deploy ${image}"
key = "d"
deploy = true
[entry.inventory]
title = "Report the hardware only"
inventory = true
[entry.local]
title = "Local disk"
key = "l"
local = "auto"
[entry.rescue]
title = "Rescue ${name}"
users = ["admin"]
kernel = "debian/linux"
initrd = ["debian/initrd.gz", "${mirror}/more.img"]
args = "rescue/enable=true console=ttyS0 node=${mac} sn=${serial}"
[entry.guest]
users = ["guest"]
inventory = true
[entry.memtest]
title = "Test the memory"
memtest = true
[entry.firmware-update]
program = { bios = "fw.bin", uefi = "fw.efi", secureboot = "fw-signed.efi" }
[entry.netboot-xyz]
chain = "http://boot.netboot.xyz/menu.ipxe"
[entry.other-grub]
firmware = ["secureboot"]
chain = "tftp://10.0.0.9/grub.cfg"
[entry.shell]
title = "iPXE shell"
shell = true
[menu.main]
title = "Cluster (${name})"
timeout = 10
default = "local"
items = ["deploy", "inventory", "-- Tools", ">tools", "rescue", "local"]
[menu.tools]
items = ["memtest", "firmware-update", "netboot-xyz", "other-grub", "guest", "shell", ">main"]
[default]
menu = "main"
vars = { image = "debian-12" }
[group.once]
match = { hosts = "n[001-004]" }
once = "memtest"
then = "deploy"
[group.storage]
match = { mac = "52:54:00:00:*", subnet = "10.9.0.0/16" }
local = "exit0"
vars = { image = "storage" }
boot = "local"
[group.old]
match = { serial = ["SN-4*"], uuid = "01234567-89AB-cdef-0123-456789abcdef", relay = ["10.3.0.254"] }
boot = "inventory"
"#;

fn sections(text: &str) -> Sections {
    let (document, errors) = DeTable::parse_recoverable(text);
    assert!(errors.is_empty(), "{errors:?}");
    let mut sections = Sections::default();
    for (key, value) in document.into_inner() {
        let name = key.get_ref().to_string();
        assert!(sections.take(&name, value).is_none(), "{name}");
    }
    sections
}

fn menus(text: &str, nodes: Vec<NodeRule>) -> Menus {
    let (menus, problems) = check(sections(text), nodes);
    assert_eq!(problems, []);
    menus
}

fn server() -> Server {
    let query = "mac=${mac:hexhyp}&uuid=${uuid}&platform=${platform}&serial=${serial:uristring}";
    Server {
        http: SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 80),
        script_url: format!("http://10.77.0.1/boot.ipxe?{query}"),
    }
}

fn facts(mac: &str, firmware: Firmware) -> Facts {
    Facts {
        mac: mac.parse().unwrap(),
        name: "node-1".into(),
        serial: None,
        uuid: None,
        address: Some(Ipv4Addr::new(10, 77, 0, 9)),
        relay: None,
        firmware,
    }
}

fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/goldens").join(name);
    if std::env::var_os(REFRESH).is_some() {
        return std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs; {REFRESH}=1 writes it anew", path.display());
}

#[test]
fn menu_with_every_kind_of_item_for_every_firmware() {
    let menus = menus(SITE, vec![]);
    for firmware in Firmware::ALL {
        let facts = facts("52:54:00:aa:bb:01", firmware);
        let plan = menus.resolve(&facts, &server(), |_| false).unwrap();
        let (script, config) =
            (ipxe::script(&plan, &server(), false), grub::config(&plan, &server(), facts.mac));
        oracle::judge_ipxe(&script).unwrap();
        oracle::judge_grub(&config).unwrap();
        golden(&format!("menu-{}.ipxe", firmware.word()), &script);
        golden(&format!("menu-{}.cfg", firmware.word()), &config);
        golden(&format!("menu-{}.txt", firmware.word()), &preview::draw(&plan));
    }
}

#[test]
fn each_entry_alone_once_it_was_chosen() {
    let menus = menus(SITE, vec![]);
    for firmware in Firmware::ALL {
        let facts = facts("52:54:00:aa:bb:01", firmware);
        let (mut scripts, mut configs) = (String::new(), String::new());
        for entry in menus.entries.keys() {
            let plan = menus.resolve_entry(&facts, &server(), entry).unwrap();
            for authorised in [false, true] {
                let script = ipxe::script(&plan, &server(), authorised);
                oracle::judge_ipxe(&script).unwrap();
                if authorised {
                    scripts += &script;
                }
            }
            let config = grub::config(&plan, &server(), facts.mac);
            oracle::judge_grub(&config).unwrap();
            configs += &format!("# --- {entry}\n{config}");
        }
        golden(&format!("entries-{}.ipxe", firmware.word()), &scripts);
        golden(&format!("entries-{}.cfg", firmware.word()), &configs);
    }
}

#[test]
fn protected_entry_is_not_in_the_script_before_the_password() {
    let menus = menus(SITE, vec![]);
    let plan = menus.resolve_entry(&facts("52:54:00:aa:bb:01", Firmware::Uefi), &server(), "rescue").unwrap();
    let script = ipxe::script(&plan, &server(), false);
    assert!(script.contains("login || goto failed") && !script.contains("debian/linux"), "{script}");
    assert!(
        script.contains("http://${username:uristring}:${password:uristring}@10.77.0.1/boot.ipxe?"),
        "{script}"
    );
    assert!(ipxe::script(&plan, &server(), true).contains("debian/linux"));
}

fn start(menus: &Menus, facts: &Facts) -> String {
    match menus.resolve(facts, &server(), |_| false).unwrap().start {
        Start::Entry(name) => name,
        Start::Menu(name) => format!(">{name}"),
    }
}

fn node(mac: &str, name: &str, group: Option<&str>, boot: Option<&str>) -> NodeRule {
    let spanned = |text: &str| toml::Spanned::new(0..0, text.to_owned());
    let choice = RawChoice { boot: boot.map(spanned), ..RawChoice::default() };
    NodeRule { mac: mac.parse().unwrap(), name: name.into(), group: group.map(spanned), choice }
}

#[test]
fn address_goes_before_serial_before_uuid_before_group_before_default() {
    let text = r#"
[entry.a]
local = "auto"
[entry.b]
local = "auto"
[entry.c]
local = "auto"
[entry.d]
local = "auto"
[entry.e]
local = "auto"
[entry.f]
local = "auto"
[default]
boot = "a"
[group.net]
match = { subnet = "10.77.0.0/24" }
boot = "b"
[group.uuid]
match = { uuid = "01234567-89ab-cdef-0123-456789abcdef" }
boot = "c"
[group.serial]
match = { serial = "SN-4*" }
boot = "d"
[group.mac]
match = { mac = ["52:54:*"] }
boot = "e"
[group.mac-longer]
match = { mac = ["52:54:00:aa:*"] }
boot = "f"
"#;
    let menus = menus(
        text,
        vec![
            node("52:54:00:aa:00:01", "n1", None, Some("a")),
            node("52:00:00:00:00:02", "n2", Some("uuid"), None),
        ],
    );
    let mut node = Facts { address: None, ..facts("02:00:00:00:00:01", Firmware::Bios) };
    assert_eq!(start(&menus, &node), "a");
    node.address = Some(Ipv4Addr::new(10, 77, 0, 200));
    assert_eq!(start(&menus, &node), "b");
    node.uuid = Some("01234567-89AB-CDEF-0123-456789abcdef".into());
    assert_eq!(start(&menus, &node), "c");
    node.serial = Some("SN-4711".into());
    assert_eq!(start(&menus, &node), "d");
    node.mac = "52:54:01:00:00:01".parse().unwrap();
    assert_eq!(start(&menus, &node), "e");
    node.mac = "52:54:00:aa:00:02".parse().unwrap();
    assert_eq!(start(&menus, &node), "f");
    node.mac = "52:54:00:aa:00:01".parse().unwrap();
    assert_eq!(start(&menus, &node), "a", "the node itself");
    let named = Facts { address: None, ..facts("52:00:00:00:00:02", Firmware::Bios) };
    assert_eq!(start(&menus, &named), "c", "a group that the node names");
}

#[test]
fn once_is_followed_by_then_and_variables_come_one_by_one() {
    let menus = menus(SITE, vec![]);
    let mut node = facts("02:00:00:00:00:01", Firmware::Bios);
    node.name = "n003".into();
    let first = menus.resolve(&node, &server(), |_| false).unwrap();
    assert_eq!(
        (first.start, first.once.as_deref()),
        (Start::Entry("memtest".into()), Some("group.once:memtest"))
    );
    let second = menus.resolve(&node, &server(), |id| id == "group.once:memtest").unwrap();
    assert_eq!((second.start.clone(), second.once.clone()), (Start::Entry("deploy".into()), None));
    assert_eq!(second.values["image"], "debian-12");
    node.mac = "52:54:00:00:00:01".parse().unwrap();
    let storage = menus.resolve(&node, &server(), |_| false).unwrap();
    assert_eq!((storage.values["image"].as_str(), storage.local), ("storage", Local::Exit0));
    assert_eq!(storage.values["mirror"], "http://10.77.0.1/mirror");
}

#[test]
fn site_without_menus_leaves_everything_to_the_server() {
    let menus = menus("[vars]\na = 'b'\n[group.x]\nmatch = { mac = '52:*' }\n", vec![]);
    assert!(menus.is_empty());
    assert_eq!(menus.resolve(&facts("52:54:00:00:00:01", Firmware::Bios), &server(), |_| false), None);
}

/// The problems of a text, each of which must be there, and no other.
fn problems(text: &str, expected: &[&str]) {
    let (_, found) = check(sections(text), vec![]);
    let found: Vec<String> = found.into_iter().map(|problem| problem.what).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for expected in expected {
        assert!(found.iter().any(|found| found.contains(expected)), "{expected}\nis not among {found:#?}");
    }
}

#[test]
fn every_mistake_is_named_with_what_to_write() {
    problems(
        "[vars]\nmac = 'x'\na = 'b$c'\n[entry.x]\ntitle = 'a $(reboot)'\n[entry.y]\nkernel = 'a b'\nargs = '${nope}'\n",
        &[
            "variable `mac` cannot be named so",
            "'$', which a boot script cannot carry",
            "entry.title: '$'",
            "exactly one of deploy",
            "neither a file nor a URL",
            "nobody sets the variable `nope`",
        ],
    );
    problems(
        "[vars]\na = 'b && c'\n[group.g]\nvars = { b = 'x\ty', c = 'd#e' }\n[entry.k]\nkernel = 'k'\nargs = 'a && b'\n\
         [entry.l]\nkernel = 'k'\nargs = 'a || b'\n[entry.m]\ntitle = 'M'\nkernel = 'k'\nargs = \"a 'b'\"\n",
        &[
            "variable `a`: `&&` cannot stand alone",
            "variable `b` has '\\t'",
            "variable `c` has '#'",
            "entry.args: `&&` cannot stand alone",
            "entry.args: '|' cannot be carried",
            "entry.args: '\\'' cannot be carried",
        ],
    );
    problems(
        "[menu.m]\ntimeout = 0\ndefault = 'l'\nitems = ['m', 'nothing']\n[entry.l]\nlocal = 'exit2'\nkey = 'F1'\n",
        &[
            "write \">m\" for the menu",
            "no section [entry.nothing]",
            "must have 1 to 100 items",
            "is not among the items",
            "menu.timeout = 0",
            "write auto, exit1, exit0, sanboot or ignore",
            "is no key",
        ],
    );
    problems(
        "[entry.l]\nlocal = 'auto'\nunknown = 1\n[entry.k]\nlocal = 'auto'\nusers = ['who']\n[menu.m]\nitems = ['k']\n\
         [default]\nmenu = 'm'\nboot = 'k'\nthen = 'k'\n[group.g]\nmatch = { mac = 'xyz', hosts = 'n[5-1]' }\n",
        &[
            "unknown field `unknown`",
            "there is no [user.who]",
            "has both menu and boot",
            "has no `once` before it",
            "default.boot names `k`, which asks for a password",
            "default.then names `k`, which asks for a password",
            "group.g.match.mac",
            "write names such as n[001-512]",
        ],
    );
    problems(
        "[entry.a]\nlocal = 'auto'\nkey = 'x'\n[entry.b]\nlocal = 'auto'\nkey = 'x'\n[menu.m]\nitems = ['a', 'b']\n",
        &["have the same key `x`"],
    );
    problems(
        "entry = 3\n[menu]\nmain = 4\n[default]\nmenus = 'x'\n",
        &["write [entry.NAME]", "invalid type", "unknown field `menus`"],
    );
}

#[test]
fn grub_s_file_names_are_read_and_nothing_else_is() {
    let mac = "52:54:00:aa:bb:cc".parse().unwrap();
    assert_eq!(grub::Name::parse("grub/grub.cfg"), Some(grub::Name::Root));
    assert_eq!(grub::Name::parse("grub/grub.cfg-01-52-54-00-aa-bb-cc"), Some(grub::Name::Node(mac)));
    assert_eq!(grub::Name::parse("grub/by-mac/52:54:00:aa:bb:cc"), Some(grub::Name::Node(mac)));
    assert_eq!(
        grub::Name::parse("grub/menu/52:54:00:aa:bb:cc/tools"),
        Some(grub::Name::Menu(mac, "tools".into()))
    );
    assert_eq!(grub::Name::parse("grub/item/52:54:00:aa:bb:cc/x"), Some(grub::Name::Item(mac, "x".into())));
    for other in [
        "grub",
        "grub/x86_64-efi/command.lst",
        "grub/grub.cfg-01-xx",
        "grub/by-mac/ff:ff:ff:ff:ff:ff",
        "grub/menu/x",
    ] {
        assert_eq!(grub::Name::parse(other), None, "{other}");
    }
}

/// Any text that TOML can hold in quotes, the dangerous ones more often.
fn any_text() -> impl Strategy<Value = String> {
    let dangerous = prop::sample::select(vec![
        "||",
        "&&",
        " && ",
        "#",
        " # ",
        "${x}",
        "${net0/mac}",
        "$",
        "'",
        "\"",
        "\\",
        "\n",
        "\r",
        "}",
        "{",
        ";",
        "`",
        "--",
        "-- ",
        "\t",
        "\u{0}",
        "é",
        "&",
        "http://",
        "..",
        "/",
        "${mac}",
        "${serial}",
        "${v}",
        "a",
        " ",
        "%24",
        "exit",
    ]);
    prop::collection::vec(prop_oneof![dangerous.prop_map(str::to_owned), "[ -~]{0,6}"], 0..6)
        .prop_map(|parts| parts.concat())
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Renders everything that the text gives, and judges it.
fn render_all(menus: &Menus, node: &Facts) {
    for firmware in Firmware::ALL {
        let facts = Facts { firmware, ..node.clone() };
        let starts = menus.entries.keys().filter_map(|name| menus.resolve_entry(&facts, &server(), name));
        let starts =
            starts.chain(menus.menus.keys().filter_map(|name| menus.resolve_menu(&facts, &server(), name)));
        for plan in starts.chain(menus.resolve(&facts, &server(), |_| false)) {
            for authorised in [false, true] {
                oracle::judge_ipxe(&ipxe::script(&plan, &server(), authorised)).unwrap();
            }
            oracle::judge_grub(&grub::config(&plan, &server(), facts.mac)).unwrap();
            oracle::judge_pxelinux(&pxelinux::config(&plan, facts.mac)).unwrap();
            let _ = preview::draw(&plan);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a site writes: it is refused, or stays where it belongs. What was refused does not break out either.
    #[test]
    fn no_text_of_the_site_breaks_out(title in any_text(), args in any_text(), value in any_text(), file in any_text(), user in any_text()) {
        let text = format!(
            "[vars]\nv = {}\n[user.u]\ndigest = {}\n[entry.k]\ntitle = {}\nkernel = {}\nargs = {}\n[entry.l]\ntitle = {}\n\
             local = 'auto'\n[entry.c]\nchain = {}\nusers = ['u']\n[menu.m]\ntitle = {}\nitems = ['k', {}, 'l', 'c']\n[default]\nmenu = 'm'\n",
            toml_string(&value), toml_string(&user), toml_string(&title), toml_string(&file), toml_string(&args),
            toml_string(&args), toml_string(&format!("http://h/{file}")), toml_string(&value), toml_string(&format!("--{title}")),
        );
        let (menus, _) = check(sections(&text), vec![]);
        render_all(&menus, &facts("52:54:00:00:00:01", Firmware::Bios));
    }

    /// Whatever a node says of itself.
    #[test]
    fn no_text_of_a_node_breaks_out(serial in any_text(), uuid in any_text(), name in any_text()) {
        let text = "[entry.k]\ntitle = '${serial} ${uuid} ${name}'\nkernel = 'http://h/${serial}/${uuid}'\nargs = '${serial} a=${uuid} ${name}'\n\
                    [entry.f]\nkernel = 'd/${serial}'\n[menu.m]\ntitle = '${name}'\nitems = ['k', 'f', '-- ${serial}']\n[default]\nmenu = 'm'\n";
        let node = Facts { serial: Some(serial), uuid: Some(uuid), name, ..facts("52:54:00:00:00:01", Firmware::Bios) };
        render_all(&menus(text, vec![]), &node);
    }

    /// The check says something or nothing, and never panics.
    #[test]
    fn any_toml_is_checked(text in "[\\[\\]a-z.= '\"{}\n>-]{0,200}") {
        let (document, _) = DeTable::parse_recoverable(&text);
        let mut sections = Sections::default();
        for (key, value) in document.into_inner() {
            let name = key.get_ref().to_string();
            let _ = sections.take(&name, value);
        }
        let (menus, _) = check(sections, vec![]);
        render_all(&menus, &facts("52:54:00:00:00:01", Firmware::Bios));
    }
}

#[test]
fn words_of_the_agent_s_command_line_are_only_words() {
    for good in ["", "console=ttyS1,115200", "a.b=c:d/e+f@g%h i_j-k", "  two   blanks "] {
        assert_eq!(crate::kernel_words_problem(good), None, "{good}");
    }
    for (bad, why) in [
        ("a || shell", "'|'"),
        ("a && b", "'&'"),
        ("${net0/mac}", "'$'"),
        ("a # b", "'#'"),
        ("a;b", "';'"),
        ("a=\"b c\"", "'\"'"),
        ("a\\b", "'\\\\'"),
        ("it's", "'\\''"),
        ("a\nb", "'\\n'"),
        ("\u{e4}", "'\u{e4}'"),
        ("a -- b", "behind `--`"),
        ("x initrd=other.img", "`initrd` is the server's own word"),
        ("esir.token=mine", "`esir.token` is the server's own word"),
        ("BOOTIF=01", "`BOOTIF` is the server's own word"),
        (&"x".repeat(1025), "longer than 1024 bytes"),
    ] {
        let problem = crate::kernel_words_problem(bad).unwrap_or_default();
        assert!(problem.contains(why), "{bad}: {problem}");
    }
}

#[test]
fn own_disk_is_known_before_a_node_is_answered() {
    let menus = menus(
        "[entry.disk]\nlocal = 'auto'\n[entry.never]\nlocal = 'ignore'\n[entry.deploy]\ndeploy = true\n\
         [entry.hw]\ninventory = true\n[entry.old]\nlocal = 'auto'\nfirmware = ['bios']\n[menu.m]\nitems = ['disk']\n\
         [default]\nlocal = 'ignore'\n[group.a]\nmatch = { mac = '52:54:00:00:00:0a' }\nboot = 'deploy'\nlocal = 'exit0'\n\
         [group.b]\nmatch = { mac = '52:54:00:00:00:0b' }\nboot = 'disk'\n\
         [group.c]\nmatch = { mac = '52:54:00:00:00:0c' }\nmenu = 'm'\n\
         [group.d]\nmatch = { mac = '52:54:00:00:00:0d' }\nonce = 'hw'\nthen = 'never'\nlocal = 'exit1'\n\
         [group.e]\nmatch = { mac = '52:54:00:00:00:0e' }\nboot = 'old'\n",
        vec![],
    );
    assert!(!menus.is_silent() && Menus::default().is_silent());
    let disk = |mac: &str, owes_nothing, had: bool| {
        let facts = facts(&format!("52:54:00:00:00:{mac}"), Firmware::Uefi);
        menus.own_disk(&facts, owes_nothing, |_| had)
    };
    assert_eq!(disk("01", true, false), Some(Local::Ignore), "no rule but the way to the disk");
    assert_eq!(disk("01", false, false), None, "a deployment is owed to it");
    assert_eq!((disk("0a", true, false), disk("0a", false, false)), (Some(Local::Exit0), None));
    assert_eq!(disk("0b", false, false), Some(Local::Ignore), "whatever is owed to it");
    assert_eq!(disk("0c", true, false), None, "somebody may choose");
    assert_eq!((disk("0d", true, false), disk("0d", false, true)), (None, Some(Local::Ignore)));
    assert_eq!(disk("0e", true, false), None, "its firmware is not known yet");
}

#[test]
fn pxelinux_gets_what_it_can_do_and_a_word_about_the_rest() {
    let menus = menus(SITE, vec![]);
    let facts = facts("52:54:00:aa:bb:01", Firmware::Bios);
    let plan = menus.resolve(&facts, &server(), |_| false).unwrap();
    let config = pxelinux::config(&plan, facts.mac);
    oracle::judge_pxelinux(&config).unwrap();
    golden("menu-pxelinux.cfg", &config);
    let mut alone = String::new();
    for entry in menus.entries.keys() {
        let plan = menus.resolve_entry(&facts, &server(), entry).unwrap();
        let config = pxelinux::config(&plan, facts.mac);
        oracle::judge_pxelinux(&config).unwrap();
        alone += &format!("# --- {entry}\n{config}");
    }
    let words = ["initrd=initrd.img", "esir.token=t", "quiet"].map(str::to_owned);
    alone += &format!("# --- the agent\n{}", pxelinux::agent("b1", &words).unwrap());
    golden("entries-pxelinux.cfg", &alone);
    for text in
        [pxelinux::message("a\nLABEL x"), pxelinux::local(Local::Exit1), pxelinux::local(Local::Ignore)]
    {
        oracle::judge_pxelinux(&text).unwrap();
    }
    assert_eq!(pxelinux::agent("b 1", &words), None);
    assert_eq!(pxelinux::agent("b1", &["a\nb".to_owned()]), None);
}

#[test]
fn pxelinux_s_file_names_are_read_and_nothing_else_is() {
    use pxelinux::Name;
    let mac: dhcp_wire::MacAddr = "52:54:00:aa:bb:cc".parse().unwrap();
    assert_eq!(Name::parse("pxelinux.cfg/01-52-54-00-aa-bb-cc"), Some(Name::Node(mac)));
    assert_eq!(Name::parse("pxelinux/menu/52:54:00:aa:bb:cc/tools"), Some(Name::Menu(mac, "tools".into())));
    assert_eq!(Name::parse("pxelinux/item/52:54:00:aa:bb:cc/deploy"), Some(Name::Item(mac, "deploy".into())));
    for other in [
        "pxelinux.cfg/default",
        "pxelinux.cfg/0A4D0001",
        "pxelinux.cfg/01-ff-ff-ff-ff-ff-ff",
        "pxelinux.cfg/20-52-54-00-aa-bb-cc",
        "pxelinux.cfg/564d0000-0000-0000-0000-000000000000",
        "pxelinux/other/52:54:00:aa:bb:cc/x",
        "pxelinux/item/x",
        "pxelinux.0",
    ] {
        assert_eq!(Name::parse(other), None, "{other}");
    }
}

#[test]
fn grub_loads_over_http_where_it_can_and_starts_no_kernel_without_its_initrd() {
    let words = ["console=ttyS0".to_owned()];
    let agent = grub::agent("b1", &words, &server()).unwrap();
    oracle::judge_grub(&agent).unwrap();
    golden("agent-grub.cfg", &agent);
    let elsewhere = Server { http: "10.77.0.1:8080".parse().unwrap(), ..server() };
    let by_tftp = grub::agent("b1", &words, &elsewhere).unwrap();
    assert!(!by_tftp.contains("http") && agent.ends_with(by_tftp.split_once('\n').unwrap().1), "{by_tftp}");
    assert_eq!(grub::agent("b1", &["it's".to_owned()], &server()), None);
}
