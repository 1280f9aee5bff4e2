//! What a partition holds, by its first bytes: kind, UUID and label, as blkid(8) says them.

use super::fields::{label, le16, le32, uuid};
use crate::blocks::ReadAt;

/// A file system, or something else that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As `mount -t` takes it; `swap`, `LVM2_member`, `crypto_LUKS`, `linux_raid_member` are others.
    pub kind: &'static str,
    /// As `UUID=` in fstab; empty where it has none.
    pub uuid: String,
    /// As `LABEL=` in fstab; empty where it has none.
    pub label: String,
}

/// What is looked at: the superblock of btrfs lies farthest.
const HEAD_BYTES: usize = 4096;
const BTRFS_SUPER: u64 = 0x1_0000;

/// Looks at a partition of `len` bytes; `None` if nothing is known there.
#[must_use]
pub fn identify(read: &ReadAt<'_>, len: u64) -> Option<Identity> {
    let head_len = usize::try_from(len).unwrap_or(usize::MAX).min(HEAD_BYTES);
    let mut head = vec![0; head_len];
    read(0, &mut head).ok()?;
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|bytes| bytes.starts_with(magic));
    let found = |kind, uuid, label| Some(Identity { kind, uuid, label });
    let bare = |kind| found(kind, String::new(), String::new());
    if at(0, b"LUKS\xba\xbe") {
        return bare("crypto_LUKS");
    }
    if at(512, b"LABELONE") && at(536, b"LVM2 001") {
        return bare("LVM2_member");
    }
    if at(0, b"\xfc\x4e\x2b\xa9") || is_raid(read) {
        return bare("linux_raid_member");
    }
    if at(4086, b"SWAPSPACE2") {
        return found("swap", uuid(&head, 1036), label(&head, 1052, 16));
    }
    if at(0, b"XFSB") {
        return found("xfs", uuid(&head, 32), label(&head, 108, 12));
    }
    if le16(&head, 0x438) == 0xEF53 {
        return found(ext_kind(&head), uuid(&head, 0x468), label(&head, 0x478, 16));
    }
    if let Some(btrfs) = btrfs(read) {
        return Some(btrfs);
    }
    if at(0, b"hsqs") {
        return bare("squashfs");
    }
    if at(3, b"NTFS    ") {
        return bare("ntfs");
    }
    if at(3, b"EXFAT   ") {
        return bare("exfat");
    }
    fat(&head)
}

/// Metadata of md at 4 KiB, version 1.2.
fn is_raid(read: &ReadAt<'_>) -> bool {
    let mut magic = [0; 4];
    read(4096, &mut magic).is_ok() && magic == *b"\xfc\x4e\x2b\xa9"
}

fn ext_kind(head: &[u8]) -> &'static str {
    const COMPAT_HAS_JOURNAL: u32 = 0x4;
    const INCOMPAT_EXTENTS: u32 = 0x40;
    let (compat, incompat) = (le32(head, 0x45C), le32(head, 0x460));
    match (incompat & INCOMPAT_EXTENTS != 0, compat & COMPAT_HAS_JOURNAL != 0) {
        (true, _) => "ext4",
        (false, true) => "ext3",
        (false, false) => "ext2",
    }
}

fn btrfs(read: &ReadAt<'_>) -> Option<Identity> {
    let mut superblock = vec![0; 4096];
    read(BTRFS_SUPER, &mut superblock).ok()?;
    let is = superblock.get(0x40..0x48) == Some(b"_BHRfS_M");
    is.then(|| Identity {
        kind: "btrfs",
        uuid: uuid(&superblock, 0x20),
        label: label(&superblock, 0x12b, 256),
    })
}

fn fat(head: &[u8]) -> Option<Identity> {
    let sector = le16(head, 11);
    let jumps = matches!(head.first(), Some(0xEB | 0xE9));
    let copies = head.get(16).is_some_and(|copies| (1..=2).contains(copies));
    if !(jumps && copies && sector.is_power_of_two() && (512..=4096).contains(&sector)) {
        return None;
    }
    let (serial, text) = if head.get(82..85) == Some(b"FAT") {
        (le32(head, 67), label(head, 71, 11))
    } else if head.get(54..57) == Some(b"FAT") {
        (le32(head, 39), label(head, 43, 11))
    } else {
        return None;
    };
    let label = if text == "NO NAME" { String::new() } else { text };
    Some(Identity { kind: "vfat", uuid: format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF), label })
}
