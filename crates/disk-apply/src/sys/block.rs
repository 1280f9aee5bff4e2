//! Partition tables and the kernel: block-device ioctls.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsRawFd;

use nix::libc;

// linux/fs.h, linux/blkpg.h
nix::ioctl_none_bad!(blkrrpart, 0x125f);
nix::ioctl_write_ptr_bad!(blkpg, 0x1269, BlkpgIoctlArg);

const BLKPG_ADD_PARTITION: libc::c_int = 1;
const BLKPG_DEL_PARTITION: libc::c_int = 2;

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgIoctlArg {
    op: libc::c_int,
    flags: libc::c_int,
    datalen: libc::c_int,
    data: *mut c_void,
}

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    pno: libc::c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

/// Asks the kernel to read the partition table of a whole disk again.
pub(crate) fn reread_partitions(disk: &File) -> nix::Result<()> {
    // SAFETY: BLKRRPART takes no argument; the descriptor is open for the length of the call.
    unsafe { blkrrpart(disk.as_raw_fd()) }.map(drop)
}

/// Tells the kernel of one partition, in bytes from the start of the disk.
pub(crate) fn add_partition(
    disk: &File,
    number: u32,
    start_bytes: u64,
    length_bytes: u64,
) -> nix::Result<()> {
    partition_call(disk, BLKPG_ADD_PARTITION, number, start_bytes, length_bytes)
}

/// Makes the kernel forget one partition.
pub(crate) fn delete_partition(disk: &File, number: u32) -> nix::Result<()> {
    partition_call(disk, BLKPG_DEL_PARTITION, number, 0, 0)
}

fn partition_call(disk: &File, op: libc::c_int, number: u32, start: u64, length: u64) -> nix::Result<()> {
    let too_large = |_| nix::errno::Errno::EOVERFLOW;
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(too_large)?,
        length: i64::try_from(length).map_err(too_large)?,
        pno: libc::c_int::try_from(number).map_err(too_large)?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let argument = BlkpgIoctlArg {
        op,
        flags: 0,
        datalen: libc::c_int::try_from(size_of::<BlkpgPartition>()).map_err(too_large)?,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: `argument` and the partition that it points to have the kernel's layout and outlive the call.
    unsafe { blkpg(disk.as_raw_fd(), &raw const argument) }.map(drop)
}
