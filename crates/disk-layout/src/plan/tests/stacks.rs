//! Arrays, containers, groups, subvolumes, and what is kept.

use super::*;
use crate::{FoundPartition, choose};

fn named(name: &str, size_bytes: u64) -> Disk {
    Disk { name: name.into(), path: name.into(), ..disk(size_bytes, 512) }
}

fn plan_on(layout: &str, disks: &[Disk]) -> Plan {
    let layout = parse(layout);
    let chosen = choose(&layout, disks).unwrap_or_else(|error| panic!("{error}"));
    Plan::on(&layout, &chosen, &SEEDS).unwrap_or_else(|error| panic!("{error}"))
}

/// What a disk holds after this plan was carried out.
fn after(plan: &Plan, before: &Disk) -> Disk {
    let done = plan.disks().iter().find(|disk| disk.name == before.name).unwrap();
    let found = |one: &PlannedPartition| FoundPartition {
        name: one.name.clone(),
        guid: one.guid,
        first_lba: one.first_lba,
        last_lba: one.last_lba,
        signatures: plan
            .file_systems()
            .iter()
            .filter(|fs| fs.device == one.device)
            .map(|fs| fs.fs.word().to_owned())
            .collect(),
    };
    Disk {
        signatures: vec!["esir".into(), "gpt".into()],
        partitions: done.partitions.iter().map(found).collect(),
        ..before.clone()
    }
}

const RAID: &str = "
    [disk]
    count = 2
    [[partition]]
    role = 'bios-boot'
    size = '1MiB'
    [[partition]]
    role = 'esp'
    size = '300MiB'
    [[partition]]
    raid = 'boot'
    size = '1GiB'
    [[partition]]
    raid = 'system'
    [[raid]]
    name = 'boot'
    role = 'boot'
    [[raid]]
    name = 'system'
    lvm = 'vg0'
    [[volume]]
    group = 'vg0'
    name = 'root'
    role = 'root'
    fs = 'xfs'
    [[volume]]
    group = 'vg0'
    name = 'swap'
    role = 'swap'
    size = '1GiB'
";

#[test]
fn two_disks_become_arrays_with_volumes_and_either_boots() {
    let plan = plan_on(RAID, &[named("sdb", 8 << 30), named("sda", 8 << 30)]);
    assert_eq!(plan.disks().iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["sda", "sdb"]);
    assert_eq!(plan.bios_disks().collect::<Vec<_>>(), ["sda", "sdb"]);
    let lines: Vec<String> = plan.layers().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "/dev/md0: RAID1 `boot`, metadata 1.2, of sda3 sdb3",
            "/dev/md1: RAID1 `system`, metadata 1.2, of sda4 sdb4",
            "vg0: LVM group of md1",
            // What takes the rest comes after what has a size.
            "/dev/mapper/vg0-swap: volume, 1.0 GiB",
            "/dev/mapper/vg0-root: volume, the rest",
        ]
    );
    let esp = plan.file_system(PartitionRole::Esp).unwrap();
    assert_eq!((esp.device.as_str(), esp.copies.as_slice()), ("sda2", ["sdb2".to_owned()].as_slice()));
    let guids: std::collections::BTreeSet<_> = plan.partitions().map(|one| one.guid).collect();
    assert_eq!(guids.len(), 8, "each partition has a GUID of its own");
    let (boot, path) = plan.place_of("/boot/grub").unwrap();
    assert_eq!((boot.device.as_str(), path.as_str()), ("md0", "/grub"));
    assert!(
        plan.mdadm_arrays().starts_with("ARRAY /dev/md/boot metadata=1.2 UUID="),
        "{}",
        plan.mdadm_arrays()
    );
    let text = plan.to_string();
    assert!(text.contains("member of md1") && text.contains("copy of sda2"), "{text}");
}

#[test]
fn encrypted_group_is_opened_before_there_is_a_root() {
    let plan = plan_on(
        "partition = [{ role = 'esp', size = 300 }, { role = 'boot', size = 500 }, { luks = 'crypt' }]
         luks = [{ name = 'crypt', lvm = 'vg0', unlock = 'keyfile' }]
         volume = [{ group = 'vg0', name = 'root', role = 'root' }]",
        &[named("sda", 8 << 30)],
    );
    let crypttab: String = plan.crypttab().map(|entry| entry.line("/key")).collect();
    assert!(crypttab.starts_with("crypt UUID="), "{crypttab}");
    assert!(
        crypttab.ends_with(" /key luks,discard,initramfs\n") && crypttab.lines().count() == 1,
        "{crypttab}"
    );
    assert_eq!(plan.file_system(PartitionRole::Root).unwrap().device, "mapper/vg0-root");
}

