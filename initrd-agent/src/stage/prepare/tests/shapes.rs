//! From blank and from used disks to mounted file systems.

use std::os::unix::fs::FileExt as _;

use serde_json::json;

use super::*;

fn becomes_mounted_file_systems(sector: &'static str) {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(move || {
        let Some(machine) = Machine::with_options(&[(160, &["-b", sector])]) else { return };
        let device = &machine.disks[0].device;
        // An old file system, whose remains must not be found again.
        let whole = fs::OpenOptions::new().write(true).open(device).unwrap();
        whole.write_all_at(&[0xa5; 8192], 0).unwrap();
        whole.write_all_at(&[0xa5; 8192], 160 * MIB - 8192).unwrap();
        drop(whole);
        let layout = layout(json!({ "wipe": "any", "partition": [
            { "role": "bios-boot", "size_mib": 1 },
            { "role": "root" },
            { "role": "data", "size_mib": 24, "mount": "/srv/data" },
            { "role": "swap", "size_mib": 8 },
        ]}));
        // Twice: the second finds what an agent that died left mounted.
        let first = machine.prepare(&layout, 2);
        fs::write(first.root().join("from-the-first-try"), "x").unwrap();
        std::mem::forget(first);
        let again = machine.open(&layout, 3);
        assert!(matches!(again, Err(ClearError::Open { .. })), "a mounted disk is not opened: {again:?}");
        umount("/mnt/root/srv/data").and_then(|()| umount("/mnt/root")).unwrap();
        let mounted = machine.prepare(&layout, 2);
        assert!(!mounted.root().join("from-the-first-try").exists());
        assert!(mounted.root().join("srv/data/lost+found").exists());
        let mut blkid = Command::new("blkid");
        blkid.args(["-p", "-s", "UUID", "-o", "value"]).arg(format!("{device}p2"));
        if let Some(uuid) = output_of(&mut blkid) {
            assert!(mounted.plan().fstab().contains(&format!("UUID={uuid} / ext4")), "{uuid}");
        }
        mounted.unmount().unwrap();
        assert!(!Path::new("/mnt/root/srv").exists());
    });
}

#[test]
fn blank_disk_becomes_mounted_file_systems() {
    becomes_mounted_file_systems("512");
}

#[test]
fn native_4k_disk_becomes_mounted_file_systems() {
    becomes_mounted_file_systems("4096");
}

#[test]
fn what_is_flushed_is_on_every_disk_of_the_new_system() {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(|| {
        let Some(machine) = Machine::with_disks(&[160, 80]) else { return };
        let mounted = machine.prepare(
            &layout(json!({
                "disk": [{ "name": "system", "serial": "LOOP-0" }, { "name": "bulk", "serial": "LOOP-1" }],
                "partition": [
                    { "role": "boot", "size": "40MiB" }, { "role": "root" },
                    { "disk": "bulk", "mount": "/srv/data" },
                ],
            })),
            2,
        );
        for (disk, file) in [(0, "root-file"), (0, "boot/kernel"), (1, "srv/data/record")] {
            let text = format!("the text of {file} lies on its disk");
            fs::write(mounted.root().join(file), &text).unwrap();
            flush_and_forget(mounted.root()).unwrap();
            let image = fs::read(&machine.disks[disk].image).unwrap();
            let found = image.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(found, "{file} would be lost with the power");
        }
        mounted.unmount().unwrap();
    });
}

#[test]
fn kept_partition_survives_with_its_data_while_everything_else_is_made_anew() {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(|| {
        let Some(machine) = Machine::with_disks(&[200]) else { return };
        let with = |root_mib: u64| {
            layout(json!({ "partition": [
                { "role": "root", "size_mib": root_mib },
                { "name": "data", "size": "64MiB", "mount": "/data", "keep": true },
                { "role": "swap", "size_mib": 8 },
            ]}))
        };
        let first = machine.prepare(&with(80), 2);
        let fstab = first.plan().fstab();
        fs::write(first.root().join("data/precious"), "still here").unwrap();
        fs::write(first.root().join("old-system"), "x").unwrap();
        first.unmount().unwrap();
        // Another image, another size of root; what is kept stays where it is.
        for (fresh, root_mib) in [(3, 80), (4, 60)] {
            let again = machine.prepare(&with(root_mib), fresh);
            assert!(!again.root().join("old-system").exists());
            // Nothing of an image gets into it: it is not even mounted.
            assert!(!again.root().join("data/precious").exists());
            let line = |fstab: &str| fstab.lines().find(|line| line.contains(" /data ")).map(str::to_owned);
            assert_eq!(line(&again.plan().fstab()), line(&fstab), "its line in fstab stays");
            again.mount_esp().unwrap();
            assert!(again.root().join("data").is_dir(), "its mount point is made");
            machine.within(2, "ext4", |place| {
                assert_eq!(fs::read_to_string(place.join("precious")).unwrap(), "still here");
            });
            again.unmount().unwrap();
        }
        // A layout that forgot it stops.
        let forgets = layout(json!({ "partition": [{ "role": "root" }] }));
        let before = machine.contents();
        let error = machine.open(&forgets, 5).unwrap_err().to_string();
        assert!(error.contains("\"data\"") && error.contains("keep = true"), "{error}");
        // And so does one that finds something else in it.
        let other = layout(json!({ "partition": [
            { "role": "root", "size_mib": 60 }, { "name": "data", "fs": "xfs", "mount": "/data", "keep": true },
        ]}));
        let error = machine.open(&other, 5).unwrap_err().to_string();
        assert!(error.contains("holds ext4, the layout says xfs"), "{error}");
        assert_eq!(machine.contents(), before);
    });
}

#[test]
fn btrfs_subvolumes_are_mounted_where_the_layout_says() {
    if !can_have("btrfs", "mkfs.btrfs") || !can_have("btrfs", "btrfs") {
        return;
    }
    in_namespace(|| {
        let Some(machine) = Machine::with_disks(&[400]) else { return };
        let mounted = machine.prepare(
            &layout(json!({ "partition": [
                { "role": "bios-boot", "size_mib": 1 },
                { "role": "root", "fs": "btrfs", "options": "compress=zstd:1,noatime", "subvolumes": [
                    { "name": "@", "mount": "/" }, { "name": "@home", "mount": "/home" },
                    { "name": "@log", "mount": "/var/log" },
                ]},
            ]})),
            2,
        );
        for file in ["etc", "home/user", "var/log/old"] {
            fs::create_dir_all(mounted.root().join(file)).unwrap();
        }
        flush_and_forget(mounted.root()).unwrap();
        let fstab = mounted.plan().fstab();
        let options = "btrfs subvol=@home,compress=zstd:1,noatime 0 0";
        assert!(fstab.contains(&format!(" /home {options}")), "{fstab}");
        mounted.unmount().unwrap();
        // The whole file system, as another machine would see it.
        machine.within(2, "btrfs", |place| {
            for path in ["@/etc", "@/home", "@home/user", "@log/old"] {
                assert!(place.join(path).is_dir(), "{path}");
            }
            assert!(!place.join("@/home/user").exists() && !place.join("etc").exists());
        });
        let device = format!("{}p2", machine.disks[0].device);
        output_of(Command::new("btrfs").args(["check", "--readonly", &device]))
            .expect("btrfs check finds no fault");
    });
}
