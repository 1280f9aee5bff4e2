//! What the superblocks of ext4, XFS and btrfs say: which file system it is, and how XFS is set.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use disk_layout::FileSystem;
use uuid::Uuid;

/// fs/ext4/ext4.h: where the superblock is, and in it magic, state and UUID.
const EXT4_AT: u64 = 1024;
const EXT4_MAGIC: [u8; 2] = [0x53, 0xef];
/// `EXT4_ERROR_FS`: the kernel found it damaged.
const EXT4_ERRORS: u8 = 2;
/// fs/btrfs/ctree.h
const BTRFS_AT: u64 = 64 << 10;
/// `sb_imax_pct` in fs/xfs/libxfs/xfs_format.h.
const XFS_INODE_PERCENT_AT: u64 = 127;

/// The UUID of the file system on a device, if it is of this kind and not known to be damaged.
pub(super) fn uuid_of(device: &File, fs: FileSystem) -> io::Result<Option<Uuid>> {
    let read = |at: u64| -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        device.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    let uuid_at = match fs {
        FileSystem::Ext4 => {
            let [.., a, b, state, _, _, _, _, _] = read(EXT4_AT + 0x30)?;
            let is_sound = [a, b] == EXT4_MAGIC && state & EXT4_ERRORS == 0;
            is_sound.then_some(EXT4_AT + 0x68)
        }
        FileSystem::Xfs => read(0)?.starts_with(b"XFSB").then_some(32),
        FileSystem::Btrfs => read(BTRFS_AT + 0x40)?.starts_with(b"_BHRfS_M").then_some(BTRFS_AT + 0x20),
        FileSystem::Vfat | FileSystem::Swap => None,
    };
    uuid_at.map(|at| Ok(Uuid::from_bytes(read(at)?))).transpose()
}

/// How much of an XFS its inodes may take, percent.
pub(super) fn xfs_inode_percent(device: &File) -> io::Result<u8> {
    let mut percent = [0];
    device.read_exact_at(&mut percent, XFS_INODE_PERCENT_AT)?;
    let [percent] = percent;
    Ok(percent)
}
