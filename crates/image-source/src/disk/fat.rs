//! FAT12, FAT16 and FAT32 with long names, for reading (Microsoft, "FAT: General Overview of On-Disk Format").
//!
//! Every cluster belongs to one file or directory only, so no chain can go on for ever and no tree be endless.

use std::ops::Range;

use image_format::Timestamp;

use super::fields::{le16, le32};
use crate::blocks::ReadAt;
use crate::error::{At, Result, SourceError, malformed, printable, unsupported};

/// Clusters that are looked at: those of a FAT32 of 256 GiB with the usual 16 KiB.
const CLUSTERS_MAX: u64 = 16 << 20;
/// Bytes of one directory, as the specification bounds it.
const DIRECTORY_BYTES_MAX: usize = 65536 * 32;
/// Directories in directories; FAT has no bound, paths of Windows and Linux do.
const DEPTH_MAX: usize = 64;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTE_LONG_NAME: u8 = 0x0F;

/// A name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FatEntry {
    /// Path components.
    pub names: Vec<Vec<u8>>,
    /// Whether it is a directory; else a file.
    pub is_directory: bool,
    /// Bytes of a file.
    pub size: u64,
    /// Last change; FAT knows two seconds and no time zone, which is taken for UTC.
    pub changed: Timestamp,
    /// Where a file's data lies, in order; together `size` bytes.
    pub data: Vec<Range<u64>>,
}

/// An opened FAT.
pub struct Fat<'a> {
    read: &'a ReadAt<'a>,
    /// The file allocation table itself.
    table: Vec<u8>,
    bits: u32,
    cluster_bytes: u64,
    clusters: u64,
    /// First byte of cluster 2.
    data_start: u64,
    root: Root,
    /// Which clusters belong to somebody already.
    taken: Vec<bool>,
}

enum Root {
    Fixed(Range<u64>),
    Cluster(u64),
}

impl<'a> Fat<'a> {
    /// Reads the boot sector and the table of a partition of `len` bytes.
    ///
    /// # Errors
    /// What cannot be a FAT of that size.
    pub fn open(read: &'a ReadAt<'a>, len: u64) -> Result<Self> {
        let mut boot = vec![0; 512];
        read(0, &mut boot)?;
        let wrong = |what: &str| malformed(format!("its FAT's boot sector is wrong: {what}"));
        let sector = u64::from(le16(&boot, 11));
        let cluster_sectors = u64::from(boot.get(13).copied().unwrap_or_default());
        if !(512..=4096).contains(&sector) || !sector.is_power_of_two() || !cluster_sectors.is_power_of_two()
        {
            return Err(wrong("sectors or clusters of impossible size"));
        }
        let reserved = u64::from(le16(&boot, 14));
        let copies = u64::from(boot.get(16).copied().unwrap_or_default());
        let root_entries = u64::from(le16(&boot, 17));
        let either = |small: u16, large: u32| if small == 0 { u64::from(large) } else { u64::from(small) };
        let sectors = either(le16(&boot, 19), le32(&boot, 32));
        let table_sectors = either(le16(&boot, 22), le32(&boot, 36));
        if reserved == 0 || copies == 0 || table_sectors == 0 || sectors * sector > len {
            return Err(wrong("it is larger than its partition, or has no table"));
        }
        let root_start = reserved + copies * table_sectors;
        let root_sectors = (root_entries * 32).div_ceil(sector);
        let data_sectors = sectors.checked_sub(root_start + root_sectors);
        let clusters = data_sectors.ok_or_else(|| wrong("its table is larger than it"))? / cluster_sectors;
        if clusters > CLUSTERS_MAX {
            return Err(SourceError::TooMany { what: "clusters", limit: CLUSTERS_MAX });
        }
        let bits = match clusters {
            0..4085 => 12,
            4085..65525 => 16,
            _ => 32,
        };
        let needed = ((clusters + 2) * u64::from(bits)).div_ceil(8);
        if needed > table_sectors * sector {
            return Err(wrong("its table is smaller than its clusters need"));
        }
        let mut table = vec![0; usize::try_from(needed).unwrap_or(usize::MAX)];
        read(reserved * sector, &mut table)?;
        let root = if bits == 32 {
            Root::Cluster(u64::from(le32(&boot, 44)))
        } else {
            Root::Fixed(root_start * sector..(root_start + root_sectors) * sector)
        };
        Ok(Self {
            read,
            table,
            bits,
            cluster_bytes: cluster_sectors * sector,
            clusters,
            data_start: (root_start + root_sectors) * sector,
            root,
            taken: vec![false; usize::try_from(clusters).unwrap_or_default()],
        })
    }

