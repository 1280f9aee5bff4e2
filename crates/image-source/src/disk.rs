//! Whole disks as files: what is in a qcow2, which partitions a disk has, what file systems are in them, what a FAT
//! holds, and what a system's own fstab says goes where.
//!
//! Never mounts anything and never believes a number that the bytes at hand cannot bear out.

mod fat;
mod fields;
mod fstab;
mod identity;
mod qcow2;
mod table;

pub use fat::{Fat, FatEntry};
pub use fstab::{FstabLine, parse_fstab};
pub use identity::{Identity, identify};
pub use qcow2::{EachData, Qcow2, is_qcow2};
pub use table::{Partition, PartitionType, Table, find_partitions};

use crate::error::{Result, unsupported};

/// Bytes by which a disk is told from a tar stream: what the farthest magic (btrfs) needs.
pub const DISK_HEAD_BYTES: usize = 0x1_1000;

/// Images of virtual disks that are known by their first bytes and read by others.
const FOREIGN: [(usize, &[u8], &str); 5] = [
    (0, b"KDMV", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"cowd", "VMDK of ESX"),
];

/// Whether a file that begins so is a disk, and not a tar stream.
///
/// # Errors
/// A virtual disk of another kind than qcow2; the message says how it becomes one.
pub fn is_disk(head: &[u8]) -> Result<bool> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|bytes| bytes.starts_with(magic));
    if let Some((.., kind)) = FOREIGN.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return Err(unsupported(format!(
            "it is a virtual disk of the kind {kind}; make it a qcow2 first: qemu-img convert -O qcow2 FILE FILE.qcow2"
        )));
    }
    if is_qcow2(head) {
        return Ok(true);
    }
    if at(0x101, b"ustar") {
        return Ok(false);
    }
    let read = |offset: u64, bytes: &mut [u8]| {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = head.get(offset..).and_then(|rest| rest.get(..bytes.len()));
        part.map(|part| bytes.copy_from_slice(part)).ok_or(std::io::ErrorKind::UnexpectedEof.into())
    };
    Ok(at(510, b"\x55\xaa") || at(512, b"EFI PART") || identify(&read, u64::MAX).is_some())
}
