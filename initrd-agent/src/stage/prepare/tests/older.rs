//! An older system that stays: found without a write, disarmed, and everything beside it as it was or made anew.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use disk_layout::PartitionRole;
use image_apply::{Applier, RECORD_MANIFEST, RECORD_TABLE};
use image_format::{
    Delta, FileContent, Hash, Manifest, MemoryImage, Metadata, Mode, Node, NodeKind, OwnerNames, Toc, Tree,
    build_in_memory,
};
use serde_json::json;

use super::*;

/// An image of one file.
fn image() -> MemoryImage {
    let node = |path: &str, kind| {
        let metadata = Metadata { mode: 0o755, ..Metadata::default() };
        Node { path: path.into(), metadata, names: OwnerNames::default(), xattrs: Vec::new(), kind }
    };
    let file = NodeKind::File(FileContent::plain(6));
    let tree = Tree::new(vec![node("", NodeKind::Directory), node("os", file)]).unwrap();
    build_in_memory(&tree, &|at| if at == 1 { b"system".to_vec() } else { Vec::new() }, "old").unwrap()
}

fn shape() -> Layout {
    layout(json!({ "partition": [
        { "role": "bios-boot", "size_mib": 1 },
        { "role": "root", "size_mib": 100 },
        { "role": "swap", "size_mib": 8 },
        { "name": "data", "mount": "/srv/data", "keep": true },
    ]}))
}

/// A machine with an installed system and somebody's data.
fn deployed() -> Option<(Machine, MemoryImage)> {
    let machine = Machine::with_disks(&[240])?;
    let made = image();
    let mounted = machine.prepare(&shape(), 2);
    let range = made.manifest.toc_range();
    let toc = Arc::new(Toc::from_compressed(made.bytes(range.clone()), &made.manifest).unwrap());
    let applier = Applier::begin(mounted.root(), Arc::clone(&toc)).unwrap();
    for index in applier.unwritten() {
        applier.write_frame(index, made.bytes(toc.frame(index).unwrap().range())).unwrap();
    }
    applier.finish().unwrap();
    fs::create_dir_all(mounted.root().join("var/lib/esir")).unwrap();
    fs::write(mounted.root().join(RECORD_MANIFEST), made.manifest.to_bytes().unwrap()).unwrap();
    fs::write(mounted.root().join(RECORD_TABLE), made.bytes(range)).unwrap();
    mounted.unmount().unwrap();
    let device = fs::OpenOptions::new().write(true).open(&machine.disks[0].device).unwrap();
    device.write_all_at(&[0xea; 440], 0).unwrap();
    device.write_all_at(b"GRUB", MIB).unwrap();
    device.sync_all().unwrap();
    Some((machine, made))
}

/// A delta image from this one, and what it leads to, as far as they are asked.
fn wanted(base: &Manifest) -> (Manifest, Manifest) {
    let image = Hash::of(b"the new one");
    let delta = Delta { base: base.image_id, image };
    let of_delta = Manifest { mode: Mode::Delta, delta: Some(delta), ..base.clone() };
    (of_delta, Manifest { image_id: image, ..base.clone() })
}

fn seeds(fresh: u8) -> Seeds {
    Seeds { image_id: [8; 32], fresh: [fresh; 32] }
}

fn find(machine: &Machine, delta: &Manifest, image: &Manifest) -> anyhow::Result<OlderSystem> {
    OlderPlace::find(&shape(), &machine.inventory(), seeds(3))?.read(&Wanted { delta, image })
}

