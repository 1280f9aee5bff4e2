//! A layout as TOML, an inventory made of the rest of the bytes, and what a plan of both may never do.
//!
//! Never depends on the fuzzer: the same function replays the corpus in `crates/disk-layout/tests/corpus.rs`.

use std::collections::HashSet;

use disk_layout::{
    Disk, FileSystem, FoundPartition, KEPT_NAME_PREFIX, Layer, Layout, Plan, PlannedDisk, Seeds, Transport,
    WipePolicy, choose,
};

/// Disks of a made-up machine.
const DISKS_MAX: usize = 6;
/// Partitions that are found on each.
const FOUND_MAX: u64 = 5;
const MIB: u64 = 1 << 20;

/// The layout up to a NUL, then the disks.
pub fn layout(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let Ok(layout) = toml::from_str::<Layout>(&text) else { return };
    for problem in layout.problems() {
        assert!(!problem.text.is_empty() && !problem.to_string().contains('\n'));
    }
    let disks = inventory(&mut Bytes(parts.next().unwrap_or_default()));
    let chosen = match choose(&layout, &disks) {
        Ok(chosen) => chosen,
        Err(error) => return assert!(!error.to_string().is_empty() && !error.code().is_empty()),
    };
    let seeds = Seeds { image_id: [1; 32], fresh: [2; 32] };
    let Ok(plan) = Plan::on(&layout, &chosen, &seeds) else { return };
    let mut names = HashSet::new();
    for planned in plan.disks() {
        let disk = disks.iter().find(|disk| disk.name == planned.name).expect("a disk of the machine");
        assert!(!disk.removable && !disk.read_only, "{} is never written", disk.name);
        assert!(names.insert(&planned.name), "{} is planned twice", disk.name);
        lies_right(planned, disk, &layout);
    }
    rests_on_what_is_there(&plan);
    speaks_plainly(&plan);
}

/// Partitions lie in the disk, beside each other, and what is kept stays where it was.
fn lies_right(planned: &PlannedDisk, disk: &Disk, layout: &Layout) {
    let sector = u64::from(disk.logical_sector_bytes);
    // Protective MBR, header, and 128 entries of 128 bytes; the same without the MBR at the end.
    let entries = (128_u64 * 128).div_ceil(sector);
    let (first, last) = (2 + entries, disk.size_bytes / sector - 2 - entries);
    let mut extents: Vec<(u64, u64)> = Vec::new();
    for (number, one) in (1..).zip(&planned.partitions) {
        assert_eq!(one.number, number);
        assert!(first <= one.first_lba && one.first_lba <= one.last_lba && one.last_lba <= last, "{one:?}");
        assert!(extents.iter().all(|(start, end)| one.last_lba < *start || *end < one.first_lba), "{one:?}");
        extents.push((one.first_lba, one.last_lba));
        let same = |found: &&FoundPartition| {
            (found.guid, found.first_lba, found.last_lba) == (one.guid, one.first_lba, one.last_lba)
        };
        if one.kept {
            assert!(disk.partitions.iter().find(same).is_some_and(|found| found.name == one.name), "{one:?}");
        } else {
            assert_eq!(one.first_lba * sector % MIB, 0, "{one:?}");
        }
    }
    if layout.wipe == WipePolicy::Any {
        return;
    }
    for found in disk.partitions.iter().filter(|found| found.name.starts_with(KEPT_NAME_PREFIX)) {
        let stays = planned.partitions.iter().any(|one| one.kept && one.name == found.name);
        assert!(stays, "{:?} was kept and is lost", found.name);
    }
}

/// Each layer lies on devices that are there, which nothing else lies on; so does each file system.
fn rests_on_what_is_there(plan: &Plan) {
    let mut free: HashSet<String> = HashSet::new();
    let mut kept: HashSet<String> = HashSet::new();
    for one in plan.partitions() {
        assert!(free.insert(one.device.clone()), "{} is there twice", one.device);
        if one.kept {
            kept.insert(one.device.clone());
        }
    }
    let take = |free: &mut HashSet<String>, device: &String| {
        assert!(free.remove(device), "{device} is not there, or in use");
    };
    let mut groups = HashSet::new();
    for layer in plan.layers() {
        match layer {
            Layer::Raid { device, members, .. } => {
                assert!(members.len() > 1, "an array of one");
                members.iter().for_each(|member| {
                    take(&mut free, member);
                    assert!(!kept.contains(member), "{member} is kept");
                });
                assert!(free.insert(device.clone()));
            }
            Layer::Luks { device, below, .. } => {
                take(&mut free, below);
                assert!(!kept.contains(below) && free.insert(device.clone()));
            }
            Layer::Group { name, members } => {
                members.iter().for_each(|member| take(&mut free, member));
                assert!(!members.is_empty() && groups.insert(name.clone()));
            }
            Layer::Volume { device, group, .. } => {
                assert!(groups.contains(group) && free.insert(device.clone()));
            }
        }
    }
    for one in plan.file_systems() {
        for device in std::iter::once(&one.device).chain(&one.copies) {
            take(&mut free, device);
            assert_eq!(one.kept, kept.contains(device), "{device}");
        }
    }
    assert_eq!(
        plan.file_systems().iter().filter(|one| one.mount.as_deref() == Some("/")).count(),
        roots(plan)
    );
}

