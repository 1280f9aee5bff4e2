//! XFS: all but what its trees of free space by block number say. Never replays its log: one that is not empty is
//! refused.
//!
//! Layout: "XFS Algorithms & Data Structures", third edition, chapters "Superblocks", "AG Free Space Management",
//! "Journaling Log".

use std::ops::Range;

use super::{BlocksError, Found, RUNS_MAX, ReadAt, united};

const KIND: &str = "xfs";
const SUPER_MAGIC: u32 = 0x5846_5342;
const GROUP_MAGIC: u32 = 0x5841_4746;
/// Blocks of the tree by block number: before version 5, and from it on.
const TREE_MAGICS: [u32; 2] = [0x4142_5442, 0x4142_3342];
const SUPER_BYTES: usize = 512;
/// Incompatible feature: something is known to be wrong.
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;
/// Least bytes of an allocation group, as mkfs.xfs makes them; so that their number is bounded.
const GROUP_BYTES_MIN: u64 = 16 << 20;
/// A pointer to nothing.
const NULL_BLOCK: u32 = u32::MAX;
const DEPTH_MAX: u32 = 9;

const LOG_BLOCK_BYTES: usize = 512;
const LOG_MAGIC: u32 = 0xFEED_BABE;
/// Bytes that one header of a record covers.
const LOG_HEADER_COVERS: u32 = 32 << 10;
/// Flag of an operation in the log: the file system was unmounted.
const LOG_UNMOUNTED: u8 = 0x20;
/// As the kernel's `XFS_MAX_LOG_BYTES`.
const LOG_BYTES_MAX: u64 = 1 << 31;

/// Nothing if it is another file system.
pub(super) fn find(read: &ReadAt<'_>, len: u64) -> Result<Option<Found>, BlocksError> {
    if len < SUPER_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; SUPER_BYTES];
    read(0, &mut bytes)?;
    let fields = Fields(&bytes);
    if fields.u32(0) != SUPER_MAGIC {
        return Ok(None);
    }
    let is_version_5 = fields.u16(100) & 0xF == 5;
    if is_version_5 && fields.u32(216) & INCOMPAT_NEEDS_REPAIR != 0 {
        return Err(BlocksError::Dirty(KIND));
    }
    let shape = Shape::read(&fields, len)?;
    if shape.log_blocks == 0 || fields.u64(48) == 0 {
        // The log is on another device, and nobody knows what is in it.
        return Ok(Some(Found { kind: KIND, used: None }));
    }
    shape.log_is_empty(read, fields.u64(48))?;
    let mut used = Vec::new();
    for group in 0..shape.groups {
        shape.add_used(read, group, &mut used)?;
    }
    Ok(Some(Found { kind: KIND, used: Some(united(used)) }))
}

/// Big-endian fields; what lies outside is 0.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        self.0.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> u64 {
        self.0.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

/// What the superblock says, checked.
struct Shape {
    block_bytes: u64,
    sector_bytes: u64,
    blocks: u64,
    group_blocks: u64,
    groups: u64,
    /// Bits of a block number that are the block within its group.
    group_bits: u32,
    log_blocks: u64,
}

impl Shape {
    fn read(fields: &Fields<'_>, len: u64) -> Result<Self, BlocksError> {
        let wrong = |what| Err(BlocksError::Contradiction(what));
        let (block_bytes, sector_bytes) = (u64::from(fields.u32(4)), u64::from(fields.u16(102)));
        let (blocks, group_blocks, groups) =
            (fields.u64(8), u64::from(fields.u32(84)), u64::from(fields.u32(88)));
        if !(512..=65_536).contains(&block_bytes) || !block_bytes.is_power_of_two() {
            return wrong("blocks of an impossible size");
        }
        if !(512..=32_768).contains(&sector_bytes) || !sector_bytes.is_power_of_two() {
            return wrong("sectors of an impossible size");
        }
        if blocks.checked_mul(block_bytes).is_none_or(|end| end > len) {
            return wrong("it is larger than what it lies in");
        }
        if group_blocks * block_bytes < GROUP_BYTES_MIN && groups > 1
            || groups == 0
            || blocks.div_ceil(group_blocks.max(1)) != groups
        {
            return wrong("allocation groups of an impossible size");
        }
        let (group_bits, log_blocks) = (u32::from(fields.u16(124) >> 8), u64::from(fields.u32(96)));
        if group_bits > 31 || group_blocks > 1 << group_bits || log_blocks * block_bytes > LOG_BYTES_MAX {
            return wrong("its log or its groups are of an impossible size");
        }
        Ok(Self { block_bytes, sector_bytes, blocks, group_blocks, groups, group_bits, log_blocks })
    }

