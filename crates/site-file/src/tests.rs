use std::path::PathBuf;

use system_steps::SourceFile;

use super::*;

/// Nothing lies beside the site file.
struct Alone;

impl Source for Alone {
    fn folder(&self, path: &Path) -> Result<Vec<SourceFile>, String> {
        Err(format!("{} cannot be read", path.display()))
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        Err(format!("{} cannot be read", path.display()))
    }
}

fn overrides() -> Overrides {
    Overrides { interface: Some("eth1".into()), images: vec!["debian.esir".into()], ..Overrides::default() }
}

fn parsed(text: &str, base: Option<&Path>, overrides: &Overrides) -> Result<Site, SiteProblems> {
    parse_site(SiteText { file: "site.toml", text, base }, overrides, &Alone)
}

pub(super) fn site(text: &str) -> Site {
    parsed(text, None, &overrides()).unwrap()
}

/// The problems of a site file, each without the file's name.
pub(super) fn check(text: &str, expected: &[&str]) {
    let found = parsed(text, None, &overrides()).err().map_or(vec![], |problems| problems.0);
    let found: Vec<&str> = found.iter().map(|line| line.trim_start_matches("site.toml:")).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}\nshould contain {expected}");
    }
}

#[test]
fn swarm_is_opened_by_one_word_and_only_by_a_word() {
    assert!(site("[swarm]\nopen = true\n").swarm_open);
    check("[swarm]\nopen = 'yes'\n", &["2: invalid type"]);
    check("[swarm]\nopened = true\n", &["2: unknown field `opened`, expected `open`"]);
}

#[test]
fn nothing_given_names_both_things_that_are_needed() {
    let problems = parsed("", None, &Overrides::default()).unwrap_err().0;
    assert_eq!(problems.len(), 2);
    assert!(problems[0].contains("--interface") && problems[1].contains("--image"));
}

#[test]
fn problems_of_all_sections_come_at_once_with_their_lines() {
    check(
        "[server]\nmode = 'maybe'\nadmin = 'here'\n[dhcp]\npool = '10.0.0.9-10.0.0.1'\nlease_s = 1\n\
         [approve]\nmacs = ['x']\n[[node]]\nmac = '52:54:00:00:00:01'\nname = 'Bad_Name'\n[deploy]\nlinger_max_s = 999999\n",
        &[
            "5: dhcp.pool",
            "6: dhcp.lease_s = 1",
            "2: server.mode",
            "3: server.admin",
            "8: approve.macs",
            "13: deploy.linger_max_s",
            "11: node.name",
        ],
    );
}

#[test]
fn words_that_a_boot_script_cannot_carry_are_named_with_their_line() {
    check(
        "name = 'x'\n[boot]\narguments = 'console=ttyS0;reboot'\n[vars]\nx = 'a && b'\n[[node]]\n\
         mac = '52:54:00:00:00:01'\nname = 'n1'\nvars = { y = \"a'b\" }\n",
        &[
            "5: variable `x`: `&&`",
            "9: variable `y` has '\\''",
            "3: boot.arguments: ';' means something to a boot loader",
        ],
    );
    check(
        "[boot]\narguments = 'quiet -- single'\n",
        &["2: boot.arguments: the kernel reads nothing behind `--`"],
    );
    check(
        "[boot]\narguments = 'esir.server=10.0.0.1:1'\n",
        &["2: boot.arguments: `esir.server` is the server's own"],
    );
}

#[test]
fn words_of_the_command_line_take_the_place_of_the_file_s_and_both_are_checked() {
    let given = |words: &str| Overrides { boot_arguments: Some(words.into()), ..overrides() };
    let site = parsed("[boot]\narguments = 'quiet'\n", None, &given("norandmaps")).unwrap();
    assert_eq!(site.boot_arguments, "norandmaps");
    assert_eq!(parsed("[boot]\narguments = 'quiet'\n", None, &overrides()).unwrap().boot_arguments, "quiet");
    let problems = parsed("[boot]\narguments = 'a;b'\n", None, &given("c;d")).unwrap_err().0;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("--boot-arguments: ")), "{problems:?}");
}

#[test]
fn what_a_terminal_would_obey_is_not_said_to_it() {
    check(
        "[[node]]\nmac = '52:54:00:00:00:01'\nname = \"\\u001b[2J\\n\"\n",
        &["3: node.name = \" [2J \" cannot"],
    );
}

#[test]
fn unknown_words_and_wrong_types_are_found_in_each_section() {
    check("[server]\nport = 1\n", &["2: unknown field `port`"]);
    check("[sever]\nport = 1\n", &["1: there is no section `sever`"]);
    check("[dhcp]\nlease_s = 'x'\n[image]\nfiles = 7\n", &["2: invalid type", "4: invalid type"]);
    check("[server\nmode = 'on'\n", &["1: "]);
}