/// A root is mounted as a whole, or as one subvolume.
fn roots(plan: &Plan) -> usize {
    let inside = plan.file_systems().iter().flat_map(|one| &one.subvolumes);
    1 - inside.filter(|subvolume| subvolume.mount == "/").count()
}

/// What is written for the installed system is lines of words, and of no more words than there should be.
fn speaks_plainly(plan: &Plan) {
    let mounts: HashSet<&str> = HashSet::new();
    let fstab = plan.fstab();
    let mut seen = mounts;
    for line in fstab.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() == 6 && words.iter().all(|word| !word.is_empty()), "{line:?}");
        let swap = words[2] == FileSystem::Swap.word();
        assert!(swap || words[1].starts_with('/') && seen.insert(words[1]), "{line:?}");
    }
    for line in plan.crypttab().map(|entry| entry.line(&disk_layout::key_path(entry.name))) {
        assert!(line.split(' ').count() == 4 && line.lines().count() == 1, "{line:?}");
    }
    for line in plan.mdadm_arrays().lines() {
        assert_eq!(line.split(' ').count(), 4, "{line:?}");
    }
    assert!(plan.to_string().lines().count() >= plan.partitions().count());
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u64 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        u64::from(*first)
    }

    fn of<'t, T>(&mut self, choices: &'t [T]) -> &'t T {
        &choices[self.byte() as usize % choices.len()]
    }

    fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | self.byte())
    }
}

/// Some disks of every kind, with tables of partitions that may lie anywhere.
fn inventory(bytes: &mut Bytes<'_>) -> Vec<Disk> {
    let mut disks = Vec::new();
    while !bytes.0.is_empty() && disks.len() < DISKS_MAX {
        disks.push(disk(bytes, disks.len()));
    }
    if disks.is_empty() {
        disks.push(Disk { size_bytes: 64 << 30, ..disk(bytes, 0) });
    }
    disks
}

fn disk(bytes: &mut Bytes<'_>, index: usize) -> Disk {
    use Transport::{Ata, Nvme, Scsi, Usb, Virtio};
    let kind = bytes.byte();
    let logical_sector_bytes = *bytes.of(&[512, 512, 4096, 4096, 520]);
    let mib = *bytes.of(&[8192, 65_536, 1 << 20, 700, 40, 2]) + bytes.byte();
    let size_bytes = mib * MIB + bytes.byte() * u64::from(logical_sector_bytes);
    let words = [
        vec![],
        vec!["gpt", "esir"],
        vec!["gpt"],
        vec!["dos"],
        vec!["LVM2_member"],
        vec!["linux_raid_member"],
    ];
    let signatures = bytes.of(&words).iter().map(|word| (*word).to_owned()).collect();
    let partitions = (0..bytes.byte() % FOUND_MAX).map(|_| found(bytes)).collect();
    Disk {
        name: bytes.of(&[format!("sd{}", char::from(b'a' + index as u8)), format!("nvme{index}n1")]).clone(),
        path: format!("pci/{index}"),
        serial: Some(format!("S{index}")),
        size_bytes,
        logical_sector_bytes,
        physical_sector_bytes: 4096,
        rotational: kind & 1 != 0,
        removable: kind & 6 == 6,
        read_only: kind & 24 == 24,
        transport: *bytes.of(&[Ata, Nvme, Scsi, Virtio, Usb]),
        signatures,
        partitions,
        ..Disk::default()
    }
}

fn found(bytes: &mut Bytes<'_>) -> FoundPartition {
    let name =
        (*bytes.of(&["esir-keep-data", "esir-keep-home", "esir-root", "esir-esp", "Windows"])).to_owned();
    let whole = bytes.byte() > 63;
    let (first_lba, last_lba) = if whole {
        let first = bytes.byte() * 2048;
        (first, first + (bytes.byte() + 1) * 2048 * 8 - 1)
    } else {
        (bytes.number(), bytes.number())
    };
    let signatures = vec![(*bytes.of(&["ext4", "xfs", "btrfs", "LVM2_member"])).to_owned()];
    let guid = format!("00000000-0000-4000-8000-{:012x}", bytes.byte() + 1);
    FoundPartition { name, guid: guid.parse().expect("a GUID"), first_lba, last_lba, signatures }
}
