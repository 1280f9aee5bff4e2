//! Mounted file systems that become as large as their device: one ioctl each.

use std::fs::File;
use std::os::fd::AsRawFd;

/// `struct xfs_growfs_data` of xfs_fs.h.
#[repr(C)]
struct XfsGrowfsData {
    new_blocks: u64,
    inode_percent: u32,
}

/// `struct btrfs_ioctl_vol_args` of linux/btrfs.h.
#[repr(C)]
struct BtrfsVolArgs {
    fd: i64,
    name: [u8; 4088],
}

// fs/ext4/ext4.h, xfs_fs.h, linux/btrfs.h
nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);
nix::ioctl_write_ptr!(xfs_growfs_data, b'X', 110, XfsGrowfsData);
nix::ioctl_write_ptr!(btrfs_resize, 0x94, 3, BtrfsVolArgs);

/// So many blocks in all.
pub(crate) fn ext4(root: &File, blocks: u64) -> nix::Result<()> {
    // SAFETY: the argument is read during the call only; the descriptor is open for its length.
    unsafe { ext4_resize(root.as_raw_fd(), &raw const blocks) }.map(drop)
}

/// So many blocks in all; the share that inodes may take stays as given, percent.
pub(crate) fn xfs(root: &File, blocks: u64, inode_percent: u8) -> nix::Result<()> {
    let wanted = XfsGrowfsData { new_blocks: blocks, inode_percent: inode_percent.into() };
    // SAFETY: the argument has the kernel's layout and is read during the call only.
    unsafe { xfs_growfs_data(root.as_raw_fd(), &raw const wanted) }.map(drop)
}

/// As much as its device has.
pub(crate) fn btrfs(root: &File) -> nix::Result<()> {
    let mut wanted = BtrfsVolArgs { fd: 0, name: [0; 4088] };
    for (to, from) in wanted.name.iter_mut().zip(b"max") {
        *to = *from;
    }
    // SAFETY: the argument has the kernel's layout and is read during the call only.
    unsafe { btrfs_resize(root.as_raw_fd(), &raw const wanted) }.map(drop)
}
