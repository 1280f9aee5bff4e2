//! Stories on loop devices, in a mount namespace of their own: a machine whose disks they are.

mod given;
mod older;
mod safety;
mod shapes;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk_apply::{flush_and_forget, make_file_systems};
use disk_layout::{Disk, Layout, Seeds};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::hardware::{Root, disks_in};

const MIB: u64 = 1 << 20;
/// What a machine says of a disk beside its name.
const ATTRIBUTES: [&str; 6] =
    ["size", "ro", "removable", "queue/logical_block_size", "queue/physical_block_size", "queue/rotational"];

/// A loop device over a new file; detached when dropped.
struct Loop {
    device: String,
    image: PathBuf,
    _directory: tempfile::TempDir,
}

impl Loop {
    fn attach(bytes: u64, options: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let mut losetup = Command::new("losetup");
        losetup.args(["-P", "-f", "--show"]).args(options).arg(&image);
        let device = output_of(&mut losetup)?;
        Some(Self { device, image, _directory: directory })
    }

    fn name(&self) -> &str {
        self.device.trim_start_matches("/dev/")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// A machine with loop devices as disks; what the kernel says of them is copied, and changed where a story wants.
struct Machine {
    root: tempfile::TempDir,
    disks: Vec<Loop>,
}

impl Machine {
    /// With a disk of so many MiB each; `None`, and said so, where there are no loop devices.
    fn with_disks(mib: &[u64]) -> Option<Self> {
        Self::with_options(&mib.iter().map(|mib| (*mib, [].as_slice())).collect::<Vec<_>>())
    }

    fn with_options(disks: &[(u64, &[&str])]) -> Option<Self> {
        let disks: Option<Vec<Loop>> =
            disks.iter().map(|(mib, options)| Loop::attach(mib * MIB, options)).collect();
        let Some(disks) = disks else {
            eprintln!("skipped: no such loop devices here");
            return None;
        };
        let machine = Self { root: tempfile::tempdir().unwrap(), disks };
        for (index, disk) in machine.disks.iter().enumerate() {
            let kernel = Path::new("/sys/block").join(disk.name());
            for attribute in ATTRIBUTES {
                machine.says(index, attribute, fs::read_to_string(kernel.join(attribute)).unwrap().trim());
            }
            machine.says(index, "device/serial", &format!("LOOP-{index}"));
            let dev = machine.root.path().join("dev");
            fs::create_dir_all(&dev).unwrap();
            std::os::unix::fs::symlink(&disk.device, dev.join(disk.name())).unwrap();
        }
        Some(machine)
    }

    /// From now on the kernel says this of a disk.
    fn says(&self, disk: usize, attribute: &str, value: &str) {
        let path = self.root.path().join("sys/block").join(self.disks[disk].name()).join(attribute);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }

    /// As `drivers` reports and `prepare` chooses from.
    fn inventory(&self) -> Vec<Disk> {
        disks_in(&Root::fake(self.root.path()))
    }

    fn open(&self, layout: &Layout, fresh: u8) -> Result<ClearedDisks, ClearError> {
        ClearedDisks::open(layout, &self.inventory(), &Seeds { image_id: [1; 32], fresh: [fresh; 32] })
    }

    /// From the rule to mounted file systems.
    fn prepare(&self, layout: &Layout, fresh: u8) -> Mounted {
        let partitioned = self.open(layout, fresh).unwrap().partition().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Mounted::mount(runtime.block_on(make_file_systems(partitioned, &[], RootFrom::Files(&[]))).unwrap())
            .unwrap()
    }

    /// Mounts a partition of the first disk for a moment, away from the new root.
    fn within(&self, partition: u32, fs: &str, work: impl FnOnce(&Path)) {
        let place = Path::new("/mnt/within");
        fs::create_dir_all(place).unwrap();
        let device = format!("{}p{partition}", self.disks[0].device);
        mount(Some(device.as_str()), place, Some(fs), MsFlags::MS_NOATIME, None::<&str>).unwrap();
        work(place);
        umount(place).unwrap();
    }

    /// What every disk holds, as its device gives it.
    fn contents(&self) -> Vec<blake3::Hash> {
        let content = |disk: &Loop| {
            let mut hasher = blake3::Hasher::new();
            let mut device = fs::File::open(&disk.device).unwrap();
            let mut bytes = vec![0; 1 << 20];
            while let length @ 1.. = device.read(&mut bytes).unwrap() {
                hasher.update(&bytes[..length]);
            }
            hasher.finalize()
        };
        self.disks.iter().map(content).collect()
    }
}

fn layout(value: serde_json::Value) -> Layout {
    serde_json::from_value(value).unwrap()
}

/// What a command prints, `None` if it is not there or fails.
fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether this kernel and this machine can make and mount it; says so if not.
fn can_have(fs: &str, mkfs: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default().contains(fs);
    let there = Command::new(mkfs).arg("-V").output().is_ok();
    if !known || !there {
        eprintln!("skipped: no {fs} here");
    }
    known && there
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
