//! ext2, ext3 and ext4: what their block bitmaps say. Never reads inodes.
//!
//! Layout: <https://docs.kernel.org/filesystems/ext4/>, chapters "Super Block", "Block Group Descriptors".

use std::ops::Range;

use super::{BlocksError, Found, RUNS_MAX, ReadAt, united};

const SUPER_OFFSET: u64 = 1024;
const SUPER_BYTES: usize = 1024;
const MAGIC: u16 = 0xEF53;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_META_GROUPS: u32 = 0x10;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64_BIT: u32 = 0x80;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_BIGALLOC: u32 = 0x200;
/// In a group's flags: its bitmap was never written, only its metadata is in use.
const GROUP_BLOCKS_UNINITIALISED: u16 = 0x2;

/// In the superblock's state: unmounted cleanly; errors were seen.
const STATE_CLEAN: u16 = 0x1;
const STATE_ERRORS: u16 = 0x2;

/// Block groups that are looked at; 512 TiB of the usual 128 MiB.
const GROUPS_MAX: u64 = 4 << 20;

/// Nothing if it is another file system.
pub(super) fn find(read: &ReadAt<'_>, len: u64) -> Result<Option<Found>, BlocksError> {
    if len < SUPER_OFFSET + SUPER_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; SUPER_BYTES];
    read(SUPER_OFFSET, &mut bytes)?;
    let fields = Fields(&bytes);
    if fields.u16(0x38) != MAGIC {
        return Ok(None);
    }
    let (compat, incompat, state) = (fields.u32(0x5C), fields.u32(0x60), fields.u16(0x3A));
    let kind = match (incompat & INCOMPAT_EXTENTS != 0, compat & COMPAT_HAS_JOURNAL != 0) {
        (true, _) => "ext4",
        (false, true) => "ext3",
        (false, false) => "ext2",
    };
    if incompat & INCOMPAT_RECOVER != 0 || state & (STATE_CLEAN | STATE_ERRORS) != STATE_CLEAN {
        return Err(BlocksError::Dirty(kind));
    }
    // Group descriptors in many places, which only file systems grown beyond 16 TiB have; a journal for another one.
    if incompat & (INCOMPAT_META_GROUPS | INCOMPAT_JOURNAL_DEVICE) != 0 {
        return Ok(Some(Found { kind, used: None }));
    }
    let shape = Shape::read(&fields, len)?;
    let blocks = shape.used_blocks(read)?;
    let bytes = |range: Range<u64>| range.start * shape.block_bytes..range.end * shape.block_bytes;
    // What lies before the first block (the boot sector, with blocks of 1 KiB) is nobody's, and needed.
    let before = (shape.first_block > 0).then_some(0..shape.first_block);
    let used = united(before.into_iter().chain(blocks).map(bytes).collect());
    Ok(Some(Found { kind, used: Some(used) }))
}

/// Little-endian fields; what lies outside is 0.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        let bytes = self.0.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

/// What the superblock says, checked.
struct Shape {
    block_bytes: u64,
    blocks: u64,
    first_block: u64,
    /// Blocks per bit of a bitmap.
    cluster_blocks: u64,
    group_blocks: u64,
    groups: u64,
    descriptor_bytes: u64,
    inode_table_blocks: u64,
    reserved_descriptor_blocks: u64,
    /// Groups with a copy of superblock and descriptors beside group 0; `None` where a rule of numbers says it.
    backups: Option<[u64; 2]>,
    sparse_super: bool,
}

impl Shape {
    fn read(fields: &Fields<'_>, len: u64) -> Result<Self, BlocksError> {
        let wrong = |what| Err(BlocksError::Contradiction(what));
        let (compat, incompat, ro_compat) = (fields.u32(0x5C), fields.u32(0x60), fields.u32(0x64));
        let is_64_bit = incompat & INCOMPAT_64_BIT != 0;
        let (log_block, log_cluster) = (fields.u32(0x18), fields.u32(0x1C));
        if log_block > 6 {
            return wrong("blocks of more than 64 KiB");
        }
        let block_bytes = 1024 << log_block;
        let cluster_blocks = if ro_compat & RO_COMPAT_BIGALLOC == 0 {
            1
        } else {
            match log_cluster.checked_sub(log_block) {
                Some(log @ 0..=20) => 1_u64 << log,
                _ => return wrong("clusters of an impossible size"),
            }
        };
        let high = if is_64_bit { u64::from(fields.u32(0x150)) } else { 0 };
        let blocks = high << 32 | u64::from(fields.u32(0x4));
        let (first_block, group_blocks) = (u64::from(fields.u32(0x14)), u64::from(fields.u32(0x20)));
        if blocks.checked_mul(block_bytes).is_none_or(|end| end > len)
            || first_block > SUPER_OFFSET / block_bytes
            || blocks <= first_block
        {
            return wrong("it is larger than what it lies in, or has no blocks");
        }
        if group_blocks == 0 || group_blocks.div_ceil(cluster_blocks) > block_bytes * 8 {
            return wrong("a group has more blocks than its bitmap has bits");
        }
        let groups = (blocks - first_block).div_ceil(group_blocks);
        if groups > GROUPS_MAX {
            return wrong("it has too many groups");
        }
        let descriptor_bytes = if is_64_bit { u64::from(fields.u16(0xFE)) } else { 32 };
        if !(32..=1024).contains(&descriptor_bytes) || !descriptor_bytes.is_power_of_two() {
            return wrong("group descriptors of an impossible size");
        }
        let inode_bytes = if fields.u32(0x4C) == 0 { 128 } else { u64::from(fields.u16(0x58)) };
        let backups = [u64::from(fields.u32(0x24C)), u64::from(fields.u32(0x250))];
        Ok(Self {
            block_bytes,
            blocks,
            first_block,
            cluster_blocks,
            group_blocks,
            groups,
            descriptor_bytes,
            inode_table_blocks: (u64::from(fields.u32(0x28)) * inode_bytes).div_ceil(block_bytes),
            reserved_descriptor_blocks: u64::from(fields.u16(0xCE)),
            backups: (compat & COMPAT_SPARSE_SUPER2 != 0).then_some(backups),
            sparse_super: ro_compat & RO_COMPAT_SPARSE_SUPER != 0,
        })
    }

