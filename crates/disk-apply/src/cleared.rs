//! The token of danger: disks that the task's own rule chose, that nobody uses, and that are ours to overwrite.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk_layout::{ChooseError, Disk, Layout, PartitionRole, Plan, PlanError, PlannedDisk, Seeds, choose};
use image_format::Toc;
use nix::errno::Errno;
use nix::libc;

use super::older::OlderSystem;
use super::table::{self, TableError};
use crate::sys::block;

/// What is wiped at both ends of the disk and of each old and new partition: tables, RAID and LVM labels, file
/// systems' superblocks (ZFS and md 1.0 have theirs at the end).
const WIPE_BYTES: u64 = 1 << 20;
/// Further copies of btrfs' superblock, 4 KiB each (fs/btrfs/disk-io.h).
const BTRFS_COPIES: [u64; 2] = [64 << 20, 256 << 30];
const BTRFS_COPY_BYTES: u64 = 4096;
/// Written at once.
const WIPE_STEP_BYTES: usize = 64 << 10;
/// udev does not exist here; a kernel thread that still probes the disk is done in less.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// devtmpfs makes nodes at once; NVMe namespaces took up to a second under load.
const NODE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// Code of the boot sector, before what Windows and the table have there (UEFI 2.10 section 5.2.1).
const BOOT_CODE_BYTES: u64 = 440;
/// What a GPT holds, for forgetting old partitions one by one.
const PARTITIONS_MAX: u32 = 128;
/// sysfs counts in these whatever the disk's sectors are.
const SYSFS_SECTOR_BYTES: u64 = 512;