#[test]
fn layout_that_fits_no_disk_is_refused_before_any_node_sees_it() {
    check("[[layout.partition]]\nrole = 'swap'\nsize_mib = 100\n", &["role `root`"]);
    check("[layout.disk]\npick = 'largest'\n", &[]);
    check(
        "[[layout.partition]]\nrole = 'root'\nfs = 'vfat'\n[[layout.partition]]\nsize = '1GiB'\nkeep = true\n",
        &["partition 1: a partition of role `root` cannot", "partition 2: what is kept is found by its name"],
    );
}

#[test]
fn layouts_of_several_disks_with_kept_partitions_and_subvolumes_are_taken() {
    check(
        "[[layout.disk]]\nname = 'system'\ntransport = 'nvme'\n[[layout.disk]]\nname = 'bulk'\npick = 'largest'\n\
         [[layout.partition]]\nrole = 'esp'\nsize = '512MiB'\n\
         [[layout.partition]]\nrole = 'root'\nfs = 'btrfs'\nsubvolumes = [{ name = '@', mount = '/' }]\n\
         [[layout.partition]]\ndisk = 'bulk'\nname = 'data'\nmount = '/data'\nkeep = true\n",
        &[],
    );
}

#[test]
fn arrays_and_volumes_are_taken() {
    let two = "[layout.disk]\ncount = 2\n[[layout.partition]]\nraid = 'system'\n\
               [[layout.raid]]\nname = 'system'\nlvm = 'vg0'\n\
               [[layout.volume]]\ngroup = 'vg0'\nname = 'root'\nrole = 'root'\n";
    check(two, &[]);
    let one = two.replace("count = 2", "count = 1");
    check(&one, &["raid 1: an array needs a partition on each of two disks or more"]);
}

#[test]
fn an_encrypted_root_needs_a_place_to_start_from() {
    let locked = "[[layout.partition]]\nrole = 'boot'\nsize = '1GiB'\n[[layout.partition]]\nluks = 'crypt'\n\
                  [[layout.luks]]\nname = 'crypt'\nrole = 'root'\n";
    check(locked, &[]);
    let without = locked.replace("role = 'boot'", "mount = '/srv'");
    check(&without, &["the boot loader cannot read an encrypted root"]);
}

#[test]
fn same_name_or_address_for_two_nodes_is_refused() {
    check(
        "[[node]]\nmac = '52:54:00:00:00:01'\nname = 'a'\n[[node]]\nmac = '52-54-00-00-00-01'\nname = 'a'\n",
        &["6: node.name", "5: node.mac"],
    );
}

#[test]
fn paths_in_the_file_are_relative_to_it_and_the_command_line_wins() {
    let text = "[image]\nfiles = ['a.esir']\ntrust = ['k.pub']\n[server]\ninterface = 'eth0'\n";
    let base = Some(Path::new("/srv/site"));
    let site = parsed(text, base, &Overrides::default()).unwrap();
    assert_eq!(site.images, [PathBuf::from("/srv/site/a.esir")]);
    assert_eq!(site.trust, [PathBuf::from("/srv/site/k.pub")]);
    let site = parsed(text, base, &overrides()).unwrap();
    assert_eq!(site.images, [PathBuf::from("debian.esir")]);
    assert_eq!(site.interface.as_deref(), Some("eth1"));
}

#[test]
fn off_needs_no_interface() {
    let overrides = Overrides { interface: None, ..overrides() };
    let site = parsed("[server]\nmode = 'off'\n", None, &overrides).unwrap();
    assert_eq!(site.interface, None);
}

#[test]
fn mistakes_in_menus_have_their_line() {
    check(
        "[entry.a]\nlocal = 'exit3'\n[[node]]\nmac = '52:54:00:00:00:01'\nname = 'n1'\ngroup = 'none'\nboot = 'b'\n",
        &["2: local = \"exit3\"", "6: node.group", "7: node.boot"],
    );
}

#[test]
fn mistakes_in_tables_of_systems_have_their_line() {
    check(
        "[system]\nfiles = ['/nowhere/at/all']\n[group.a.system]\ndomain = 'a b'\nwhat = 1\n\
         [group.b.system]\nhooks = ['/nowhere.sh']\n\
         [[node]]\nmac = '52:54:00:00:00:01'\nname = 'n1'\n[node.system.user.x]\npassword = 'secret'\n",
        &[
            "5: unknown field `what`",
            "2: system.files: /nowhere/at/all cannot be read",
            "7: /nowhere.sh cannot be read",
            "12: user.password is no hash",
        ],
    );
}
