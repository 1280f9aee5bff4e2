//! The token of danger: a disk that the task's own rule chose, that nobody uses, and that is ours to overwrite.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk_layout::{ChooseError, Disk, Layout, Plan, PlanError, Seeds, choose};
use nix::errno::Errno;
use nix::libc;

use super::table::{self, TableError};
use crate::sys::block;

/// What is wiped at both ends of the disk and of each new partition: old tables, RAID and LVM labels, file
/// systems' superblocks (ZFS and md 1.0 have theirs at the end).
const WIPE_BYTES: u64 = 1 << 20;
/// Written at once.
const WIPE_STEP_BYTES: usize = 64 << 10;
/// udev does not exist here; a kernel thread that still probes the disk is done in less.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// devtmpfs makes nodes at once; NVMe namespaces took up to a second under load.
const NODE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// What a GPT holds, for forgetting old partitions one by one.
const PARTITIONS_MAX: u32 = 128;

/// Why no disk may be or could be partitioned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClearError {
    /// The rule gave none.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// The layout does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something in this boot environment has it.
    #[error("/dev/{disk} is in use by {holder}; nothing was written")]
    InUse { disk: String, holder: String },
    /// It cannot be opened exclusively.
    #[error("opening /dev/{disk} for us alone")]
    Open {
        disk: String,
        #[source]
        source: io::Error,
    },
    /// It is not the size that the kernel said.
    #[error("/dev/{disk} has {found} bytes now and had {expected} when it was chosen; nothing was written")]
    Changed { disk: String, expected: u64, found: u64 },
    /// It refuses writes.
    #[error("{doing} /dev/{disk}")]
    Write {
        doing: &'static str,
        disk: String,
        #[source]
        source: io::Error,
    },
    /// The table.
    #[error("/dev/{disk}")]
    Table {
        disk: String,
        #[source]
        source: TableError,
    },
    /// The kernel does not take the new table.
    #[error("the kernel does not read the new partition table of /dev/{disk}")]
    Reread {
        disk: String,
        #[source]
        source: Errno,
    },
    /// A device does not appear.
    #[error("/dev/{0} does not appear after partitioning")]
    NoNode(String),
}

/// A disk that this task may overwrite, opened for us alone. The only way to one is the task's own rule.
#[derive(Debug)]
pub(crate) struct ClearedDisk {
    device: File,
    disk: Disk,
    plan: Plan,
}

/// A disk with the plan's partitions, each of which has a device.
#[derive(Debug)]
pub(crate) struct Partitioned {
    plan: Plan,
    disk: Disk,
}

impl ClearedDisk {
    /// Chooses by the layout's rule, refuses on any doubt, and opens exclusively. Nothing is written.
    pub(crate) fn open(layout: &Layout, disks: &[Disk], seeds: &Seeds) -> Result<Self, ClearError> {
        let disk = choose(layout, disks)?.clone();
        let plan = Plan::make(layout, &disk, seeds)?;
        let name = disk.name.clone();
        if let Some(holder) = find_holder(Path::new("/sys/class/block"), &name) {
            return Err(ClearError::InUse { disk: name, holder });
        }
        // O_EXCL fails when the disk or a partition of it is mounted, swap, or claimed by md, dm or LVM.
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(Path::new("/dev").join(&name))
            .map_err(|source| ClearError::Open { disk: name.clone(), source })?;
        let found = io::Seek::seek(&mut &device, io::SeekFrom::End(0))
            .map_err(|source| ClearError::Open { disk: name.clone(), source })?;
        if found != disk.size_bytes {
            return Err(ClearError::Changed { disk: name, expected: disk.size_bytes, found });
        }
        Ok(Self { device, disk, plan })
    }