/// Why no disk may be or could be partitioned.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// The rule gave none.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// The layout does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something on this machine has it.
    #[error("/dev/{disk} is in use by {holder}; nothing was written")]
    InUse {
        /// Name of the disk, without `/dev/`.
        disk: String,
        /// The device above it.
        holder: String,
    },
    /// Nobody could write it, and opening it for writing says nothing of that.
    #[error("/dev/{0} is write-protected; nothing was written")]
    Protected(String),
    /// It cannot be opened exclusively.
    #[error("opening /dev/{disk} for us alone")]
    Open {
        /// Name of the disk, without `/dev/`.
        disk: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is not the size that the kernel said.
    #[error("/dev/{disk} has {found} bytes now and had {expected} when it was chosen; nothing was written")]
    Changed {
        /// Name of the disk, without `/dev/`.
        disk: String,
        /// Bytes when it was chosen.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// It refuses writes.
    #[error("{doing} /dev/{disk}")]
    Write {
        /// What was being done.
        doing: &'static str,
        /// Name of the disk, without `/dev/`.
        disk: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The table.
    #[error("/dev/{disk}")]
    Table {
        /// Name of the disk, without `/dev/`.
        disk: String,
        /// What of it failed.
        #[source]
        source: TableError,
    },
    /// The kernel does not take the new table.
    #[error("the kernel does not read the new partition table of /dev/{disk}")]
    Reread {
        /// Name of the disk, without `/dev/`.
        disk: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Not the disks that the older system was found on.
    #[error("the disks are not those that the older system was found on; nothing was written")]
    Moved,
    /// A device does not appear.
    #[error("/dev/{0} does not appear after partitioning")]
    NoNode(String),
}

/// A disk that may be overwritten, opened for us alone.
#[derive(Debug)]
struct ClearedDisk {
    device: File,
}

/// Every disk of a layout. The only way to them is the layout's own rule.
#[derive(Debug)]
pub struct ClearedDisks {
    disks: Vec<ClearedDisk>,
    plan: Plan,
}

/// Disks with the plan's partitions, each of which has a device.
#[derive(Debug)]
pub struct Partitioned {
    pub(super) plan: Plan,
    /// The root's file system is there already and stays.
    pub(super) has_root: bool,
}

impl ClearedDisks {
    /// Chooses by the layout's rule, refuses on any doubt, and opens exclusively. Nothing is written.
    ///
    /// # Errors
    /// Why no disk may be written.
    pub fn open(layout: &Layout, disks: &[Disk], seeds: &Seeds) -> Result<Self, ClearError> {
        let chosen = choose(layout, disks)?;
        let plan = Plan::on(layout, &chosen, seeds)?;
        let disks = chosen.disks().map(ClearedDisk::open).collect::<Result<_, _>>()?;
        Ok(Self { disks, plan })
    }

    /// What will be written.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Wipes, writes the tables and waits for the partitions' devices.
    ///
    /// # Errors
    /// A disk refuses, or the kernel does not take its new table.
    pub fn partition(self) -> Result<Partitioned, ClearError> {
        let Self { disks, plan } = self;
        for (disk, planned) in disks.into_iter().zip(plan.disks()) {
            disk.partition(planned)?;
        }
        Ok(Partitioned { plan, has_root: false })
    }

    /// Takes away what PC firmware starts and keeps everything else. UEFI starts what the EFI system partition has, which
    /// is made anew next.
    ///
    /// # Errors
    /// These are other disks, or one refuses.
    pub fn disarm(self, older: OlderSystem) -> Result<(Partitioned, Toc), ClearError> {
        let OlderSystem { anew, in_place, table, .. } = older;
        if self.plan != anew {
            return Err(ClearError::Moved);
        }
        for (disk, planned) in self.disks.iter().zip(in_place.disks()) {
            disk.disarm(planned).map_err(|source| ClearError::Write {
                doing: "wiping the boot loader of",
                disk: planned.name.clone(),
                source,
            })?;
        }
        Ok((Partitioned { plan: in_place, has_root: true }, table))
    }
}

impl ClearedDisk {
    fn open(disk: &Disk) -> Result<Self, ClearError> {
        let name = &disk.name;
        if let Some(holder) = find_holder(Path::new("/sys/class/block"), name) {
            return Err(ClearError::InUse { disk: name.clone(), holder });
        }
        let protected = fs::read_to_string(Path::new("/sys/class/block").join(name).join("ro"));
        if protected.is_ok_and(|text| text.trim() != "0") {
            return Err(ClearError::Protected(name.clone()));
        }
        // O_EXCL fails when the disk or a partition of it is mounted, swap, or claimed by md, dm or LVM.
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(Path::new("/dev").join(name))
            .map_err(|source| ClearError::Open { disk: name.clone(), source })?;
        let found = io::Seek::seek(&mut &device, io::SeekFrom::End(0))
            .map_err(|source| ClearError::Open { disk: name.clone(), source })?;
        if found != disk.size_bytes {
            return Err(ClearError::Changed { disk: name.clone(), expected: disk.size_bytes, found });
        }
        Ok(Self { device })
    }

    fn disarm(&self, plan: &PlannedDisk) -> io::Result<()> {
        wipe(&self.device, 0, BOOT_CODE_BYTES)?;
        let sector = u64::from(plan.sector_bytes);
        for one in plan.partitions.iter().filter(|one| one.role == PartitionRole::BiosBoot && !one.kept) {
            for range in ends(one.first_lba * sector, (one.last_lba + 1) * sector) {
                wipe(&self.device, range.start, range.end - range.start)?;
            }
        }
        self.device.sync_all()
    }

    fn partition(self, plan: &PlannedDisk) -> Result<(), ClearError> {
        let disk = &plan.name;
        let failed = |doing| move |source| ClearError::Write { doing, disk: disk.clone(), source };
        let old = old_partitions(Path::new("/sys/class/block"), disk);
        for range in wipe_ranges(plan, &old) {
            wipe(&self.device, range.start, range.end - range.start)
                .map_err(failed("wiping old signatures of"))?;
        }
        self.device.sync_all().map_err(failed("wiping old signatures of"))?;
        let device = table::write(self.device, plan)
            .map_err(|source| ClearError::Table { disk: disk.clone(), source })?;
        device.sync_all().map_err(failed("writing the partition table of"))?;
        announce(&device, plan).map_err(|source| ClearError::Reread { disk: disk.clone(), source })?;
        // Whoever makes file systems claims the partitions, which the claim on the whole disk would refuse.
        drop(device);
        for partition in &plan.partitions {
            let name = &partition.device;
            wait_for_node(name, partition.size_bytes(plan.sector_bytes))
                .ok_or_else(|| ClearError::NoNode(name.clone()))?;
        }
        Ok(())
    }
}

/// Zeros at both ends of a fresh device of our own, on which something is made next.
pub(super) fn wipe_device(name: &str) -> io::Result<()> {
    let device =
        OpenOptions::new().write(true).custom_flags(libc::O_EXCL).open(Path::new("/dev").join(name))?;
    let size = io::Seek::seek(&mut &device, io::SeekFrom::End(0))?;
    for range in ends(0, size) {
        wipe(&device, range.start, range.end - range.start)?;
    }
    device.sync_all()
}

/// Where the kernel sees partitions now, in bytes: whatever table they come from.
fn old_partitions(class_block: &Path, disk: &str) -> Vec<Range<u64>> {
    let entries = fs::read_dir(class_block.join(disk)).into_iter().flatten().flatten();
    entries.filter_map(|entry| partition_at(&entry.path())).collect()
}

/// Where the kernel sees this partition of a disk, in bytes; `None` where it sees none.
pub(super) fn partition_on_kernel(disk: &str, partition: &str) -> Option<Range<u64>> {
    partition_at(&Path::new("/sys/class/block").join(disk).join(partition))
}

fn partition_at(place: &Path) -> Option<Range<u64>> {
    let number = |name: &str| fs::read_to_string(place.join(name)).ok()?.trim().parse::<u64>().ok();
    number("partition")?;
    let start = number("start")?.checked_mul(SYSFS_SECTOR_BYTES)?;
    let bytes = number("size")?.checked_mul(SYSFS_SECTOR_BYTES)?;
    Some(start..start.checked_add(bytes)?)
}

/// What is wiped, in this order: what is in old and new partitions, the end of the disk, and its beginning last: until
/// then the old table still says whose it was. Nothing of what is kept; where something is, the table stays until the
/// new one takes its place.
fn wipe_ranges(plan: &PlannedDisk, old: &[Range<u64>]) -> Vec<Range<u64>> {
    let sector = u64::from(plan.sector_bytes);
    let bytes_of = |one: &disk_layout::PlannedPartition| one.first_lba * sector..(one.last_lba + 1) * sector;
    let (kept, new): (Vec<_>, Vec<_>) = plan.partitions.iter().partition(|one| one.kept);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for part in old.iter().cloned().chain(new.into_iter().map(bytes_of)) {
        ranges.extend(ends(part.start, part.end));
        let copies = BTRFS_COPIES.iter().map(|copy| part.start.saturating_add(*copy));
        ranges.extend(copies.filter(|at| *at < part.end).map(|at| at..at.saturating_add(BTRFS_COPY_BYTES)));
    }
    ranges.extend(BTRFS_COPIES.iter().map(|copy| *copy..copy + BTRFS_COPY_BYTES));
    let end = plan.size_bytes;
    if kept.is_empty() {
        ranges.extend([end - WIPE_BYTES.min(end)..end, 0..WIPE_BYTES.min(end)]);
    }
    let kept: Vec<Range<u64>> = kept.into_iter().map(bytes_of).collect();
    let inside = ranges.into_iter().map(|range| range.start.min(end)..range.end.min(end));
    inside.flat_map(|range| without(range, &kept)).filter(|range| !range.is_empty()).collect()
}

/// The first and the last bytes of a stretch, the last first.
fn ends(start: u64, end: u64) -> [Range<u64>; 2] {
    let length = WIPE_BYTES.min(end.saturating_sub(start));
    [end.saturating_sub(length)..end, start..start.saturating_add(length)]
}

/// What of a range lies outside of all `holes`.
fn without(range: Range<u64>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = vec![range];
    for hole in holes {
        let cut = |one: Range<u64>| {
            [one.start..one.end.min(hole.start).max(one.start), one.start.max(hole.end).min(one.end)..one.end]
        };
        left = left.into_iter().flat_map(cut).filter(|one| !one.is_empty()).collect();
    }
    left
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
fn announce(device: &File, plan: &PlannedDisk) -> Result<(), Errno> {
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match block::reread_partitions(device) {
            // A kernel that knows no GPT finds nothing and says nothing.
            Ok(()) if plan.partitions.iter().all(|one| is_known(&one.device)) => return Ok(()),
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
    let sector = u64::from(plan.sector_bytes);
    for partition in &plan.partitions {
        let start = partition.first_lba * sector;
        block::add_partition(device, partition.number, start, partition.size_bytes(plan.sector_bytes))?;
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
        let size = fs::read_to_string(&size_file).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if size == Some(bytes / SYSFS_SECTOR_BYTES) && node.exists() {
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
