use super::*;

fn plan(size_bytes: u64) -> PlannedDisk {
    let disk = Disk { name: "sda".into(), size_bytes, logical_sector_bytes: 512, ..Disk::default() };
    let seeds = Seeds { image_id: [1; 32], fresh: [2; 32] };
    Plan::make(&Layout::default(), &disk, &seeds).unwrap().disks()[0].clone()
}

#[test]
fn both_ends_of_everything_are_wiped_and_the_old_table_last() {
    let size = 2 << 30;
    let old = 900 << 20..1000 << 20;
    let ranges = wipe_ranges(&plan(size), std::slice::from_ref(&old));
    assert_eq!(ranges.first(), Some(&(old.end - WIPE_BYTES..old.end)));
    assert_eq!(ranges.last(), Some(&(0..WIPE_BYTES)));
    assert!(ranges.contains(&(size - WIPE_BYTES..size)));
    // The second superblock of a btrfs that was in the old partition.
    assert!(ranges.contains(&(old.start + (64 << 20)..old.start + (64 << 20) + BTRFS_COPY_BYTES)));
    assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![0xff; 4 << 20]).unwrap();
    let device = OpenOptions::new().write(true).open(&path).unwrap();
    wipe(&device, 1 << 20, (1 << 20) + 5).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[1 << 20..(2 << 20) + 5].iter().all(|byte| *byte == 0));
    assert_eq!((bytes[(1 << 20) - 1], bytes[(2 << 20) + 5]), (0xff, 0xff));
}

#[test]
fn disk_in_a_raid_is_in_use_also_by_a_partition() {
    let class = tempfile::tempdir().unwrap();
    let sda = class.path().join("sda");
    fs::create_dir_all(sda.join("holders")).unwrap();
    fs::create_dir_all(sda.join("sda1/holders")).unwrap();
    fs::write(sda.join("sda1/partition"), "1").unwrap();
    assert_eq!(find_holder(class.path(), "sda"), None);
    fs::create_dir_all(sda.join("sda1/holders/md127")).unwrap();
    assert_eq!(find_holder(class.path(), "sda"), Some("md127".into()));
}

#[test]
fn refusals_of_the_rule_reach_the_operator_as_they_are() {
    let seeds = Seeds { image_id: [1; 32], fresh: [2; 32] };
    let error = ClearedDisks::open(&Layout::default(), &[], &seeds).unwrap_err();
    assert!(matches!(error, ClearError::Choose(ChooseError::NoDisk)));
}
