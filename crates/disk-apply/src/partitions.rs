//! The partitions of a GUID partition table, from whichever of its two copies is whole.
//!
//! The `gpt` crate gives up when the first copy's header is right and its entries are not, which a power cut in the
//! middle of writing leaves; and it ends the program at entries of an unusual size.

use std::fmt::Debug;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use disk_layout::FoundPartition;
use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition;
use gpt::{DiskDevice, GptConfig};

/// Bytes of an entry, and how many at most are read; every known tool makes 128.
const ENTRY_BYTES: u32 = 128;
const ENTRIES_MAX: u32 = 1024;
/// Where a header says how many entries there are, and behind that how large (UEFI 2.10 section 5.3.2).
const COUNT_OFFSET: u64 = 80;

/// The partitions of the table on a device of this size, none where both copies are damaged.
#[must_use]
pub fn partitions<D: DiskDevice>(device: &mut D, size_bytes: u64, sector_bytes: u32) -> Vec<FoundPartition> {
    let lb_size = match sector_bytes {
        512 => LogicalBlockSize::Lb512,
        4096 => LogicalBlockSize::Lb4096,
        _ => return Vec::new(),
    };
    let sector = u64::from(sector_bytes);
    let Some(last) = size_bytes.checked_sub(sector) else { return Vec::new() };
    for (header, other) in [(sector, last), (last, sector)] {
        if !has_usual_entries(device, header) {
            continue;
        }
        let config = GptConfig::new().writable(false).logical_block_size(lb_size);
        let view = OneCopy { device, at: 0, hidden: other..other + sector };
        if let Ok(table) = config.open_from_device(view) {
            return table.partitions().values().filter(|one| one.is_used()).map(found).collect();
        }
    }
    Vec::new()
}

fn found(partition: &Partition) -> FoundPartition {
    FoundPartition {
        name: partition.name.clone(),
        guid: partition.part_guid,
        first_lba: partition.first_lba,
        last_lba: partition.last_lba,
        signatures: Vec::new(),
    }
}

fn has_usual_entries<D: DiskDevice>(device: &mut D, header: u64) -> bool {
    let mut bytes = [0; 8];
    let read =
        device.seek(SeekFrom::Start(header + COUNT_OFFSET)).and_then(|_| device.read_exact(&mut bytes));
    let [a, b, c, d, e, f, g, h] = bytes;
    let (count, size) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    read.is_ok() && count <= ENTRIES_MAX && size == ENTRY_BYTES
}

/// A device with one header hidden.
#[derive(Debug)]
struct OneCopy<'d, D> {
    device: &'d mut D,
    at: u64,
    hidden: Range<u64>,
}

impl<D: DiskDevice> Read for OneCopy<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.seek(SeekFrom::Start(self.at))?;
        let count = self.device.read(buffer)?;
        for (at, byte) in (self.at..).zip(buffer.iter_mut().take(count)) {
            if self.hidden.contains(&at) {
                *byte = 0;
            }
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl<D: DiskDevice> Seek for OneCopy<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Current(by) => self.at.saturating_add_signed(by),
            to => self.device.seek(to)?,
        };
        Ok(self.at)
    }
}

/// The `gpt` crate asks for it also to read.
impl<D: Debug> Write for OneCopy<'_, D> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 8 << 20;

    fn disk(count_of_entries: u32, entry_bytes: u32) -> io::Cursor<Vec<u8>> {
        let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
        let mut device = io::Cursor::new(vec![0; SIZE]);
        let mut table = config.create_from_device(&mut device, None).unwrap();
        table.add_partition("esir-root", 1 << 20, gpt::partition_types::LINUX_FS, 0, None).unwrap();
        table.write().unwrap();
        let bytes = device.get_mut();
        bytes[592..596].copy_from_slice(&count_of_entries.to_le_bytes());
        bytes[596..600].copy_from_slice(&entry_bytes.to_le_bytes());
        device
    }

    fn check(mut disk: io::Cursor<Vec<u8>>, expected: &[&str]) {
        let found = partitions(&mut disk, SIZE as u64, 512);
        assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn either_copy_is_enough() {
        check(disk(128, 128), &["esir-root"]);
        for damaged in [512, 1024, SIZE - 512, SIZE - 512 * 33] {
            let mut disk = disk(128, 128);
            disk.get_mut()[damaged + 40] ^= 1;
            check(disk, &["esir-root"]);
        }
        let mut both = disk(128, 128);
        both.get_mut()[1024 + 40] ^= 1;
        both.get_mut()[SIZE - 512 * 33 + 40] ^= 1;
        check(both, &[]);
    }

    #[test]
    fn unusual_entries_do_not_end_the_program() {
        for (count, bytes) in [(128, 256), (128, 0), (u32::MAX, 128), (u32::MAX, u32::MAX)] {
            check(disk(count, bytes), &["esir-root"]);
            let mut both = disk(count, bytes);
            both.get_mut().copy_within(512..600, SIZE - 512);
            check(both, &[]);
        }
    }
}
