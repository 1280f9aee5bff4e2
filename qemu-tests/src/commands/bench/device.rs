//! A loop device over a file whose space is taken, and file systems that are made on it anew.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use qemu_tests::command::{output, run};
use qemu_tests::image::cache_dir;

/// Room for the tree of the image three times.
const BYTES: u64 = 4 << 30;

/// Gone with its file when dropped.
pub(super) struct LoopDevice {
    path: PathBuf,
    dir: PathBuf,
}

/// A file system that is mounted until this is dropped.
pub(super) struct MountedDevice(PathBuf);

fn work_dir() -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("bench-disk-{}", std::process::id())))
}

/// Takes down what a signal left.
pub(super) fn sweep_own() {
    let Ok(dir) = work_dir() else { return };
    let _ = umount2(&dir.join("mount"), MntFlags::MNT_DETACH);
    if let Ok(path) = fs::read_to_string(dir.join("device")) {
        let _ = Command::new("losetup").arg("--detach").arg(path).status();
    }
    let _ = fs::remove_dir_all(dir);
}

impl LoopDevice {
    pub(super) fn make() -> Result<Self> {
        // Mount namespaces that others make meanwhile would get copies of our mounts and keep the device busy.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context("leaving the mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("making mounts private")?;
        let dir = work_dir()?;
        fs::create_dir_all(dir.join("mount")).with_context(|| format!("making {}", dir.display()))?;
        let backing = dir.join("disk");
        let file = File::create(&backing)?;
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, BYTES.try_into()?)
            .context("taking 4 GiB of disk space")?;
        // Without it the data would be copied to memory a second time, and the disk's speed would not be seen.
        let direct = ["--find", "--show", "--direct-io=on"];
        let path = output(Command::new("losetup").args(direct).arg(&backing))?;
        fs::write(dir.join("device"), &path)?;
        Ok(Self { path: path.into(), dir })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where things may be kept that go with the device.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// An empty ext4, complete: no thread of the kernel goes on initialising it while others are measured.
    pub(super) fn make_file_system(&self) -> Result<MountedDevice> {
        let options = ["-F", "-q", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mke2fs").args(options).arg(&self.path))?;
        self.sync()?;
        self.mount()
    }

    pub(super) fn mount(&self) -> Result<MountedDevice> {
        let place = self.dir.join("mount");
        let source = Some(self.path.as_path());
        mount(source, &place, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>).context("mounting")?;
        Ok(MountedDevice(place))
    }

    /// Everything that was written to the device itself.
    pub(super) fn sync(&self) -> Result<()> {
        Ok(File::open(&self.path)?.sync_all()?)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        sweep_own();
    }
}

impl MountedDevice {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for MountedDevice {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::empty()) {
            eprintln!("unmounting {}: {error}", self.0.display());
        }
    }
}

/// Everything that was written to the file system that this is in.
pub(super) fn sync(place: &Path) -> Result<()> {
    let folder = File::open(place)?;
    nix::unistd::syncfs(&folder).context("syncing the file system")
}