    /// What will be written.
    pub(crate) const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is known of the disk.
    pub(crate) const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Wipes, writes the table and waits for the partitions' devices.
    pub(crate) fn partition(self) -> Result<Partitioned, ClearError> {
        let disk = self.disk.name.clone();
        let failed = |doing| {
            let disk = disk.clone();
            move |source| ClearError::Write { doing, disk, source }
        };
        for (start, length) in wipe_ranges(&self.plan, self.disk.size_bytes) {
            wipe(&self.device, start, length).map_err(failed("wiping old signatures of"))?;
        }
        self.device.sync_all().map_err(failed("wiping old signatures of"))?;
        let device = table::write(self.device, &self.plan, self.disk.size_bytes)
            .map_err(|source| ClearError::Table { disk: disk.clone(), source })?;
        device.sync_all().map_err(failed("writing the partition table of"))?;
        announce(&device, &disk, &self.plan)
            .map_err(|source| ClearError::Reread { disk: disk.clone(), source })?;
        // Whoever makes file systems claims the partitions, which the claim on the whole disk would refuse.
        drop(device);
        for partition in self.plan.partitions() {
            let name = partition.device_name(&disk);
            let bytes = partition.size_bytes(self.plan.sector_bytes());
            wait_for_node(&name, bytes).ok_or(ClearError::NoNode(name))?;
        }
        Ok(Partitioned { plan: self.plan, disk: self.disk })
    }
}

impl Partitioned {
    pub(crate) const fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) const fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// The end of the disk first: until its beginning is wiped too, the old table still says whose it was.
fn wipe_ranges(plan: &Plan, disk_bytes: u64) -> Vec<(u64, u64)> {
    let sector = u64::from(plan.sector_bytes());
    let length = WIPE_BYTES.min(disk_bytes);
    let mut ranges = vec![(disk_bytes - length, length)];
    for partition in plan.partitions() {
        let start = partition.first_lba * sector;
        let bytes = partition.size_bytes(plan.sector_bytes());
        let length = WIPE_BYTES.min(bytes);
        ranges.push((start, length));
        ranges.push((start + bytes - length, length));
    }
    ranges.push((0, length));
    ranges
}

fn wipe(device: &File, start: u64, length: u64) -> io::Result<()> {
    let zeros = vec![0; WIPE_STEP_BYTES];
    let mut done = 0;
    while done < length {
        let step = usize::try_from(length - done).unwrap_or(usize::MAX).min(zeros.len());
        device.write_all_at(zeros.get(..step).unwrap_or_default(), start + done)?;
        done += u64::try_from(step).unwrap_or(length);
    }
    Ok(())
}

/// Makes the kernel know the new partitions: as a whole, else one by one.
fn announce(device: &File, disk: &str, plan: &Plan) -> Result<(), Errno> {
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match block::reread_partitions(device) {
            // A kernel that knows no GPT finds nothing and says nothing.
            Ok(()) if plan.partitions().iter().all(|one| is_known(&one.device_name(disk))) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(()) | Err(_) => break,
        }
    }
    // BLKRRPART refuses while any partition is open; BLKPG asks only about the one in question.
    for number in 1..=PARTITIONS_MAX {
        match block::delete_partition(device, number) {
            Ok(()) | Err(Errno::ENXIO | Errno::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let sector = u64::from(plan.sector_bytes());
    for partition in plan.partitions() {
        let start = partition.first_lba * sector;
        block::add_partition(device, partition.number, start, partition.size_bytes(plan.sector_bytes()))?;
    }
    Ok(())
}

fn is_known(partition: &str) -> bool {
    Path::new("/sys/class/block").join(partition).exists()
}

/// Waits until the device is there with the size that it should have.
fn wait_for_node(name: &str, bytes: u64) -> Option<()> {
    let size_file = PathBuf::from("/sys/class/block").join(name).join("size");
    let node = Path::new("/dev").join(name);
    let deadline = Instant::now() + NODE_LIMIT;
    while Instant::now() < deadline {
        // sysfs counts in 512 bytes whatever the sector is.
        let size = fs::read_to_string(&size_file).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if size == Some(bytes / 512) && node.exists() {
            return Some(());
        }
        std::thread::sleep(POLL);
    }
    None
}

/// Who holds the disk or a partition of it: md, dm, bcache.
fn find_holder(class_block: &Path, disk: &str) -> Option<String> {
    let directory = class_block.join(disk);
    let mut places = vec![directory.clone()];
    if let Ok(entries) = fs::read_dir(&directory) {
        places.extend(
            entries.flatten().map(|entry| entry.path()).filter(|path| path.join("partition").exists()),
        );
    }
    places.into_iter().find_map(|place| {
        let holder = fs::read_dir(place.join("holders")).ok()?.flatten().next()?;
        Some(holder.file_name().to_string_lossy().into_owned())
    })
}

#[cfg(test)]
mod tests;