fn bytes_at(machine: &Machine, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fs::File::open(&machine.disks[0].device).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn partition_hash(machine: &Machine, number: u32) -> blake3::Hash {
    blake3::hash(&fs::read(format!("{}p{number}", machine.disks[0].device)).unwrap())
}

#[test]
fn older_system_stays_and_nothing_starts_it_any_more() {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(|| {
        let Some((machine, made)) = deployed() else { return };
        let (delta, image) = wanted(&made.manifest);
        let (before, data) = (machine.contents(), partition_hash(&machine, 4));
        let older = find(&machine, &delta, &image).unwrap();
        assert_eq!(machine.contents(), before, "looking writes nothing");
        assert_eq!(older.table.image_id(), made.manifest.image_id);

        let cleared = ClearedDisks::open(&shape(), &machine.inventory(), &older.seeds).unwrap();
        let (partitioned, _) = cleared.disarm(older).unwrap();
        assert_eq!(bytes_at(&machine, 0, 440), [0; 440], "the boot sector has no code");
        assert_eq!(bytes_at(&machine, MIB, 4), [0; 4], "and GRUB is gone");
        assert_eq!(bytes_at(&machine, 510, 2), [0x55, 0xaa], "the protective table is still one");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let formatted = runtime.block_on(make_file_systems(partitioned, &[], RootFrom::Files(&[]))).unwrap();
        let mounted = Mounted::mount(formatted).unwrap();
        assert_eq!(fs::read(mounted.root().join("os")).unwrap(), b"system");
        let mut blkid = Command::new("blkid");
        blkid.args(["-p", "-s", "UUID", "-o", "value"]).arg(format!("{}p2", machine.disks[0].device));
        if let Some(uuid) = output_of(&mut blkid) {
            assert!(mounted.plan().fstab().contains(&format!("UUID={uuid} / ext4")), "{uuid}");
        }
        let partition = mounted.plan().find(PartitionRole::Root).unwrap();
        assert!(machine.inventory()[0].partitions.iter().any(|found| found.guid == partition.guid));
        mounted.unmount().unwrap();
        assert_eq!(partition_hash(&machine, 4), data, "what is kept is as it was");
        // A second look finds the same: nothing was put aside yet.
        find(&machine, &delta, &image).unwrap();
    });
}

#[test]
fn any_doubt_about_the_older_system_means_a_deployment_in_full() {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(|| {
        let Some((machine, made)) = deployed() else { return };
        let (delta, image) = wanted(&made.manifest);
        let check = |delta: &Manifest, image: &Manifest, expected: &str| {
            let before = machine.contents();
            let said = format!("{:#}", find(&machine, delta, image).map(drop).unwrap_err());
            assert!(said.contains(expected), "{said}");
            assert_eq!(machine.contents(), before, "{expected}");
        };
        let (of_other, _) = wanted(&Manifest { image_id: Hash::of(b"another"), ..made.manifest.clone() });
        check(&of_other, &image, "it is of image");
        let mut newer = image.clone();
        newer.root_file_system.features.push("casefold".to_owned());
        check(&delta, &newer, "another root file system");
        check(&Manifest { content_bytes: 1 << 30, ..delta.clone() }, &image, "MiB free");

        let change = |work: &dyn Fn(&Path)| {
            machine.within(2, "ext4", work);
        };
        change(&|root| fs::create_dir(root.join(".esir")).unwrap());
        check(&delta, &image, "was not completed");
        change(&|root| fs::remove_dir(root.join(".esir")).unwrap());
        change(&|root| fs::write(root.join("lost+found/#12"), "").unwrap());
        check(&delta, &image, "lost+found");
        change(&|root| fs::remove_file(root.join("lost+found/#12")).unwrap());
        find(&machine, &delta, &image).unwrap();
        change(&|root| fs::write(root.join(RECORD_TABLE), "no table").unwrap());
        check(&delta, &image, "record of its image");

        // The kernel says that it is damaged, then it is none.
        let root = fs::OpenOptions::new().write(true).open(format!("{}p2", machine.disks[0].device)).unwrap();
        root.write_all_at(&[3], 1024 + 0x3a).unwrap();
        root.sync_all().unwrap();
        check(&delta, &image, "no sound ext4");
        root.write_all_at(&[1, 0], 1024 + 0x38).unwrap();
        root.sync_all().unwrap();
        check(&delta, &image, "no sound ext4");
    });
}

#[test]
fn other_partitions_mean_a_deployment_in_full() {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(|| {
        let Some((machine, _)) = deployed() else { return };
        let other = layout(json!({ "partition": [
            { "role": "bios-boot", "size_mib": 1 },
            { "role": "root", "size_mib": 90 },
            { "role": "swap", "size_mib": 8 },
            { "name": "data", "mount": "/srv/data", "keep": true },
        ]}));
        let blank = Machine::with_disks(&[240]).unwrap();
        for (machine, layout) in [(&machine, &other), (&blank, &shape())] {
            let before = machine.contents();
            assert!(OlderPlace::find(layout, &machine.inventory(), seeds(3)).is_err());
            assert_eq!(machine.contents(), before);
        }
    });
}
