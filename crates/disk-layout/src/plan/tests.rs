use super::*;
use crate::Disk;

const SEEDS: Seeds = Seeds { image_id: [7; 32], fresh: [9; 32] };

fn disk(size_bytes: u64, sector: u32) -> Disk {
    Disk {
        name: "sda".into(),
        size_bytes,
        logical_sector_bytes: sector,
        physical_sector_bytes: 4096,
        ..Disk::default()
    }
}

fn parse(layout: &str) -> Layout {
    toml::from_str(layout).unwrap()
}

/// The error of a layout in TOML on an 8 GiB disk with 512-byte sectors.
fn check_error(layout: &str, expected: &str) {
    let error = Plan::make(&parse(layout), &disk(8 << 30, 512), &SEEDS).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} should contain {expected:?}");
}

#[test]
fn default_layout_boots_under_either_firmware() {
    let plan = Plan::make(&Layout::default(), &disk(8 << 30, 512), &SEEDS).unwrap();
    let text = plan.to_string();
    assert!(
        text.starts_with("/dev/sda (8.0 GiB, serial unknown): all data on it is lost; new GPT "),
        "{text}"
    );
    assert!(text.contains("3 esir-root"), "{text}");
    assert_eq!(
        plan.partitions().map(|p| (p.name.as_str(), p.first_lba, p.last_lba)).collect::<Vec<_>>(),
        [
            ("esir-bios-boot", 2048, 4095),
            ("esir-esp", 4096, 1_052_671),
            // 8 GiB less one MiB in front and one, for the second table, behind.
            ("esir-root", 1_052_672, 16_775_167),
        ]
    );
    let root = plan.find(PartitionRole::Root).unwrap();
    assert_eq!(root.type_guid.to_string(), "4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
    assert_eq!(root.device, "sda3");
    let nvme = Disk { name: "nvme0n1".into(), ..disk(8 << 30, 512) };
    let plan = Plan::make(&Layout::default(), &nvme, &SEEDS).unwrap();
    assert_eq!(plan.find(PartitionRole::Root).unwrap().device, "nvme0n1p3");
}

#[test]
fn fstab_names_every_file_system_by_its_identity() {
    let layout = parse(
        "partition = [
            { role = 'esp', size_mib = 300 },
            { role = 'data', size_mib = 400, fs = 'xfs', mount = '/srv/data' },
            { role = 'swap', size_mib = 64 },
            { role = 'root' },
            { role = 'data', size_mib = 10, mount = '/srv' },
            { role = 'data', size_mib = 10 },
        ]",
    );
    let plan = Plan::make(&layout, &disk(8 << 30, 512), &SEEDS).unwrap();
    let fstab = plan.fstab();
    let shapes: Vec<Vec<&str>> = fstab.lines().map(|line| line.split(' ').skip(1).collect()).collect();
    assert_eq!(
        shapes,
        [
            vec!["/", "ext4", "errors=remount-ro", "0", "1"],
            vec!["/srv", "ext4", "defaults", "0", "2"],
            vec!["/boot/efi", "vfat", "umask=0077,nofail", "0", "2"],
            vec!["/srv/data", "xfs", "defaults", "0", "0"],
            vec!["none", "swap", "sw", "0", "0"],
        ]
    );
    for one in plan.file_systems().iter().filter(|one| one.mount.is_some()) {
        assert!(fstab.contains(&format!("UUID={} ", one.id)), "{one:?}");
    }
}

#[test]
fn image_rule_gives_every_node_the_same_identity_and_random_does_not() {
    let layout = parse("partition = [{ role = 'root' }, { role = 'swap', size_mib = 8, uuid = 'random' }]");
    let ids = |seeds: &Seeds| {
        let plan = Plan::make(&layout, &disk(8 << 30, 512), seeds).unwrap();
        let ids: Vec<String> = plan.file_systems().iter().map(|one| one.id.to_string()).collect();
        (ids, plan.disks()[0].guid)
    };
    let (first, first_disk) = ids(&SEEDS);
    let (second, second_disk) = ids(&Seeds { fresh: [10; 32], ..SEEDS });
    assert_eq!(first[0], second[0]);
    assert_ne!(first[1], second[1]);
    assert_ne!(first_disk, second_disk);
    assert_eq!(&first[0][14..15], "8", "version 8: {}", first[0]);
    let (third, _) = ids(&Seeds { image_id: [8; 32], ..SEEDS });
    assert_ne!(first[0], third[0]);
}

#[test]
fn what_does_not_fit_is_refused_with_what_to_change() {
    check_error(
        "partition = [{ role = 'root' }, { role = 'root', size_mib = 9 }]",
        "2 partitions of role `root`",
    );
    check_error("partition = [{ role = 'root', size_mib = 9000 }]", "needs 8.7 GiB but sda has 8.0 GiB");
    check_error("partition = [{ role = 'root', size_mib = 18446744073709551615 }]", "needs");
    check_error("partition = [{ role = 'root', size_mib = 100, fs = 'xfs' }]", "at least 300 MiB");
    check_error("partition = [{ role = 'root', size = '9GiB..' }]", "needs 9.0 GiB but sda has 8.0 GiB");
    let volumes = "partition = [{ lvm = 'vg0' }]
        volume = [{ group = 'vg0', name = 'root', role = 'root' }, { group = 'vg0', name = 'x', size = '8GiB' }]";
    check_error(volumes, "needs 8.0 GiB but the group vg0 has");
    let circle = "partition = [{ role = 'root', size = 99 }, { lvm = 'vg1' }]
        volume = [{ group = 'vg0', name = 'x', luks = 'c' }, { group = 'vg1', name = 'y' }]
        luks = [{ name = 'c', lvm = 'vg0' }]";
    check_error(circle, "c, vg0 can't be made");
}

#[test]
fn native_4k_disk_counts_its_own_sectors_and_wants_a_larger_esp() {
    let plan = Plan::make(&Layout::default(), &disk(8 << 30, 4096), &SEEDS).unwrap();
    assert_eq!(plan.disks()[0].partitions[0].first_lba, 256);
    assert_eq!(plan.disks()[0].partitions[1].size_bytes(4096), 512 << 20);
    let layout = parse("partition = [{ role = 'esp', size_mib = 100 }, { role = 'root' }]");
    assert!(Plan::make(&layout, &disk(8 << 30, 512), &SEEDS).is_ok());
    let error = Plan::make(&layout, &disk(8 << 30, 4096), &SEEDS).unwrap_err();
    assert!(matches!(error, PlanError::FileSystemSize { min_mib: 260, .. }), "{error}");
    assert!(Plan::make(&layout, &disk(8 << 30, 520), &SEEDS).is_err());
}

#[test]
fn smallest_disk_of_a_layout_takes_it() {
    for sector in [512, 4096] {
        let layout = parse("partition = [{ role = 'bios-boot', size_mib = 1 }, { role = 'root' }]");
        let least = layout.size_min_bytes(0);
        assert!(Plan::make(&layout, &disk(least, sector), &SEEDS).is_ok());
        assert!(Plan::make(&layout, &disk(least - MIB, sector), &SEEDS).is_err());
    }
}

mod properties;
mod stacks;
