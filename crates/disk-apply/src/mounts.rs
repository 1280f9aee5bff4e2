//! The new file systems, mounted below [`ROOT`], and unmounted again whatever happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk_layout::{FileSystem, PartitionRole, Plan, PlannedFileSystem};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::format::Formatted;

/// Where the new root is mounted.
const ROOT: &str = "/mnt/root";
/// Where the EFI system partition is mounted: not inside the root, because the image's own loaders lie at that
/// place and must be neither hidden nor in reach of the firmware before the commit point.
const ESP: &str = "/mnt/esp";
/// Where a file system is mounted for a moment.
const ASIDE: &str = "/mnt/aside";
/// A file system is busy for a moment after its last writer closed.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// A file system that cannot be mounted or left.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The place.
    #[error("making {0}")]
    Place(PathBuf, #[source] std::io::Error),
    /// The mount.
    #[error("mounting {device} ({fs}) on {place}")]
    Mount {
        /// Name of the device, without `/dev/`.
        device: String,
        /// Kind of file system.
        fs: &'static str,
        /// Where it was to be.
        place: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The end of it.
    #[error("unmounting {0}")]
    Unmount(PathBuf, #[source] Errno),
    /// The second ESP.
    #[error("copying the EFI system partition to /dev/{0}")]
    Copy(String, #[source] std::io::Error),
    /// A plan without a root, which plans cannot be.
    #[error("the plan has no root file system")]
    NoRoot,
}

/// Mounted file systems of one deployment; unmounts them and stops what is below them when dropped.
#[derive(Debug)]
pub struct Mounted {
    plan: Plan,
}

/// One thing to mount.
struct Place<'p> {
    path: PathBuf,
    one: &'p PlannedFileSystem,
    subvolume: Option<&'p str>,
}

impl Mounted {
    /// Mounts the root and everything inside it that is new; the ESP follows in [`Self::mount_esp`]. What is kept stays
    /// unmounted, so that nothing of an image gets into it.
    ///
    /// # Errors
    /// A file system cannot be mounted; those that were are unmounted again.
    pub fn mount(formatted: Formatted) -> Result<Self, MountError> {
        let mounted = Self { plan: formatted.plan };
        if mounted.plan.file_system(PartitionRole::Root).is_none() {
            return Err(MountError::NoRoot);
        }
        for place in mounted.places().iter().filter(|place| !place.one.kept) {
            let options = options(place);
            mount_one(&place.one.device, place.one.fs, &place.path, options.as_deref())?;
        }
        Ok(mounted)
    }

    /// Mounts the EFI system partition, if the plan has one, and makes the mount points in the new root that nothing was
    /// mounted on.
    ///
    /// # Errors
    /// It cannot be mounted, or a mount point cannot be made.
    pub fn mount_esp(&self) -> Result<Option<&'static Path>, MountError> {
        for place in self.places().into_iter().filter(|place| place.one.kept) {
            fs::create_dir_all(&place.path).map_err(|error| MountError::Place(place.path, error))?;
        }
        let Some(esp) = self.plan.file_system(PartitionRole::Esp) else { return Ok(None) };
        if let Some(mount) = &esp.mount {
            let place = inside(mount);
            fs::create_dir_all(&place).map_err(|error| MountError::Place(place, error))?;
        }
        let place = Path::new(ESP);
        mount_one(&esp.device, FileSystem::Vfat, place, None)?;
        Ok(Some(place))
    }

    /// Gives every other disk that has an ESP what the first one holds, so that each boots alone.
    ///
    /// # Errors
    /// A copy cannot be mounted, or does not hold what was written.
    pub fn copy_esp(&self) -> Result<(), MountError> {
        let Some(esp) = self.plan.file_system(PartitionRole::Esp) else { return Ok(()) };
        for copy in &esp.copies {
            let place = mount_aside(copy, FileSystem::Vfat)?;
            let copied = copy_folder(Path::new(ESP), &place).and_then(|()| flush_and_forget(&place));
            let copied = copied.and_then(|()| compare_folders(Path::new(ESP), &place));
            copied.map_err(|error| MountError::Copy(copy.clone(), error))?;
            unmount_aside()?;
            tracing::info!("/dev/{copy} holds what /dev/{} does", esp.device);
        }
        Ok(())
    }

    /// What the disks were made by.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The disks, for people.
    #[must_use]
    pub fn disks(&self) -> String {
        self.plan.disks().iter().map(|disk| format!("/dev/{}", disk.name)).collect::<Vec<_>>().join(" ")
    }

    /// Where the root is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        Path::new(ROOT)
    }

    /// Flushes and unmounts everything.
    ///
    /// # Errors
    /// Something is still in use after 20 s.
    pub fn unmount(self) -> Result<(), MountError> {
        self.leave()
    }

    fn leave(&self) -> Result<(), MountError> {
        unmount_all()?;
        if self.plan.is_stacked() {
            super::stack::stop_all(Path::new("/sys/class/block"));
        }
        Ok(())
    }

    /// Everything but the ESP, root first and then by depth.
    fn places(&self) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        for one in self.plan.file_systems().iter().filter(|one| one.role != PartitionRole::Esp) {
            let whole = one.mount.iter().map(|mount| Place { path: inside(mount), one, subvolume: None });
            let parts = one.subvolumes.iter();
            let parts =
                parts.map(|part| Place { path: inside(&part.mount), one, subvolume: Some(&part.name) });
            places.extend(whole.chain(parts));
        }
        places.sort_by_key(|place| place.path.components().count());
        places
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            tracing::warn!("{:#}", anyhow::Error::new(error));
        }
    }
}

