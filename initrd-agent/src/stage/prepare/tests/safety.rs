//! The wrong disk is never written: every doubt stops with a clear message and every disk as it was.

use std::os::unix::fs::FileExt as _;

use serde_json::json;

use super::*;
use crate::failure::StageError as _;

/// Room for a layout of one root partition, and little more.
const SMALL_MIB: u64 = 80;

/// Somebody's data, where no file system would have it.
fn put_data(disk: &Loop) {
    let device = fs::OpenOptions::new().write(true).open(&disk.device).unwrap();
    device.write_all_at(b"somebody's data", 20 * MIB).unwrap();
    device.sync_all().unwrap();
}

/// A root on the disks that these selectors name.
fn root_on(disk: serde_json::Value) -> Layout {
    layout(json!({ "disk": disk, "partition": [{ "role": "root" }] }))
}

/// The layout is refused with this code and these words, and no disk changes.
fn refuses(machine: &Machine, layout: &Layout, code: &str, said: &[&str]) {
    let before = machine.contents();
    let error = machine.open(layout, 2).expect_err("the layout should be refused");
    let text = crate::console::chain(&error);
    assert_eq!(PrepareError::from(error).code(), code, "{text}");
    for words in said {
        assert!(text.contains(words), "{text}\nshould contain {words}");
    }
    assert_eq!(machine.contents(), before, "a disk changed although the layout was refused");
}

#[test]
fn two_disks_that_match_are_both_left_alone_and_both_named() {
    let Some(machine) = Machine::with_disks(&[SMALL_MIB, SMALL_MIB]) else { return };
    machine.disks.iter().for_each(put_data);
    refuses(&machine, &root_on(json!({})), "disk-ambiguous", &["serial LOOP-0", "serial LOOP-1", "Name one"]);
    // Neither is the larger.
    refuses(&machine, &root_on(json!({ "pick": "largest" })), "disk-ambiguous", &["LOOP-0", "LOOP-1"]);
}

#[test]
fn disk_that_does_not_match_is_left_alone_also_when_it_is_the_only_one() {
    let Some(machine) = Machine::with_disks(&[SMALL_MIB]) else { return };
    refuses(&machine, &root_on(json!({ "serial": "OTHER*" })), "disk-no-match", &["LOOP-0", "serial"]);
    refuses(&machine, &root_on(json!({ "count": 2 })), "disk-no-match", &["1 of 2 disks"]);
}

#[test]
fn removable_disk_is_left_alone_also_when_the_rule_names_it() {
    let Some(machine) = Machine::with_disks(&[SMALL_MIB]) else { return };
    machine.says(0, "removable", "1");
    refuses(&machine, &root_on(json!({ "serial": "LOOP-0" })), "disk-no-match", &["removable"]);
}

#[test]
fn read_only_disk_is_never_chosen_and_not_opened_if_it_became_so() {
    let Some(machine) = Machine::with_options(&[(SMALL_MIB, &["-r"])]) else { return };
    refuses(&machine, &root_on(json!({})), "disk-no-match", &["write-protected"]);
    // Protected between the look and the opening.
    machine.says(0, "ro", "0");
    refuses(&machine, &root_on(json!({})), "disk-busy", &["is write-protected; nothing was written"]);
}

#[test]
fn disk_that_is_too_small_is_left_alone() {
    let Some(machine) = Machine::with_disks(&[60]) else { return };
    refuses(&machine, &root_on(json!({})), "disk-no-match", &["smaller than the 66.0 MiB"]);
    // One that shrank since: the controller shows another volume now.
    machine.says(0, "size", &(SMALL_MIB * MIB / 512).to_string());
    refuses(
        &machine,
        &layout(json!({ "wipe": "any", "partition": [{ "role": "root" }] })),
        "disk-write",
        &["when it was chosen; nothing was written"],
    );
}

#[test]
fn disk_in_use_is_left_alone_and_so_are_the_others_of_its_layout() {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(|| {
        let Some(machine) = Machine::with_disks(&[SMALL_MIB, SMALL_MIB]) else { return };
        let busy = &machine.disks[1].device;
        output_of(Command::new("mke2fs").args(["-q", "-t", "ext4", busy])).unwrap();
        fs::create_dir("/mnt/busy").unwrap();
        mount(Some(busy.as_str()), "/mnt/busy", Some("ext4"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
        put_data(&machine.disks[0]);
        let both = layout(json!({
            "wipe": "any",
            "disk": [{ "name": "system", "serial": "LOOP-0" }, { "name": "bulk", "serial": "LOOP-1" }],
            "partition": [{ "role": "root" }, { "disk": "bulk", "mount": "/data" }],
        }));
        // The first disk is free, and written only if the second is too.
        refuses(&machine, &both, "disk-busy", &["for us alone"]);
        nix::mount::umount("/mnt/busy").unwrap();
        machine.open(&both, 2).unwrap();
    });
}

#[test]
fn foreign_data_is_left_alone_unless_the_task_says_otherwise() {
    let Some(machine) = Machine::with_disks(&[SMALL_MIB]) else { return };
    let device = machine.disks[0].device.clone();
    let Some(_) = output_of(Command::new("mke2fs").args(["-q", "-t", "ext4", &device])) else { return };
    refuses(&machine, &root_on(json!({})), "disk-occupied", &["holds ext4", "wipe = \"any\""]);
    // Also in a partition of somebody's own table.
    let sfdisk = format!("printf 'label: gpt\\n,,\\n' | sfdisk -q -w always -W always {device}");
    let Some(_) = output_of(Command::new("sh").args(["-c", &sfdisk])) else { return };
    refuses(&machine, &root_on(json!({})), "disk-occupied", &["holds gpt"]);
    machine.open(&layout(json!({ "wipe": "any", "partition": [{ "role": "root" }] })), 2).unwrap();
}

#[test]
fn remains_of_arrays_and_volumes_are_foreign_data() {
    let Some(machine) = Machine::with_disks(&[SMALL_MIB]) else { return };
    let device = fs::OpenOptions::new().write(true).open(&machine.disks[0].device).unwrap();
    for (offset, magic, word) in [
        (4096, &b"\xfc\x4e\x2b\xa9"[..], "linux_raid_member"),
        (512, &b"LABELONE"[..], "LVM2_member"),
        (0, &b"LUKS\xba\xbe"[..], "crypto_LUKS"),
    ] {
        let mut sector = vec![0; 512];
        sector[..magic.len()].copy_from_slice(magic);
        if word == "LVM2_member" {
            sector[24..32].copy_from_slice(b"LVM2 001");
        }
        device.write_all_at(&sector, offset).unwrap();
        refuses(&machine, &root_on(json!({})), "disk-occupied", &[word]);
        device.write_all_at(&[0; 512], offset).unwrap();
    }
    machine.open(&root_on(json!({})), 2).unwrap();
}

#[test]
fn only_the_named_disk_of_two_is_written() {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(|| {
        let Some(machine) = Machine::with_disks(&[SMALL_MIB, SMALL_MIB]) else { return };
        machine.disks.iter().for_each(put_data);
        let before = machine.contents();
        let mounted = machine.prepare(&root_on(json!({ "serial": "LOOP-1" })), 2);
        fs::write(mounted.root().join("file"), vec![7; 1 << 20]).unwrap();
        mounted.unmount().unwrap();
        let after = machine.contents();
        assert_eq!(after[0], before[0], "the other disk changed");
        assert_ne!(after[1], before[1]);
    });
}
