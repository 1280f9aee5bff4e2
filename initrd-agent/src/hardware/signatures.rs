//! What is on a disk already, by the marks that file systems, RAID and partition tables leave.
//!
//! Only reads. Better one mark too many than one too few: a disk with any is not taken for blank.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use disk_layout::{FoundPartition, OURS_SIGNATURE, is_our_partition_name};

/// The start of the disk that is looked at: the last mark in it is that of ZFS, at 256 KiB.
const HEAD_BYTES: u64 = 512 << 10;

/// The end of the disk that is looked at: ZFS keeps two labels of 256 KiB there.
const TAIL_BYTES: u64 = 1 << 20;

/// A mark in the first bytes of a disk.
struct Mark {
    name: &'static str,
    offset: usize,
    bytes: &'static [u8],
}

const fn mark(name: &'static str, offset: usize, bytes: &'static [u8]) -> Mark {
    Mark { name, offset, bytes }
}

/// Names are those of libblkid, which every admin has seen.
const HEAD_MARKS: [Mark; 33] = [
    mark("ext4", 1080, b"\x53\xef"),
    mark("xfs", 0, b"XFSB"),
    mark("btrfs", 0x1_0040, b"_BHRfS_M"),
    mark("LVM2_member", 0, b"LABELONE"),
    mark("LVM2_member", 512, b"LABELONE"),
    mark("LVM2_member", 1024, b"LABELONE"),
    mark("LVM2_member", 1536, b"LABELONE"),
    mark("linux_raid_member", 0, b"\xfc\x4e\x2b\xa9"),
    mark("linux_raid_member", 4096, b"\xfc\x4e\x2b\xa9"),
    mark("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    mark("crypto_LUKS", 0x4000, b"SKUL\xba\xbe"),
    mark("swap", 4086, b"SWAPSPACE2"),
    mark("swap", 4086, b"SWAP-SPACE"),
    mark("swap", 8182, b"SWAPSPACE2"),
    mark("swap", 16374, b"SWAPSPACE2"),
    mark("swap", 65526, b"SWAPSPACE2"),
    mark("iso9660", 0x8001, b"CD001"),
    mark("squashfs", 0, b"hsqs"),
    mark("ntfs", 3, b"NTFS    "),
    mark("exfat", 3, b"EXFAT   "),
    mark("BitLocker", 3, b"-FVE-FS-"),
    mark("vfat", 54, b"FAT12   "),
    mark("vfat", 54, b"FAT16   "),
    mark("vfat", 82, b"FAT32   "),
    mark("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    mark("jfs", 0x8000, b"JFS1"),
    mark("reiserfs", 0x1_0034, b"ReIsEr"),
    mark("bcache", 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    mark("ceph_bluestore", 0, b"bluestore block device\n"),
    mark("VMFS_volume_member", 0x10_0000 - 0x9_0000, b"\x0d\xd0\x01\xc0"),
    mark("ubi", 0, b"UBI#"),
    mark("drbd", 0, b"\x83\x74\x02\x6b"),
    mark("stratis", 528, b"!Stra0tis\x86\xff\x02^\x41rh"),
];

/// Tail marks, by distance of their first byte from the end.
const TAIL_MARKS: [Mark; 5] = [
    mark("isw_raid_member", 1024, b"Intel Raid ISM Cfg Sig. "),
    mark("ddf_raid_member", 512, b"\xde\x11\xde\x11"),
    mark("ddf_raid_member", 512, b"\x11\xde\x11\xde"),
    mark("adaptec_raid_member", 512, b"DPTM"),
    mark("promise_fasttrack_raid_member", 512 * 63, b"Promise Technology, Inc."),
];

/// A GUID partition table.
const GPT: &str = "gpt";

/// md's magic number as it lies on disks.
const MD_MAGIC: &[u8] = b"\xfc\x4e\x2b\xa9";

/// ZFS: one uberblock per KiB in the second half of each label.
const ZFS_MAGICS: [[u8; 8]; 2] = [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()];
const ZFS_UBERBLOCK_BYTES: usize = 1024;

/// What is on a disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Marks on the disk as a whole, sorted, each once.
    pub(crate) signatures: Vec<String>,
    /// Partitions of its GPT with the marks in them.
    pub(crate) partitions: Vec<FoundPartition>,
}

/// What is on a disk of this size with sectors of this size.
pub(crate) fn contents(disk: &File, size_bytes: u64, sector_bytes: u32) -> io::Result<Contents> {
    let mut signatures = marks(disk, 0, size_bytes, sector_bytes)?;
    let mut partitions = Vec::new();
    if signatures.iter().any(|name| name == GPT) {
        partitions = disk_apply::partitions(&mut &*disk, size_bytes, sector_bytes);
        for found in &mut partitions {
            let sector = u64::from(sector_bytes);
            let start = found.first_lba.saturating_mul(sector);
            let end = found.last_lba.saturating_add(1).saturating_mul(sector).min(size_bytes);
            if let Some(bytes) = end.checked_sub(start) {
                found.signatures = marks(disk, start, bytes, sector_bytes)?;
            }
        }
        if !partitions.is_empty() && partitions.iter().all(|found| is_our_partition_name(&found.name)) {
            signatures.push(OURS_SIGNATURE.to_owned());
            signatures.sort();
        }
    }
    Ok(Contents { signatures, partitions })
}

/// The marks in a stretch of a disk, sorted, each once.
fn marks(disk: &File, start: u64, size_bytes: u64, sector_bytes: u32) -> io::Result<Vec<String>> {
    let head = read(disk, start, size_bytes.min(HEAD_BYTES))?;
    let tail_bytes = size_bytes.min(TAIL_BYTES);
    let tail = read(disk, start + size_bytes - tail_bytes, tail_bytes)?;
    let mut found: Vec<String> = Vec::new();
    let mut note = |name: &str| {
        if !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
    };
    HEAD_MARKS.iter().filter(|mark| at(&head, mark.offset, mark.bytes)).for_each(|mark| note(mark.name));
    let from_end = |mark: &&Mark| {
        tail.len().checked_sub(mark.offset).is_some_and(|offset| at(&tail, offset, mark.bytes))
    };
    TAIL_MARKS.iter().filter(from_end).for_each(|mark| note(mark.name));
    if has_md_at_end(&tail, size_bytes) {
        note("linux_raid_member");
    }
    if has_zfs(&head) || has_zfs(&tail) {
        note("zfs_member");
    }
    let sector = usize::try_from(sector_bytes).unwrap_or(512).max(512);
    let has_gpt = at(&head, sector, b"EFI PART")
        || tail.len().checked_sub(sector).is_some_and(|offset| at(&tail, offset, b"EFI PART"));
    if has_gpt {
        note(GPT);
    } else if has_mbr(&head) {
        note("dos");
    }
    found.sort();
    Ok(found)
}

fn read(disk: &File, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    disk.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

fn at(bytes: &[u8], offset: usize, expected: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(expected))
}

/// A boot sector with at least one partition in its table.
fn has_mbr(head: &[u8]) -> bool {
    let is_vfat = at(head, 54, b"FAT") || at(head, 82, b"FAT32");
    let entries = head.get(446..510).unwrap_or_default().chunks_exact(16);
    at(head, 510, b"\x55\xaa")
        && !is_vfat
        && entries.into_iter().any(|entry| entry.get(4).is_some_and(|kind| *kind != 0))
}

/// md superblocks 1.0 (8 KiB before the end, on a boundary of 4 KiB) and 0.90 (the last whole 64 KiB but one).
fn has_md_at_end(tail: &[u8], size_bytes: u64) -> bool {
    let tail_start = size_bytes - tail.len() as u64;
    let version_1 = (size_bytes.saturating_sub(8 << 10)) & !0xfff;
    let version_0 = (size_bytes & !0xffff).saturating_sub(64 << 10);
    [version_1, version_0].into_iter().any(|offset| {
        let offset = offset.checked_sub(tail_start).and_then(|offset| usize::try_from(offset).ok());
        offset.is_some_and(|offset| at(tail, offset, MD_MAGIC))
    })
}

fn has_zfs(bytes: &[u8]) -> bool {
    bytes.chunks(ZFS_UBERBLOCK_BYTES).any(|block| ZFS_MAGICS.iter().any(|magic| block.starts_with(magic)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gpt::GptConfig;
    use gpt::disk::LogicalBlockSize;

    use super::*;

    const SIZE: u64 = 8 << 20;

    fn check(marks: &[(u64, &[u8])], expected: &[&str]) {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(SIZE).unwrap();
        for (offset, bytes) in marks {
            disk.write_all_at(bytes, *offset).unwrap();
        }
        assert_eq!(contents(&disk, SIZE, 512).unwrap().signatures, expected);
    }

    #[test]
    fn a_blank_disk_has_none() {
        check(&[], &[]);
        check(&[(510, b"\x55\xaa")], &[]);
    }

    #[test]
    fn file_systems_and_members_are_known() {
        check(&[(1080, b"\x53\xef")], &["ext4"]);
        check(&[(0, b"XFSB")], &["xfs"]);
        check(&[(0x1_0040, b"_BHRfS_M")], &["btrfs"]);
        check(&[(512, b"LABELONE")], &["LVM2_member"]);
        check(&[(4086, b"SWAPSPACE2")], &["swap"]);
        check(&[(0, b"LUKS\xba\xbe")], &["crypto_LUKS"]);
        check(&[(128 << 10, &0x00ba_b10c_u64.to_le_bytes())], &["zfs_member"]);
        check(&[(SIZE - 1024, b"Intel Raid ISM Cfg Sig. ")], &["isw_raid_member"]);
        check(&[(510, b"\x55\xaa"), (450, b"\x83"), (0, b"XFSB")], &["dos", "xfs"]);
        check(&[(510, b"\x55\xaa"), (450, b"\x83"), (82, b"FAT32   ")], &["vfat"]);
    }

    #[test]
    fn all_four_places_of_md_are_looked_at() {
        for offset in [0, 4096, SIZE - (8 << 10), SIZE - (64 << 10)] {
            check(&[(offset, MD_MAGIC)], &["linux_raid_member"]);
        }
    }

    #[test]
    fn a_backup_table_alone_is_a_table() {
        check(&[(SIZE - 512, b"EFI PART")], &["gpt"]);
    }

    #[test]
    fn a_disk_too_small_for_any_mark_is_survived() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(512).unwrap();
        assert_eq!(contents(&disk, 512, 512).unwrap(), Contents::default());
        assert!(contents(&disk, 4096, 512).is_err());
    }

    #[test]
    fn a_table_is_ours_only_if_every_partition_is() {
        for (names, expected) in [
            (&["esir-root", "esir-boot"][..], &["esir", "gpt"][..]),
            (&["esir-root", "data"], &["gpt"]),
            (&[], &["gpt"]),
        ] {
            let disk = tempfile::tempfile().unwrap();
            disk.set_len(SIZE).unwrap();
            let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
            let mut table = config.create_from_device(disk.try_clone().unwrap(), None).unwrap();
            table.update_partitions(BTreeMap::new()).unwrap();
            for name in names {
                table.add_partition(name, 1 << 20, gpt::partition_types::LINUX_FS, 0, None).unwrap();
            }
            table.write().unwrap();
            assert_eq!(contents(&disk, SIZE, 512).unwrap().signatures, expected, "{names:?}");
        }
    }
}