#[test]
fn subvolumes_are_mounted_one_by_one_and_found_by_the_boot_loader() {
    let plan = plan_on(
        "[[partition]]
         role = 'root'
         fs = 'btrfs'
         options = 'compress=zstd'
         subvolumes = [{ name = '@', mount = '/' }, { name = '@home', mount = '/home' }]",
        &[named("vda", 8 << 30)],
    );
    let root = plan.file_system(PartitionRole::Root).unwrap();
    assert_eq!(root.mount, None, "the whole is mounted nowhere");
    let id = root.id;
    assert_eq!(
        plan.fstab(),
        format!(
            "UUID={id} / btrfs subvol=@,compress=zstd 0 0\nUUID={id} /home btrfs subvol=@home,compress=zstd 0 0\n"
        )
    );
    assert_eq!(plan.place_of("/boot/grub").unwrap().1, "/@/boot/grub");
}

const KEEPS: &str = "partition = [
    { role = 'bios-boot', size = 1 }, { role = 'esp', size = 300 }, { role = 'root', size = '2GiB' },
    { name = 'data', keep = true, mount = '/data' },
]";

#[test]
fn what_is_kept_stays_where_it_is_under_the_same_guid() {
    let blank = named("sda", 8 << 30);
    let first = plan_on(KEEPS, std::slice::from_ref(&blank));
    let data = first.partitions().last().unwrap();
    assert_eq!((data.name.as_str(), data.kept), ("esir-keep-data", false));
    assert!(first.fstab().contains(&format!("PARTUUID={} /data ext4", data.guid)), "{}", first.fstab());

    let layout = parse(KEEPS);
    let chosen = choose(&layout, &[after(&first, &blank)]).unwrap();
    let again = Plan::on(&layout, &chosen, &Seeds { image_id: [1; 32], fresh: [2; 32] }).unwrap();
    let kept = again.partitions().last().unwrap();
    assert_eq!(*kept, PlannedPartition { kept: true, ..data.clone() });
    let places = |plan: &Plan| plan.partitions().map(|one| (one.first_lba, one.last_lba)).collect::<Vec<_>>();
    assert_eq!(places(&first), places(&again));
    assert!(again.fstab().contains(&format!("PARTUUID={} /data ext4", data.guid)));
    assert!(again.file_systems().last().unwrap().kept);
    assert!(again.to_string().contains("all data on it but what is kept is lost"), "{again}");
}

#[test]
fn other_partitions_move_around_what_is_kept() {
    let blank = named("sda", 8 << 30);
    let first = plan_on(KEEPS, std::slice::from_ref(&blank));
    let other = KEEPS.replace("'2GiB'", "'1GiB'");
    let again = plan_on(&other, &[after(&first, &blank)]);
    assert_eq!(again.partitions().last().unwrap().first_lba, first.partitions().last().unwrap().first_lba);
    let larger = parse(&KEEPS.replace("'2GiB'", "'3GiB'"));
    let chosen = choose(&larger, &[after(&first, &blank)]).unwrap();
    assert!(matches!(Plan::on(&larger, &chosen, &SEEDS), Err(PlanError::TooSmall { .. })));
}

#[test]
fn what_is_kept_must_be_what_the_layout_says() {
    let blank = named("sda", 8 << 30);
    let disk = after(&plan_on(KEEPS, std::slice::from_ref(&blank)), &blank);
    for (from, to, expected) in [
        ("mount = '/data'", "mount = '/data', fs = 'xfs'", "holds ext4, the layout says xfs"),
        ("keep = true", "keep = true, size = '1GiB'", "has 5841 MiB, the layout says 1024MiB"),
    ] {
        let layout = parse(&KEEPS.replace(from, to));
        let chosen = choose(&layout, std::slice::from_ref(&disk)).unwrap();
        let error = Plan::on(&layout, &chosen, &SEEDS).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
