//! Partition tables: GPT (UEFI specification, chapter 5) and MBR with logical partitions.

use super::fields::{guid, le16, le32, le64};
use crate::blocks::ReadAt;
use crate::error::{Result, SourceError, malformed};

/// GPT entries that are read; the standard's least and everybody's number is 128.
const ENTRIES_MAX: u32 = 1024;
/// Logical partitions that are read; Linux numbers 256.
const LOGICAL_MAX: u32 = 128;
/// Sector sizes that disks have.
const SECTOR_BYTES: [u64; 2] = [512, 4096];

/// What a partition is for, by its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionType {
    /// GPT, in lower case with hyphens.
    Guid(String),
    /// MBR.
    Byte(u8),
    /// The disk has no table: the file system begins at its first byte.
    Whole,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// As Linux numbers it; 0 for a disk without a table.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// What for.
    pub kind: PartitionType,
    /// As `PARTUUID=` in fstab; empty without a table.
    pub id: String,
    /// As `PARTLABEL=`; GPT only.
    pub name: String,
}

impl Partition {
    /// EFI system partition.
    #[must_use]
    pub fn is_esp(&self) -> bool {
        self.kind == PartitionType::Byte(0xEF) || self.is_guid("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
    }

    /// Extended boot loader partition (UAPI group, Boot Loader Specification): `/boot`.
    #[must_use]
    pub fn is_extended_boot(&self) -> bool {
        self.kind == PartitionType::Byte(0xEA) || self.is_guid("bc13c2ff-59e6-4262-a352-b275fd6f7172")
    }

    fn is_guid(&self, wanted: &str) -> bool {
        matches!(&self.kind, PartitionType::Guid(guid) if guid == wanted)
    }
}

/// What a disk is divided into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `GPT`, `MBR` or `no partition table`.
    pub kind: &'static str,
    /// By number.
    pub partitions: Vec<Partition>,
}

/// Reads the table of a disk of `len` bytes.
///
/// # Errors
/// A GPT whose both copies are damaged, partitions outside the disk or over each other, absurd counts.
pub fn find_partitions(read: &ReadAt<'_>, len: u64) -> Result<Table> {
    let table = match find_gpt(read, len)? {
        Some(partitions) => Table { kind: "GPT", partitions },
        None => match find_mbr(read, len)? {
            Some(partitions) => Table { kind: "MBR", partitions },
            None => Table { kind: "no partition table", partitions: vec![whole(len)] },
        },
    };
    let mut sorted: Vec<&Partition> = table.partitions.iter().collect();
    sorted.sort_by_key(|partition| partition.start);
    for partition in &sorted {
        let inside = partition.start.checked_add(partition.len).is_some_and(|end| end <= len);
        if !inside {
            let number = partition.number;
            return Err(malformed(format!(
                "partition {number} ends behind the disk's end at byte {len}: the file is cut off, or not whole"
            )));
        }
    }
    for pair in sorted.windows(2) {
        if let [a, b] = pair
            && a.start + a.len > b.start
        {
            return Err(malformed(format!("partitions {} and {} lie over each other", a.number, b.number)));
        }
    }
    Ok(table)
}

fn whole(len: u64) -> Partition {
    let (id, name) = (String::new(), String::new());
    Partition { number: 0, start: 0, len, kind: PartitionType::Whole, id, name }
}

fn find_gpt(read: &ReadAt<'_>, len: u64) -> Result<Option<Vec<Partition>>> {
    let mut damaged = false;
    for sector in SECTOR_BYTES {
        let last = (len / sector).saturating_sub(1) * sector;
        for at in [sector, last] {
            let mut header = vec![0; 512];
            if at.checked_add(512).is_none_or(|end| end > len) {
                continue;
            }
            read(at, &mut header)?;
            if !header.starts_with(b"EFI PART") {
                continue;
            }
            match read_gpt(read, len, sector, &header)? {
                Some(partitions) => return Ok(Some(partitions)),
                None => damaged = true,
            }
        }
    }
    if damaged {
        return Err(malformed(
            "both copies of its GPT are damaged; mend a copy of the disk with sgdisk first",
        ));
    }
    Ok(None)
}