    /// All names, a directory before what is in it.
    ///
    /// # Errors
    /// Damage, named by its path; names that are no text.
    pub fn entries(mut self) -> Result<Vec<FatEntry>> {
        let root = match self.root {
            Root::Fixed(ref range) => vec![range.clone()],
            Root::Cluster(first) => self.chain(first)?,
        };
        let mut found = Vec::new();
        let mut pending = vec![(Vec::new(), root)];
        while let Some((names, data)) = pending.pop() {
            let place = || format!("/{}", printable(&names.join(&b'/')));
            if names.len() > DEPTH_MAX {
                return Err(malformed("directories are nested too deep")).at(place);
            }
            for (entry, first) in self.read_directory(&names, &data).at(place)? {
                let shown = || format!("/{}", printable(&entry.names.join(&b'/')));
                if entry.is_directory {
                    let data = self.chain(first).at(shown)?;
                    pending.push((entry.names.clone(), data));
                    found.push(entry);
                } else {
                    let data = self.file_data(first, entry.size).at(shown)?;
                    found.push(FatEntry { data, ..entry });
                }
            }
        }
        found.sort_by(|a, b| a.names.cmp(&b.names));
        Ok(found)
    }

    fn file_data(&mut self, first: u64, size: u64) -> Result<Vec<Range<u64>>> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut data = Vec::new();
        let mut left = size;
        for range in self.chain(first)? {
            let len = left.min(range.end - range.start);
            if len > 0 {
                data.push(range.start..range.start + len);
            }
            left -= len;
        }
        if left > 0 { Err(malformed("its chain of clusters ends before its data")) } else { Ok(data) }
    }

    /// Where the clusters from `first` on lie, those side by side as one.
    fn chain(&mut self, first: u64) -> Result<Vec<Range<u64>>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut cluster = first;
        loop {
            let index = cluster.checked_sub(2).filter(|index| *index < self.clusters);
            let taken = index.and_then(|index| self.taken.get_mut(usize::try_from(index).ok()?));
            let (Some(index), Some(taken)) = (index, taken) else {
                return Err(malformed(format!("its chain of clusters leads to {cluster}, which is none")));
            };
            if std::mem::replace(taken, true) {
                return Err(malformed(format!(
                    "cluster {cluster} belongs to two files; check it with fsck.fat"
                )));
            }
            let start = self.data_start + index * self.cluster_bytes;
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end += self.cluster_bytes,
                _ => ranges.push(start..start + self.cluster_bytes),
            }
            let next = self.next(cluster);
            if next >= self.end_mark() {
                return Ok(ranges);
            }
            cluster = next;
        }
    }

    const fn end_mark(&self) -> u64 {
        match self.bits {
            12 => 0xFF8,
            16 => 0xFFF8,
            _ => 0x0FFF_FFF8,
        }
    }

    fn next(&self, cluster: u64) -> u64 {
        let index = usize::try_from(cluster).unwrap_or(usize::MAX / 8);
        match self.bits {
            12 => {
                let pair = u64::from(le16(&self.table, index + index / 2));
                if index % 2 == 0 { pair & 0xFFF } else { pair >> 4 }
            }
            16 => u64::from(le16(&self.table, index * 2)),
            _ => u64::from(le32(&self.table, index * 4) & 0x0FFF_FFFF),
        }
    }

    /// The entries of one directory, each with its first cluster.
    fn read_directory(&self, names: &[Vec<u8>], data: &[Range<u64>]) -> Result<Vec<(FatEntry, u64)>> {
        let mut bytes = Vec::new();
        for range in data {
            let old = bytes.len();
            let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            if old.saturating_add(len) > DIRECTORY_BYTES_MAX.saturating_add(64 << 10) {
                return Err(malformed("the directory is too large"));
            }
            bytes.resize(old + len, 0);
            (self.read)(range.start, bytes.get_mut(old..).unwrap_or_default())?;
        }
        let mut found = Vec::new();
        let mut long = LongName::default();
        for slot in bytes.chunks_exact(32) {
            let (first, attributes) = (le16(slot, 0).to_le_bytes()[0], le16(slot, 11).to_le_bytes()[0]);
            match (first, attributes) {
                (0, _) => break,
                (0xE5, _) => long = LongName::default(),
                (_, ATTRIBUTE_LONG_NAME) => long.add(slot),
                _ => {
                    let name = std::mem::take(&mut long).finish(slot);
                    if attributes & ATTRIBUTE_VOLUME != 0 || slot.starts_with(b".") {
                        continue;
                    }
                    let name = name.map_or_else(|| short_name(slot), Ok)?;
                    let mut names = names.to_vec();
                    names.push(name);
                    let is_directory = attributes & ATTRIBUTE_DIRECTORY != 0;
                    let high = if self.bits == 32 { u64::from(le16(slot, 20)) << 16 } else { 0 };
                    let size = if is_directory { 0 } else { u64::from(le32(slot, 28)) };
                    let changed = time(le16(slot, 24), le16(slot, 22));
                    let entry = FatEntry { names, is_directory, size, changed, data: Vec::new() };
                    found.push((entry, high | u64::from(le16(slot, 26))));
                }
            }
        }
        Ok(found)
    }
}

