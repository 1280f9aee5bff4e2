//! The new file systems, mounted below [`ROOT`], and unmounted again whatever happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk_layout::{Disk, FileSystem, PartitionRole, Plan};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::format::Formatted;

/// Where the new root is mounted.
const ROOT: &str = "/mnt/root";
/// Where the EFI system partition is mounted: not inside the root, because the image's own loaders lie at that
/// place and must be neither hidden nor in reach of the firmware before the commit point.
const ESP: &str = "/mnt/esp";
/// A file system is busy for a moment after its last writer closed.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// A file system that cannot be mounted or left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// The place.
    #[error("making {0}")]
    Place(PathBuf, #[source] std::io::Error),
    /// The mount.
    #[error("mounting {device} ({fs}) on {place}")]
    Mount {
        device: String,
        fs: &'static str,
        place: PathBuf,
        #[source]
        source: Errno,
    },
    /// The end of it.
    #[error("unmounting {0}")]
    Unmount(PathBuf, #[source] Errno),
    /// A plan without a root, which plans cannot be.
    #[error("the plan has no root file system")]
    NoRoot,
}

/// Mounted file systems of one deployment; unmounts them when dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    plan: Plan,
    disk: Disk,
}

impl Mounted {
    /// Mounts the root and everything inside it; the ESP follows in [`Self::mount_esp`].
    pub(crate) fn mount(formatted: Formatted) -> Result<Self, MountError> {
        let Formatted { partitioned } = formatted;
        let mounted = Self { plan: partitioned.plan().clone(), disk: partitioned.disk().clone() };
        if mounted.plan.find(PartitionRole::Root).is_none() {
            return Err(MountError::NoRoot);
        }
        for (place, device, fs) in mounted.places() {
            mount_one(&device, fs, &place)?;
        }
        Ok(mounted)
    }

    /// Mounts the EFI system partition, if the plan has one, and makes its mount point in the new root.
    pub(crate) fn mount_esp(&self) -> Result<Option<&'static Path>, MountError> {
        let Some(esp) = self.plan.find(PartitionRole::Esp) else { return Ok(None) };
        if let Some(mount) = &esp.mount {
            let place = inside(mount);
            fs::create_dir_all(&place).map_err(|error| MountError::Place(place, error))?;
        }
        let place = Path::new(ESP);
        mount_one(&format!("/dev/{}", esp.device_name(&self.disk.name)), FileSystem::Vfat, place)?;
        Ok(Some(place))
    }

    pub(crate) const fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) const fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn root(&self) -> &Path {
        Path::new(ROOT)
    }

    /// Flushes and unmounts everything.
    pub(crate) fn unmount(self) -> Result<(), MountError> {
        release()
    }

    /// Place, device and type of each file system but the ESP, root first and then by depth.
    fn places(&self) -> Vec<(PathBuf, String, FileSystem)> {
        let inner = self.plan.partitions().iter().filter(|partition| partition.role != PartitionRole::Esp);
        let mut places: Vec<(PathBuf, String, FileSystem)> = inner
            .filter_map(|partition| {
                let (fs, _) = partition.fs?;
                let mount = partition.mount.as_deref()?;
                Some((inside(mount), format!("/dev/{}", partition.device_name(&self.disk.name)), fs))
            })
            .collect();
        places.sort_by_key(|(place, ..)| place.components().count());
        places
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = release() {
            tracing::warn!("{}", crate::console::chain(&error));
        }
    }
}

fn inside(mount: &str) -> PathBuf {
    Path::new(ROOT).join(mount.trim_start_matches('/'))
}

fn mount_one(device: &str, fs: FileSystem, place: &Path) -> Result<(), MountError> {
    fs::create_dir_all(place).map_err(|error| MountError::Place(place.to_owned(), error))?;
    let word = fs.word();
    mount(Some(device), place, Some(word), MsFlags::MS_NOATIME, None::<&str>).map_err(|source| {
        MountError::Mount { device: device.to_owned(), fs: word, place: place.to_owned(), source }
    })
}

/// Unmounts the ESP and everything at and below the new root, also what an earlier agent of this boot left.
pub(crate) fn release() -> Result<(), MountError> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    for place in below(&mounts, ESP).into_iter().chain(below(&mounts, ROOT)) {
        unmount_one(&place)?;
    }
    Ok(())
}

fn unmount_one(place: &Path) -> Result<(), MountError> {
    let deadline = Instant::now() + UNMOUNT_LIMIT;
    loop {
        match umount2(place, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(POLL),
            Err(error) => return Err(MountError::Unmount(place.to_owned(), error)),
        }
    }
}

/// Mount points at and below `root`, the last mounted first.
fn below(mounts: &str, root: &str) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        // Our own mount points have no character that the kernel writes in octal; those of an image may.
        .map(|place| PathBuf::from(unescape(place)))
        .filter(|place| place.starts_with(root))
        .collect();
    places.reverse();
    places
}

/// `\040` and the like, as the kernel writes spaces, tabs, newlines and backslashes (fs/proc_namespace.c).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_left_in_the_reverse_order_and_others_stay() {
        let mounts = "proc /proc proc rw 0 0\n/dev/sda3 /mnt/root ext4 rw 0 0\n/dev/sda4 /mnt/root/srv ext4 rw 0 0\n\
            udev /mnt/root/a\\040b tmpfs rw 0 0\n/dev/sdb /mnt/rootkit ext4 rw 0 0\n";
        let places: Vec<String> =
            below(mounts, ROOT).into_iter().map(|place| place.display().to_string()).collect();
        assert_eq!(places, ["/mnt/root/a b", "/mnt/root/srv", "/mnt/root"]);
    }
}