    fn add_used(&self, read: &ReadAt<'_>, group: u64, used: &mut Vec<Range<u64>>) -> Result<(), BlocksError> {
        let first = group * self.group_blocks;
        let blocks = self.group_blocks.min(self.blocks - first);
        let mut bytes = vec![0; SUPER_BYTES];
        read(first * self.block_bytes + self.sector_bytes, &mut bytes)?;
        let header = Fields(&bytes);
        if header.u32(0) != GROUP_MAGIC || u64::from(header.u32(12)) != blocks {
            return Err(BlocksError::Contradiction("an allocation group is not what the superblock says"));
        }
        let mut at = 0;
        let mut free = 0;
        self.each_free(read, first, &header, &mut |start, count| {
            let (start, end) = (u64::from(start), u64::from(start) + u64::from(count));
            if start < at || count == 0 || end > blocks || used.len() > RUNS_MAX {
                return Err(BlocksError::Contradiction(
                    "free space overlaps, lies outside or is in too many pieces",
                ));
            }
            used.push((first + at) * self.block_bytes..(first + start) * self.block_bytes);
            (at, free) = (end, free + u64::from(count));
            Ok(())
        })?;
        used.push((first + at) * self.block_bytes..(first + blocks) * self.block_bytes);
        if free != u64::from(header.u32(52)) {
            return Err(BlocksError::Contradiction(
                "an allocation group counts other free blocks than it lists",
            ));
        }
        Ok(())
    }

    /// The leaves of the tree from left to right, each with the free runs that it lists.
    fn each_free(
        &self,
        read: &ReadAt<'_>,
        first: u64,
        header: &Fields<'_>,
        each: &mut dyn FnMut(u32, u32) -> Result<(), BlocksError>,
    ) -> Result<(), BlocksError> {
        let wrong = || BlocksError::Contradiction("its tree of free space is damaged");
        let (mut block, mut level) = (header.u32(16), header.u32(28));
        if level == 0 || level > DEPTH_MAX {
            return Err(wrong());
        }
        let mut bytes = vec![0; usize::try_from(self.block_bytes).unwrap_or_default()];
        let mut at_root = true;
        loop {
            if u64::from(block) >= self.group_blocks || block == 0 {
                return Err(wrong());
            }
            read((first + u64::from(block)) * self.block_bytes, &mut bytes)?;
            let node = Fields(&bytes);
            let (records, right) = (usize::from(node.u16(6)), node.u32(12));
            let head = match TREE_MAGICS.iter().position(|magic| *magic == node.u32(0)) {
                Some(0) => 16,
                Some(_) => 56,
                None => return Err(wrong()),
            };
            level -= u32::from(level > 0);
            if u32::from(node.u16(4)) != level || records == 0 && !(at_root && level == 0) {
                return Err(wrong());
            }
            at_root = false;
            if level > 0 {
                // Keys of eight bytes, as many as there is room for, then pointers of four.
                let room = (bytes.len() - head) / 12;
                block = node.u32(head + room * 8);
                continue;
            }
            if records > (bytes.len() - head) / 8 {
                return Err(wrong());
            }
            for record in 0..records {
                each(node.u32(head + record * 8), node.u32(head + record * 8 + 4))?;
            }
            // Every leaf lists more, ascending, so there is an end.
            if right == NULL_BLOCK {
                return Ok(());
            }
            block = right;
        }
    }

    /// Whether the newest record of the log is that of an unmount.
    fn log_is_empty(&self, read: &ReadAt<'_>, start: u64) -> Result<(), BlocksError> {
        let (group, block) = (start >> self.group_bits, start & ((1 << self.group_bits) - 1));
        let first = group.checked_mul(self.group_blocks).map(|first| first.saturating_add(block));
        let inside = |first: &u64| first.saturating_add(self.log_blocks) <= self.blocks;
        let first = first.filter(inside).ok_or(BlocksError::Contradiction("its log lies outside"))?;
        let (mut at, end) = (first * self.block_bytes, (first + self.log_blocks) * self.block_bytes);
        let begin = at;
        let mut newest: Option<(u64, u64, bool)> = None;
        let mut bytes = vec![0; 1 << 20];
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(bytes.len());
            let part = bytes.get_mut(..wanted).unwrap_or_default();
            read(at, part)?;
            for (offset, record) in (at..).step_by(LOG_BLOCK_BYTES).zip(part.chunks(LOG_BLOCK_BYTES)) {
                let header = Fields(record);
                let number = header.u64(16);
                if header.u32(0) == LOG_MAGIC && newest.is_none_or(|(newest, ..)| number > newest) {
                    let covered = header.u32(320).max(1).div_ceil(LOG_HEADER_COVERS);
                    let headers = if header.u32(8) & 2 == 0 { 1 } else { u64::from(covered) };
                    let data = offset + headers * LOG_BLOCK_BYTES as u64;
                    newest = Some((number, data, header.u32(40) == 1));
                }
            }
            at += wanted as u64;
        }
        let Some((_, data, true)) = newest else { return Err(BlocksError::Dirty(KIND)) };
        // The log is a ring.
        let data = if data >= end { begin + (data - end) % (end - begin) } else { data };
        let mut operation = [0; LOG_BLOCK_BYTES];
        read(data, &mut operation)?;
        let [.., flags] = *operation.first_chunk::<10>().unwrap_or(&[0; 10]);
        if flags & LOG_UNMOUNTED == 0 { Err(BlocksError::Dirty(KIND)) } else { Ok(()) }
    }
}
