//! Disks of virtual machines: sparse raw files, and what is on them as one hash.
//!
//! Never reads a hole: an 8 GiB disk with nothing on it hashes at once.

mod bootable;
mod mounted;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

pub use mounted::MountedPartition;

/// Unit in which content is compared; a power of two that divides every disk size we make.
const UNIT: usize = 64 * 1024;

/// So many GiB in bytes.
#[must_use]
pub const fn gib(count: u64) -> u64 {
    count << 30
}

/// So many MiB in bytes.
#[must_use]
pub const fn mib(count: u64) -> u64 {
    count << 20
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// SATA on the machine's AHCI controller.
    Ahci,
    /// `NVMe` over PCI.
    Nvme,
    /// The same with sectors of 4,096 bytes.
    Nvme4Kn,
    /// virtio-blk over PCI.
    VirtioBlk,
}

/// A disk to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// How it is attached.
    pub bus: Bus,
    /// Bytes.
    pub size_bytes: u64,
    /// Serial number that the machine shows.
    pub serial: String,
}

/// The file behind one disk.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes an empty, sparse file.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self> {
        let making = || format!("making {}", path.display());
        let file = File::create_new(path).with_context(making)?;
        file.set_len(size_bytes).with_context(making)?;
        Ok(Self { path: path.to_owned() })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes text here and there that no program takes for a file system: somebody's data.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_data(&self, text: &str) -> Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let size = file.metadata()?.len();
        for part in 0..16_u64 {
            let offset = (size / 16 * part + mib(5)).min(size.saturating_sub(4096));
            file.write_all_at(text.as_bytes(), offset)
                .with_context(|| format!("writing {}", self.path.display()))?;
        }
        Ok(())
    }

    /// One hash over every byte that is not zero and where it lies; holes and written zeros are the same.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn content_hash(&self) -> Result<blake3::Hash> {
        let file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        content_hash(&file).with_context(|| format!("reading {}", self.path.display()))
    }
}

fn content_hash(file: &File) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut unit = vec![0; UNIT];
    let mut offset = 0;
    while let Some(data) = next_data(file, offset)? {
        offset = data - data % UNIT as u64;
        let filled = read_up_to(file, &mut unit, offset)?;
        let bytes = unit.get(..filled).unwrap_or_default();
        if bytes.iter().any(|&byte| byte != 0) {
            hasher.update(&offset.to_le_bytes());
            hasher.update(bytes);
        }
        offset += UNIT as u64;
    }
    Ok(hasher.finalize())
}

/// Where the next bytes that are not in a hole begin, at or after `offset`.
fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    match lseek(file, offset, Whence::SeekData) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_zeros_are_like_holes_and_one_byte_changes_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::create(&dir.path().join("disk"), gib(8)).unwrap();
        let empty = disk.content_hash().unwrap();
        let file = OpenOptions::new().write(true).open(disk.path()).unwrap();
        file.write_all_at(&[0; 100_000], mib(3)).unwrap();
        assert_eq!(disk.content_hash().unwrap(), empty);
        disk.put_data("somebody's data").unwrap();
        let with_data = disk.content_hash().unwrap();
        assert_ne!(with_data, empty);
        file.write_all_at(&[1], gib(8) - 1).unwrap();
        assert_ne!(disk.content_hash().unwrap(), with_data);
    }
}