/// The partitions of a header whose checksums are right.
fn read_gpt(read: &ReadAt<'_>, len: u64, sector: u64, header: &[u8]) -> Result<Option<Vec<Partition>>> {
    let header_bytes = le32(header, 12) as usize;
    let Some(mut covered) = header.get(..header_bytes).map(<[u8]>::to_vec).filter(|it| it.len() >= 92) else {
        return Ok(None);
    };
    if let Some(field) = covered.get_mut(16..20) {
        field.fill(0);
    }
    let (count, entry_bytes) = (le32(header, 80), le32(header, 84));
    if crc32(&covered) != le32(header, 16) {
        return Ok(None);
    }
    if count > ENTRIES_MAX {
        return Err(SourceError::TooMany { what: "GPT entries", limit: u64::from(ENTRIES_MAX) });
    }
    if !(128..=4096).contains(&entry_bytes) {
        return Err(malformed(format!("GPT entries of {entry_bytes} bytes")));
    }
    let mut entries = vec![0; (count * entry_bytes) as usize];
    let at = le64(header, 72).checked_mul(sector);
    let Some(at) = at.filter(|at| at.checked_add(entries.len() as u64).is_some_and(|end| end <= len)) else {
        return Ok(None);
    };
    read(at, &mut entries)?;
    if crc32(&entries) != le32(header, 88) {
        return Ok(None);
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks(entry_bytes as usize)) {
        if entry.get(..16).is_none_or(|kind| kind.iter().all(|&byte| byte == 0)) {
            continue;
        }
        let (first, last) = (le64(entry, 32), le64(entry, 40));
        let impossible = || malformed(format!("partition {number} of the GPT has impossible bounds"));
        let sectors = last.checked_sub(first).and_then(|sectors| sectors.checked_add(1));
        let bytes = |sectors: u64| sectors.checked_mul(sector).ok_or_else(impossible);
        let name: Vec<u16> =
            (0..36).map(|at| le16(entry, 56 + 2 * at)).take_while(|&unit| unit != 0).collect();
        partitions.push(Partition {
            number,
            start: bytes(first)?,
            len: bytes(sectors.ok_or_else(impossible)?)?,
            kind: PartitionType::Guid(guid(entry, 0)),
            id: guid(entry, 16),
            name: String::from_utf16_lossy(&name),
        });
    }
    Ok(Some(partitions))
}

/// CRC-32 of IEEE 802.3, as the GPT has it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// One entry of an MBR: type, first sector, sectors.
fn mbr_entries(sector: &[u8]) -> Option<[(u8, u64, u64); 4]> {
    if sector.get(510..512) != Some(b"\x55\xaa") {
        return None;
    }
    let entry = |number: usize| {
        let at = 446 + 16 * number;
        let kind = sector.get(at + 4).copied().unwrap_or_default();
        (kind, u64::from(le32(sector, at + 8)), u64::from(le32(sector, at + 12)))
    };
    let is_flag = |number: usize| matches!(sector.get(446 + 16 * number), Some(0 | 0x80));
    (0..4).all(is_flag).then(|| [entry(0), entry(1), entry(2), entry(3)])
}

fn find_mbr(read: &ReadAt<'_>, len: u64) -> Result<Option<Vec<Partition>>> {
    let mut sector = vec![0; 512];
    if len < 512 {
        return Ok(None);
    }
    read(0, &mut sector)?;
    let Some(entries) = mbr_entries(&sector) else { return Ok(None) };
    // The boot sector of a FAT ends in the same two bytes.
    let is_entry = |&(kind, first, count): &(u8, u64, u64)| kind != 0 && first > 0 && count > 0;
    if !entries.iter().any(is_entry) || entries.iter().any(|entry| entry.0 != 0 && !is_entry(entry)) {
        return Ok(None);
    }
    let signature = le32(&sector, 440);
    let partition = |number: u32, kind, first: u64, count: u64| Partition {
        number,
        start: first * 512,
        len: count * 512,
        kind: PartitionType::Byte(kind),
        id: format!("{signature:08x}-{number:02x}"),
        name: String::new(),
    };
    let mut partitions = Vec::new();
    for (number, (kind, first, count)) in (1..).zip(entries) {
        match kind {
            0 => {}
            0xEE => {
                return Err(malformed(
                    "it has a protective MBR, but no GPT: the file is cut off, or not whole",
                ));
            }
            0x05 | 0x0F | 0x85 => {
                for (logical, (kind, first, count)) in (5..).zip(logical(read, len, first)?) {
                    partitions.push(partition(logical, kind, first, count));
                }
            }
            kind => partitions.push(partition(number, kind, first, count)),
        }
    }
    Ok(Some(partitions))
}

/// The chain of logical partitions from sector `extended` on.
fn logical(read: &ReadAt<'_>, len: u64, extended: u64) -> Result<Vec<(u8, u64, u64)>> {
    let mut found = Vec::new();
    let mut at = extended;
    for _ in 0..LOGICAL_MAX {
        let mut sector = vec![0; 512];
        if (at + 1) * 512 > len {
            return Err(malformed("a logical partition lies behind the disk's end"));
        }
        read(at * 512, &mut sector)?;
        let Some([(kind, first, count), (next_kind, next, _), ..]) = mbr_entries(&sector) else {
            return Err(malformed("the chain of its logical partitions is damaged"));
        };
        if kind != 0 && count > 0 {
            found.push((kind, at + first, count));
        }
        if next_kind == 0 || next == 0 {
            return Ok(found);
        }
        at = extended + next;
    }
    Err(SourceError::TooMany { what: "logical partitions", limit: u64::from(LOGICAL_MAX) })
}

#[cfg(test)]
mod tests;
