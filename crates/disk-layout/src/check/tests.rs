use super::*;

/// The problems of a layout in TOML, each of which must contain what is expected of it.
fn check(layout: &str, expected: &[&str]) {
    let layout: Layout = toml::from_str(layout).unwrap_or_else(|error| panic!("{error}\n{layout}"));
    let found: Vec<String> = layout.problems().iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}\nshould contain {expected}");
    }
}

#[test]
fn default_is_right() {
    check("", &[]);
}

#[test]
fn all_problems_come_at_once() {
    check(
        "partition = [{ role = 'esp' }, { role = 'root', fs = 'vfat', mount = '/mnt' }, { size = 9, mount = 'x' }]",
        &[
            "partition 2: a partition of role `root` cannot have the file system `vfat`",
            "partition 2: partitions 1 and 2 both take the rest",
            "partition 2: mount = \"/mnt\": role `root` is mounted on /",
            "partition 3: mount = \"x\" must begin with /",
        ],
    );
}

#[test]
fn roles_are_counted() {
    check("partition = [{ role = 'esp' }]", &["0 partitions of role `root`"]);
    check(
        "partition = [{ role = 'root' }, { role = 'root', size = 9 }]",
        &["2 partitions of role `root`", "used twice"],
    );
    check(
        "partition = [{ role = 'root' }, { role = 'esp', size = 300 }, { role = 'esp', size = 300, mount = '/efi' }]",
        &["2 partitions of role `esp`"],
    );
}

#[test]
fn mount_points_are_plain_and_differ() {
    for mount in ["srv", "/srv/../etc", "/srv//x", "/a b", "/a\\nb", "/"] {
        let layout = format!("partition = [{{ role = 'root' }}, {{ size = 9, mount = \"{mount}\" }}]");
        let layout: Layout = toml::from_str(&layout).unwrap();
        let problems = layout.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].to_string().starts_with("partition 2: mount"), "{problems:?}");
    }
    check(
        "partition = [{ role = 'root' }, { size = 9, mount = '/s' }, { size = 9, mount = '/s' }]",
        &["partition 3: mount = \"/s\" is used twice"],
    );
}

#[test]
fn parts_must_fit_together() {
    let disks = "[disk]\ncount = 2\n";
    check(disks, &["partition 3: it is on several disks"]);
    check(
        "partition = [{ raid = 'md' }]\nraid = [{ name = 'md', role = 'root' }]",
        &["raid 1: an array needs a partition on each of two disks"],
    );
    check(
        &format!("partition = [{{ raid = 'md' }}]\nraid = [{{ name = 'root', role = 'root' }}]\n{disks}"),
        &["partition 1: raid = \"md\" is nowhere", "raid 1: an array needs"],
    );
    check(
        "partition = [{ role = 'root' }]\nvolume = [{ group = 'vg0', name = 'x' }]\nluks = [{ name = 'c' }]",
        &["luks 1: luks = \"c\" is on 0 parts", "volume 1: the group \"vg0\" has no disk space"],
    );
    check(
        "partition = [{ role = 'root' }, { size = 9, lvm = 'a', luks = 'b', role = 'swap' }]",
        &[
            "partition 2: it is a part of `lvm` already",
            "partition 2: `role` belongs to what lies on `lvm`",
            "partition 2: lvm = \"a\" is nowhere",
        ],
    );
}

#[test]
fn words_of_another_table_are_named() {
    check(
        "partition = [{ role = 'root', group = 'x', metadata = '1.0', unlock = 'keyfile' }]",
        &["`group` means nothing for a partition", "`metadata` means", "`unlock` means"],
    );
    check("partition = [{ role = 'root', disk = 'other' }]", &["no set of disks of this layout"]);
}

#[test]
fn names_become_devices() {
    check(
        "partition = [{ luks = 'A b' }]\nluks = [{ name = 'A b', role = 'root' }]",
        &[
            "luks 1: name = \"A b\" cannot be a device",
            "luks 1: the boot loader cannot read an encrypted root",
        ],
    );
    check(
        "partition = [{ role = 'root' }, { size = 9, keep = true }]",
        &["what is kept is found by its name"],
    );
}

#[test]
fn encrypted_root_needs_a_boot_partition_also_in_a_group() {
    let root =
        "luks = [{ name = 'c', lvm = 'vg0' }]\nvolume = [{ group = 'vg0', name = 'root', role = 'root' }]";
    check(&format!("partition = [{{ luks = 'c' }}]\n{root}"), &["volume 1: the boot loader cannot read"]);
    check(&format!("partition = [{{ luks = 'c' }}, {{ role = 'boot', size = 500 }}]\n{root}"), &[]);
}

#[test]
fn firmware_reads_halves_of_an_esp_only_with_the_superblock_at_the_end() {
    let layout = |metadata: &str| {
        format!(
            "partition = [{{ raid = 'esp', size = 300 }}, {{ raid = 'root' }}]\n\
             raid = [{{ name = 'esp', role = 'esp'{metadata} }}, {{ name = 'root', role = 'root' }}]\n[disk]\ncount = 2"
        )
    };
    check(&layout(""), &["raid 1: firmware reads each half"]);
    check(&layout(", metadata = '1.0'"), &[]);
}

#[test]
fn options_and_subvolumes_are_plain() {
    check(
        "partition = [{ role = 'root', options = 'a b' }, { size = 200, subvolumes = [{ name = '../x', mount = '/x' }] }]",
        &[
            "options cannot stand in fstab",
            "only btrfs has subvolumes",
            "subvolume \"../x\" needs another name",
        ],
    );
}