fn inside(mount: &str) -> PathBuf {
    Path::new(ROOT).join(mount.trim_start_matches('/'))
}

/// What the kernel has to know while the image is written: which subvolume, and whether it compresses.
fn options(place: &Place<'_>) -> Option<String> {
    if place.one.fs != FileSystem::Btrfs {
        return None;
    }
    let given = place.one.options.as_deref().unwrap_or_default().split(',');
    let mut options: Vec<String> =
        given.filter(|option| option.starts_with("compress")).map(str::to_owned).collect();
    options.extend(place.subvolume.map(|name| format!("subvol={name}")));
    (!options.is_empty()).then(|| options.join(","))
}

fn mount_one(device: &str, fs: FileSystem, place: &Path, options: Option<&str>) -> Result<(), MountError> {
    mount_with(device, fs, place, (MsFlags::empty(), options))
}

fn mount_with(
    device: &str,
    fs: FileSystem,
    place: &Path,
    (flags, options): (MsFlags, Option<&str>),
) -> Result<(), MountError> {
    fs::create_dir_all(place).map_err(|error| MountError::Place(place.to_owned(), error))?;
    let (word, device) = (fs.word(), format!("/dev/{device}"));
    mount(Some(device.as_str()), place, Some(word), flags | MsFlags::MS_NOATIME, options)
        .map_err(|source| MountError::Mount { device, fs: word, place: place.to_owned(), source })
}

/// Mounts a file system for a moment, away from the new root.
pub(super) fn mount_aside(device: &str, fs: FileSystem) -> Result<PathBuf, MountError> {
    mount_one(device, fs, Path::new(ASIDE), None)?;
    Ok(PathBuf::from(ASIDE))
}

/// Mounts a file system for a moment so that nothing of it changes: not even its journal is played.
pub(super) fn look_aside(device: &str, fs: FileSystem) -> Result<PathBuf, MountError> {
    let options = match fs {
        FileSystem::Ext4 => Some("noload"),
        FileSystem::Xfs => Some("norecovery"),
        FileSystem::Btrfs => Some("rescue=nologreplay"),
        FileSystem::Vfat | FileSystem::Swap => None,
    };
    mount_with(device, fs, Path::new(ASIDE), (MsFlags::MS_RDONLY, options))?;
    Ok(PathBuf::from(ASIDE))
}

/// Ends [`mount_aside`] and [`look_aside`]; everything written is on the disk then.
pub(super) fn unmount_aside() -> Result<(), MountError> {
    unmount_one(Path::new(ASIDE))
}

/// FAT has neither owners nor links: names and contents are all.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Hands everything written at and below `root` to the disk, whatever file systems are mounted there.
///
/// # Errors
/// A disk did not take what was written.
pub fn flush(root: &Path) -> std::io::Result<()> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts")?;
    // `root` itself is no mount point in tests, and may be a part of one.
    for place in below(&mounts, root).into_iter().chain([root.to_owned()]) {
        match fs::File::open(&place) {
            Ok(folder) => rustix::fs::syncfs(&folder)?,
            // One that a chroot left in the meantime.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// As [`flush`], and nothing of it stays in memory, so that reading it reads the disk.
///
/// # Errors
/// As [`flush`].
pub fn flush_and_forget(root: &Path) -> std::io::Result<()> {
    flush(root)?;
    // Without it reading still finds what the kernel believes to be on the disk.
    if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3") {
        tracing::warn!("dropping caches: {error}");
    }
    Ok(())
}

/// Whether what was copied can be read again.
fn compare_folders(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            compare_folders(&entry.path(), &to)?;
        } else if fs::read(entry.path())? != fs::read(&to)? {
            let what = format!("{} does not hold what was written; the disk is failing", to.display());
            return Err(std::io::Error::other(what));
        }
    }
    Ok(())
}

/// Unmounts what an earlier agent of this boot left and stops what it lay on. Only for the boot environment: on any other
/// machine arrays and volumes are somebody's.
///
/// # Errors
/// Something is still in use after 20 s.
pub fn release() -> Result<(), MountError> {
    unmount_all()?;
    super::stack::stop_all(Path::new("/sys/class/block"));
    Ok(())
}

/// Unmounts the ESP and everything at and below the new root, whoever mounted it.
pub(super) fn unmount_all() -> Result<(), MountError> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    for place in [ASIDE, ESP, ROOT].into_iter().flat_map(|root| below(&mounts, Path::new(root))) {
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
fn below(mounts: &str, root: &Path) -> Vec<PathBuf> {
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
            below(mounts, Path::new(ROOT)).into_iter().map(|place| place.display().to_string()).collect();
        assert_eq!(places, ["/mnt/root/a b", "/mnt/root/srv", "/mnt/root"]);
    }
}