    /// Ranges of blocks, in no order.
    fn used_blocks(&self, read: &ReadAt<'_>) -> Result<Vec<Range<u64>>, BlocksError> {
        let table_blocks = (self.groups * self.descriptor_bytes).div_ceil(self.block_bytes);
        // With clusters, blocks of 1 KiB are counted from 0 as larger ones are; the superblock is where it always is.
        let super_block = SUPER_OFFSET / self.block_bytes;
        let table_offset = (super_block + 1) * self.block_bytes;
        let descriptor_bytes = usize::try_from(self.descriptor_bytes).unwrap_or(usize::MAX);
        let mut descriptor = vec![0; descriptor_bytes];
        let mut bitmap = vec![0; usize::try_from(self.block_bytes).unwrap_or(usize::MAX)];
        let mut used = Vec::new();
        for group in 0..self.groups {
            read(table_offset + group * self.descriptor_bytes, &mut descriptor)?;
            let fields = Fields(&descriptor);
            // The upper half is there in 64-byte descriptors, and else read as 0.
            let block = |low, high| u64::from(fields.u32(high)) << 32 | u64::from(fields.u32(low));
            let (bitmap_block, inode_bitmap, inode_table) =
                (block(0x0, 0x20), block(0x4, 0x24), block(0x8, 0x28));
            // A bitmap that was never written does not name what lies in its group, so that is always named here.
            for (start, count) in
                [(bitmap_block, 1), (inode_bitmap, 1), (inode_table, self.inode_table_blocks)]
            {
                used.push(self.inside(start, count)?);
            }
            let start = self.first_block + group * self.group_blocks;
            if self.has_super(group) {
                let count =
                    super_block - self.first_block + 1 + table_blocks + self.reserved_descriptor_blocks;
                used.push(start..(start + count).min(self.blocks));
            }
            if fields.u16(0x12) & GROUP_BLOCKS_UNINITIALISED == 0 {
                read(bitmap_block * self.block_bytes, &mut bitmap)?;
                let end = (start + self.group_blocks).min(self.blocks);
                if used.len() > RUNS_MAX {
                    return Err(BlocksError::Contradiction("what it uses is in too many pieces"));
                }
                add_set_bits(&mut used, &bitmap, self.cluster_blocks, start..end);
            }
        }
        Ok(used)
    }

    fn inside(&self, start: u64, count: u64) -> Result<Range<u64>, BlocksError> {
        let end = start.checked_add(count).filter(|&end| start > 0 && end <= self.blocks);
        end.map(|end| start..end).ok_or(BlocksError::Contradiction("a group's records lie outside"))
    }

    fn has_super(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if let Some(backups) = self.backups {
            return backups.contains(&group);
        }
        let is_power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        !self.sparse_super || group == 1 || [3, 5, 7].into_iter().any(is_power_of)
    }
}

/// The runs of ones in a bitmap whose first bit stands for the first blocks of `group`.
fn add_set_bits(used: &mut Vec<Range<u64>>, bitmap: &[u8], cluster_blocks: u64, group: Range<u64>) {
    let clusters = (group.end - group.start).div_ceil(cluster_blocks);
    let is_set = |bit: u64| {
        let byte = usize::try_from(bit / 8).ok().and_then(|at| bitmap.get(at)).copied().unwrap_or(0);
        byte >> (bit % 8) & 1 == 1
    };
    let mut begin = None;
    for bit in 0..=clusters {
        match (bit < clusters && is_set(bit), begin) {
            (true, None) => begin = Some(bit),
            (false, Some(first)) => {
                let end = (group.start + bit * cluster_blocks).min(group.end);
                used.push(group.start + first * cluster_blocks..end);
                begin = None;
            }
            _ => {}
        }
    }
}