/// The parts of a long name that come before its entry, the last one first.
#[derive(Default)]
struct LongName {
    /// By sequence number.
    parts: Vec<Option<Vec<u16>>>,
    checksum: u8,
}

impl LongName {
    fn add(&mut self, slot: &[u8]) {
        const LAST: u8 = 0x40;
        let order = slot.first().copied().unwrap_or_default();
        let number = usize::from(order & 0x1F);
        let checksum = slot.get(13).copied().unwrap_or_default();
        if order & LAST != 0 {
            *self = Self { parts: vec![None; number], checksum };
        }
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        let units: Vec<u16> = places.map(|at| le16(slot, at)).collect();
        match number.checked_sub(1).and_then(|index| self.parts.get_mut(index)) {
            Some(part) if checksum == self.checksum => *part = Some(units),
            _ => *self = Self::default(),
        }
    }

    /// The name, if all its parts were there and belong to this entry.
    fn finish(self, slot: &[u8]) -> Option<Vec<u8>> {
        let sum = slot.iter().take(11).fold(0_u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte));
        let units: Vec<u16> = self.parts.into_iter().collect::<Option<Vec<_>>>()?.concat();
        let end = units.iter().position(|&unit| unit == 0).unwrap_or(units.len());
        let name = String::from_utf16(units.get(..end)?).ok()?;
        let usable = sum == self.checksum && !name.is_empty() && !name.contains('/');
        (usable && name != "." && name != "..").then(|| name.into_bytes())
    }
}

/// `GRUBX64 EFI` -> `GRUBX64.EFI`; lower case where Windows noted that the person wrote so.
fn short_name(slot: &[u8]) -> Result<Vec<u8>> {
    const BASE_IS_LOWER: u8 = 0x08;
    const SUFFIX_IS_LOWER: u8 = 0x10;
    let case = slot.get(12).copied().unwrap_or_default();
    let part = |from: usize, to: usize, is_lower: bool| -> Vec<u8> {
        let part = slot.get(from..to).unwrap_or_default();
        let end = part.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
        let part = part.get(..end).unwrap_or_default();
        if is_lower { part.to_ascii_lowercase() } else { part.to_vec() }
    };
    let mut name = part(0, 8, case & BASE_IS_LOWER != 0);
    let suffix = part(8, 11, case & SUFFIX_IS_LOWER != 0);
    if !suffix.is_empty() {
        name.push(b'.');
        name.extend(suffix);
    }
    if name.is_empty() || !name.iter().all(|byte| (0x21..0x7F).contains(byte) && *byte != b'/') {
        let shown = printable(&name);
        return Err(unsupported(format!(
            "the name {shown} is in a code page of DOS; give it a long name first"
        )));
    }
    Ok(name)
}

fn time(date: u16, time: u16) -> Timestamp {
    let (year, month, day) = (i64::from(date >> 9) + 1980, i64::from(date >> 5 & 15), i64::from(date & 31));
    // Days since 1970 of the civil date, by the usual count of years from March on.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day.max(1) - 719_469;
    let (hours, minutes, twos) = (i64::from(time >> 11), i64::from(time >> 5 & 63), i64::from(time & 31));
    Timestamp { seconds: days * 86_400 + hours * 3600 + minutes * 60 + twos * 2, nanoseconds: 0 }
}

#[cfg(test)]
mod tests;
