//! A plan as a GUID partition table on bytes, written by the `gpt` crate and read back.
//!
//! What the crate leaves to its caller is done here: the protective MBR, without which the kernel ignores the
//! table; alignment and size, which come from the plan; numbers 1 to n without gaps, since it renumbers others.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use disk_layout::{PlannedDisk, PlannedPartition};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};
use gpt::{GptConfig, GptDisk};

/// A partition table that could not be written or is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The device refused.
    #[error("writing the partition table")]
    Write(#[source] gpt::GptError),
    /// The disk does not take it.
    #[error("writing the partition table")]
    Flush(#[source] io::Error),
    /// The boot sector.
    #[error("writing the protective boot sector")]
    ProtectiveMbr(#[source] gpt::mbr::MBRError),
    /// Reading back failed.
    #[error("reading the partition table back")]
    Read(#[source] gpt::GptError),
    /// Something else came back.
    #[error("the disk does not hold the partition table that was written ({0}); it is failing")]
    Differs(&'static str),
    /// The plan is for other sectors.
    #[error("a plan for sectors of {0} bytes cannot be written")]
    Sectors(u32),
}

/// What a table can be written to.
pub(crate) trait Device: Read + Write + Seek + std::fmt::Debug {
    /// Returns when everything written lies on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Device for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Writes protective MBR and both tables, reads them back and returns the device, not yet synced.
///
/// The second table is on the disk before the first is touched: at every moment one of them, old or new, is whole, so
/// that a power cut loses no partition that is kept.
pub(crate) fn write<D: Device>(device: D, plan: &PlannedDisk) -> Result<D, TableError> {
    let sector_bytes = plan.sector_bytes;
    let lb_size = match sector_bytes {
        512 => LogicalBlockSize::Lb512,
        4096 => LogicalBlockSize::Lb4096,
        other => return Err(TableError::Sectors(other)),
    };
    let mut staged = Staged { device, at: 0, written: BTreeMap::new() };
    // Larger disks say "all of 32 bits" (UEFI 2.10 section 5.2.3).
    let protected = u32::try_from(plan.size_bytes / u64::from(sector_bytes) - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(protected).overwrite_lba0(&mut staged).map_err(TableError::ProtectiveMbr)?;
    let config = GptConfig::new().writable(true).logical_block_size(lb_size);
    let mut table = config.create_from_device(staged, Some(plan.guid)).map_err(TableError::Write)?;
    table.update_partitions(entries(plan)).map_err(TableError::Write)?;
    let staged = table.write().map_err(TableError::Write)?;
    let device = staged.finish(plan.size_bytes / 2).map_err(TableError::Flush)?;
    read_back(device, lb_size, plan)
}

/// Keeps what is written until all of it is known. Entries are few and small.
#[derive(Debug)]
struct Staged<D> {
    device: D,
    at: u64,
    written: BTreeMap<u64, Vec<u8>>,
}

impl<D: Device> Staged<D> {
    /// Writes what lies from `middle` on, and when that is on the disk the rest.
    fn finish(mut self, middle: u64) -> io::Result<D> {
        let second = self.written.split_off(&middle);
        for part in [second, self.written] {
            for (at, bytes) in part {
                self.device.seek(SeekFrom::Start(at))?;
                self.device.write_all(&bytes)?;
            }
            self.device.sync()?;
        }
        Ok(self.device)
    }
}

impl<D: Device> Write for Staged<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.insert(self.at, bytes.to_vec());
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D: Device> Read for Staged<D> {
    /// The device with what was written over it: the `gpt` crate reads entries back to sum them up.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.seek(SeekFrom::Start(self.at))?;
        let count = self.device.read(buffer)?;
        for (at, bytes) in &self.written {
            for (offset, byte) in (*at..).zip(bytes) {
                let place = offset.checked_sub(self.at).and_then(|place| usize::try_from(place).ok());
                if let Some(slot) = place.and_then(|place| buffer.get_mut(..count)?.get_mut(place)) {
                    *slot = *byte;
                }
            }
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl<D: Device> Seek for Staged<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(_) => self.device.seek(to)?,
            SeekFrom::Current(by) => self.at.saturating_add_signed(by),
        };
        Ok(self.at)
    }
}

fn entries(plan: &PlannedDisk) -> BTreeMap<u32, Partition> {
    let entry = |planned: &PlannedPartition| Partition {
        part_type_guid: Type { guid: planned.type_guid, os: OperatingSystem::None },
        part_guid: planned.guid,
        first_lba: planned.first_lba,
        last_lba: planned.last_lba,
        flags: 0,
        name: planned.name.clone(),
    };
    plan.partitions.iter().map(|planned| (planned.number, entry(planned))).collect()
}

fn read_back<D: Device>(device: D, lb_size: LogicalBlockSize, plan: &PlannedDisk) -> Result<D, TableError> {
    let config = GptConfig::new().writable(false).only_valid_headers(true).logical_block_size(lb_size);
    let found: GptDisk<D> = config.open_from_device(device).map_err(TableError::Read)?;
    if *found.guid() != plan.guid {
        return Err(TableError::Differs("disk GUID"));
    }
    if found.backup_header().is_err() {
        return Err(TableError::Differs("backup table"));
    }
    let used: Vec<(u32, &Partition)> = found
        .partitions()
        .iter()
        .filter(|(_, partition)| partition.is_used())
        .map(|(id, p)| (*id, p))
        .collect();
    if used.len() != plan.partitions.len() {
        return Err(TableError::Differs("number of partitions"));
    }
    for (planned, (id, partition)) in plan.partitions.iter().zip(used) {
        let same = planned.number == id
            && planned.guid == partition.part_guid
            && planned.type_guid == partition.part_type_guid.guid
            && planned.first_lba == partition.first_lba
            && planned.last_lba == partition.last_lba
            && planned.name == partition.name;
        if !same {
            return Err(TableError::Differs("a partition"));
        }
    }
    Ok(found.take_device())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::path::Path;
    use std::process::Command;

    use disk_layout::{Disk, Layout, Plan, Seeds};

    use super::*;

    fn plan(size_bytes: u64, sector: u32) -> PlannedDisk {
        let disk = Disk {
            name: "sda".into(),
            size_bytes,
            logical_sector_bytes: sector,
            physical_sector_bytes: 4096,
            ..Disk::default()
        };
        let seeds = Seeds { image_id: [1; 32], fresh: [2; 32] };
        Plan::make(&Layout::default(), &disk, &seeds).unwrap().disks()[0].clone()
    }

    fn image(path: &Path, size_bytes: u64) -> File {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.set_len(size_bytes).unwrap();
        file
    }

    /// A loop device over a file, with its own sector size; gone when dropped.
    struct Loop(String);

    impl Loop {
        fn attach(image: &Path, sector: u32) -> Option<Self> {
            let sector = sector.to_string();
            let output =
                Command::new("losetup").args(["-b", &sector, "-f", "--show"]).arg(image).output().ok()?;
            output.status.success().then(|| Self(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["-d", &self.0]).status();
        }
    }

    fn verify_by_sgdisk(device: &str) {
        let Ok(output) = Command::new("sgdisk").args(["-v", "-p", device]).output() else {
            eprintln!("skipped: sgdisk is not installed");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("No problems found"), "{text}");
        assert!(!text.contains("Caution") && !text.contains("Warning"), "{text}");
        for name in ["esir-bios-boot", "esir-esp", "esir-root"] {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn sgdisk_finds_no_problem_with_512_byte_sectors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        let size = 3 << 30;
        write(image(&path, size), &plan(size, 512)).unwrap();
        verify_by_sgdisk(path.to_str().unwrap());
    }

    #[test]
    fn sgdisk_finds_no_problem_with_4096_byte_sectors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        let size = 3 << 30;
        drop(image(&path, size));
        // A file has sectors of 512 bytes for sgdisk; only a device says otherwise.
        let Some(device) = Loop::attach(&path, 4096) else {
            eprintln!("skipped: no loop device with sectors of 4096 bytes here");
            return;
        };
        let file = OpenOptions::new().read(true).write(true).open(&device.0).unwrap();
        write(file, &plan(size, 4096)).unwrap().sync_all().unwrap();
        verify_by_sgdisk(&device.0);
    }

    #[test]
    fn disk_that_swallows_writes_is_noticed() {
        #[derive(Debug)]
        struct Swallows(std::io::Cursor<Vec<u8>>);
        impl Read for Swallows {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(buffer)
            }
        }
        impl Write for Swallows {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let length = i64::try_from(bytes.len()).unwrap();
                self.0.seek(std::io::SeekFrom::Current(length))?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        impl Seek for Swallows {
            fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
                self.0.seek(to)
            }
        }
        impl Device for Swallows {
            fn sync(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let size = 700 << 20;
        let device = Swallows(std::io::Cursor::new(vec![0; size]));
        let size = u64::try_from(size).unwrap();
        assert!(matches!(write(device, &plan(size, 512)), Err(TableError::Read(_))));
    }

    /// A disk whose power goes after so many writes; what was written since the last flush may be there or not.
    #[derive(Debug)]
    struct Cut {
        image: std::io::Cursor<Vec<u8>>,
        writes_left: usize,
    }

    impl Read for Cut {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.image.read(buffer)
        }
    }

    impl Write for Cut {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.writes_left == 0 {
                return Err(std::io::Error::other("the power is gone"));
            }
            self.writes_left -= 1;
            self.image.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Cut {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.image.seek(to)
        }
    }

    impl Device for &mut Cut {
        fn sync(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn power_cut_at_any_write_leaves_one_whole_table_with_what_is_kept() {
        let size = 700_usize << 20;
        let layout: Layout = serde_json::from_value(serde_json::json!({ "partition": [
            { "role": "root", "size": 300 }, { "name": "data", "keep": true, "mount": "/data" },
        ]}))
        .unwrap();
        let bytes = u64::try_from(size).unwrap();
        let blank =
            Disk { name: "sda".into(), size_bytes: bytes, logical_sector_bytes: 512, ..Disk::default() };
        let plan = |fresh| {
            let seeds = Seeds { image_id: [1; 32], fresh: [fresh; 32] };
            Plan::make(&layout, &blank, &seeds).unwrap().disks()[0].clone()
        };
        let (old, new) = (plan(2), plan(3));
        let mut disk = Cut { image: std::io::Cursor::new(vec![0; size]), writes_left: usize::MAX };
        write(&mut disk, &old).unwrap();
        for writes in 0.. {
            // From the old table on each time.
            disk.writes_left = usize::MAX;
            write(&mut disk, &old).unwrap();
            disk.writes_left = writes;
            let done = write(&mut disk, &new).is_ok();
            let found = crate::partitions::partitions(&mut disk, bytes, 512);
            let guids: Vec<_> = found.iter().map(|one| one.guid).collect();
            let whole = |plan: &PlannedDisk| plan.partitions.iter().all(|one| guids.contains(&one.guid));
            assert!(whole(&old) || whole(&new), "after {writes} writes there is neither table");
            if done {
                assert!(whole(&new) && writes > 4, "{writes}");
                break;
            }
        }
    }
}
