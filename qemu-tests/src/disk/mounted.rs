//! Looking into a machine's disk, as another computer would that it was moved to.
//!
//! Never writes: a file system whose journal would have to be played first is not mounted at all.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Disk;
use crate::command::{output, run};

/// Unit in which partx(8) counts, whatever the disk's sector is.
const SECTOR_BYTES: u64 = 512;

/// A partition that is mounted read-only until this is dropped.
#[derive(Debug)]
pub struct MountedPartition {
    place: PathBuf,
}

impl Disk {
    /// Mounts the partition of this name at `place`, which is made if it is not there. The machine must be off.
    ///
    /// # Errors
    /// No or several partitions have that name, or its file system was not unmounted cleanly.
    pub fn mount(&self, partition: &str, place: &Path) -> Result<MountedPartition> {
        let range = self.partition(partition)?;
        fs::create_dir_all(place).with_context(|| format!("making {}", place.display()))?;
        // By offset: not every kernel makes devices for the partitions of a loop device.
        let (offset, size) = (range.start, range.end - range.start);
        let options = format!("ro,loop,offset={offset},sizelimit={size}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.path).arg(place))?;
        Ok(MountedPartition { place: place.to_owned() })
    }

    /// Where the partition of this name is, in bytes.
    fn partition(&self, name: &str) -> Result<Range<u64>> {
        let mut partx = Command::new("partx");
        let listed =
            output(partx.args(["--raw", "--noheadings", "--output", "START,SECTORS,NAME"]).arg(&self.path))?;
        let found: Vec<&str> = listed.lines().filter(|line| line.split(' ').nth(2) == Some(name)).collect();
        let [line] = found.as_slice() else {
            bail!("{} has {} partitions called {name}; all are:\n{listed}", self.path.display(), found.len())
        };
        let mut numbers = line.split(' ').map_while(|word| word.parse::<u64>().ok());
        let (start, sectors) = numbers.next().zip(numbers.next()).context("partx gives no numbers")?;
        Ok(start * SECTOR_BYTES..(start + sectors) * SECTOR_BYTES)
    }
}

impl MountedPartition {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place
    }
}

impl Drop for MountedPartition {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.place)) {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::mib;

    #[test]
    fn a_partition_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::create(&dir.path().join("disk"), mib(64)).unwrap();
        let mut make = Command::new("sgdisk");
        make.args(["-n1:2048:+1M", "-c1:esir-bios-boot", "-n2:8192:+16M", "-c2:esir-root"]);
        make.args(["-n3:0:+1M", "-c3:twice", "-n4:0:+1M", "-c4:twice"]);
        run(make.arg(disk.path())).unwrap();
        assert_eq!(disk.partition("esir-root").unwrap(), mib(4)..mib(20));
        assert!(disk.partition("root").is_err() && disk.partition("twice").is_err());
    }
}
