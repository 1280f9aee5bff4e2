//! A root that is written block by block: what is smaller than its device becomes as large.

use disk_layout::FileSystem;
use serde_json::json;

use super::*;

const DISK_MIB: u64 = 800;
/// What each has of it at least; before it grew it had 320 or less.
const GROWN_MIB: u64 = 600;

/// Puts a file system on the root's device that is smaller than it, and takes it as the root. `size` stands behind the
/// device on the command line.
fn grows(fs: FileSystem, mkfs: &'static str, options: &'static [&'static str], size: Option<&'static str>) {
    if !can_have(fs.word(), mkfs) {
        return;
    }
    in_namespace(move || {
        let Some(machine) = Machine::with_disks(&[DISK_MIB]) else { return };
        let layout = layout(json!({ "wipe": "any", "partition": [{ "role": "root", "fs": fs.word() }] }));
        let partitioned = machine.open(&layout, 2).unwrap().partition().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let formatted = runtime.block_on(make_file_systems(partitioned, &[], RootFrom::Blocks)).unwrap();
        let device = formatted.root_device();
        let made = output_of(Command::new(mkfs).args(options).arg(&device).args(size));
        assert!(made.is_some(), "{mkfs} {options:?} {} {size:?}", device.display());
        let mut blkid = Command::new("blkid");
        let uuid = output_of(blkid.args(["-p", "-s", "UUID", "-o", "value"]).arg(&device)).unwrap();
        let mounted = formatted.mount_given().unwrap();
        let about = rustix::fs::statvfs(mounted.root()).unwrap();
        let mib = (about.f_blocks * about.f_frsize) >> 20;
        assert!(mib > GROWN_MIB, "{} has {mib} MiB of {DISK_MIB}", fs.word());
        assert!(mounted.plan().fstab().contains(&format!("UUID={uuid} / {}", fs.word())), "{uuid}");
        mounted.unmount().unwrap();
    });
}

/// `CAP_SYS_RESOURCE`, which ext4 wants of whoever lets it grow; PID 1 of a node has it.
fn has_sys_resource() -> bool {
    const BIT: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & (1 << BIT) != 0
}

#[test]
fn ext4_grows() {
    if !has_sys_resource() {
        eprintln!("skipped: no CAP_SYS_RESOURCE here; the story of an image of a partition shows it");
        return;
    }
    grows(FileSystem::Ext4, "mke2fs", &["-q", "-t", "ext4", "-F"], Some("200M"));
}

#[test]
fn xfs_grows() {
    grows(FileSystem::Xfs, "mkfs.xfs", &["-q", "-f", "-d", "size=320m"], None);
}

#[test]
fn btrfs_grows() {
    grows(FileSystem::Btrfs, "mkfs.btrfs", &["-q", "-f", "-b", "200M"], None);
}

#[test]
fn what_is_no_file_system_of_the_layout_is_no_root() {
    if !can_have("ext4", "mke2fs") {
        return;
    }
    in_namespace(|| {
        let Some(machine) = Machine::with_disks(&[80]) else { return };
        let layout = layout(json!({ "wipe": "any", "partition": [{ "role": "root" }] }));
        let partitioned = machine.open(&layout, 2).unwrap().partition().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let formatted = runtime.block_on(make_file_systems(partitioned, &[], RootFrom::Blocks)).unwrap();
        let error = formatted.mount_given().unwrap_err();
        assert!(matches!(error, GivenRootError::Unsound { kind: "ext4", .. }), "{error}");
    });
}
