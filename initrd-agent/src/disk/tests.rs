//! From a blank disk to mounted file systems, on a loop device in a mount namespace of its own.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use disk_layout::{Disk, Layout, Seeds};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// A loop device over a new file; detached when dropped.
struct Loop {
    device: String,
    _directory: tempfile::TempDir,
}

impl Loop {
    fn attach(bytes: u64, sector: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let sector = sector.to_string();
        let losetup =
            Command::new("losetup").args(["-P", "-b", &sector, "-f", "--show"]).arg(&image).output();
        let output = losetup.ok().filter(|output| output.status.success())?;
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Some(Self { device, _directory: directory })
    }

    fn disk(&self, bytes: u64, sector: u32) -> Disk {
        Disk {
            name: self.device.trim_start_matches("/dev/").to_owned(),
            serial: Some("LOOP".into()),
            size_bytes: bytes,
            logical_sector_bytes: sector,
            physical_sector_bytes: 4096,
            ..Disk::default()
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// Mounts of `story` are seen by nobody else and end with it.
fn in_namespace(story: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        let ready = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
            .and_then(|()| mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), None::<&str>));
        match ready {
            Ok(()) => story(),
            Err(error) => eprintln!("skipped: no mount namespace here: {error}"),
        }
    })
    .join()
    .unwrap();
}

fn prepare(layout: &Layout, disk: &Disk) -> Mounted {
    let seeds = Seeds { image_id: [1; 32], fresh: [2; 32] };
    let cleared = ClearedDisk::open(layout, std::slice::from_ref(disk), &seeds).unwrap();
    let partitioned = cleared.partition().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let formatted = runtime.block_on(make_file_systems(partitioned, &[])).unwrap();
    Mounted::mount(formatted).unwrap()
}

fn check(sector: u32) {
    if !fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("ext4") {
        eprintln!("skipped: this kernel has no ext4 now");
        return;
    }
    in_namespace(move || {
        let bytes = 160 << 20;
        let Some(device) = Loop::attach(bytes, sector) else {
            eprintln!("skipped: no loop device with sectors of {sector} bytes here");
            return;
        };
        // An old file system, whose remains must not be found again.
        let whole = fs::OpenOptions::new().write(true).open(&device.device).unwrap();
        whole.write_all_at(&[0xa5; 8192], 0).unwrap();
        whole.write_all_at(&[0xa5; 8192], bytes - 8192).unwrap();
        drop(whole);
        let layout: Layout = serde_json::from_value(serde_json::json!({ "wipe": "any", "partition": [
            { "role": "bios-boot", "size_mib": 1 },
            { "role": "root" },
            { "role": "data", "size_mib": 24, "mount": "/srv/data" },
            { "role": "swap", "size_mib": 8 },
        ]}))
        .unwrap();
        let disk = device.disk(bytes, sector);
        // Twice: the second finds what an agent that died left mounted.
        let first = prepare(&layout, &disk);
        fs::write(first.root().join("from-the-first-try"), "x").unwrap();
        std::mem::forget(first);
        let again = ClearedDisk::open(
            &layout,
            std::slice::from_ref(&disk),
            &Seeds { image_id: [1; 32], fresh: [3; 32] },
        );
        assert!(matches!(again, Err(ClearError::Open { .. })), "a mounted disk is not opened: {again:?}");
        release().unwrap();
        let mounted = prepare(&layout, &disk);
        assert!(!mounted.root().join("from-the-first-try").exists());
        assert!(mounted.root().join("srv/data/lost+found").exists());
        let mut blkid = Command::new("blkid");
        blkid.args(["-p", "-s", "UUID", "-o", "value"]).arg(format!("{}p2", device.device));
        if let Some(uuid) = output_of(&mut blkid) {
            assert!(mounted.plan().fstab().contains(&format!("UUID={uuid} / ext4")), "{uuid}");
        }
        mounted.unmount().unwrap();
        assert!(!Path::new("/mnt/root/srv").exists());
    });
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn blank_disk_becomes_mounted_file_systems() {
    check(512);
}

#[test]
fn native_4k_disk_becomes_mounted_file_systems() {
    check(4096);
}
