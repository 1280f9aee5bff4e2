//! An older system of ours on the disks that the task names, in the very place where the new one will be.
//!
//! ```text
//!  OlderPlace::find (rule, partitions, superblock) -> OlderPlace::read (mounted read-only) -> OlderSystem
//!     -> ClearedDisks::disarm: nothing boots any more -> the other file systems are made anew -> Mounted
//! ```
//! Never writes before [`ClearedDisks::disarm`]; any doubt means a deployment in full.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use disk_layout::{Disk, FileSystem, Layout, PartitionRole, Plan, Seeds, choose};
use image_apply::{RECORD_MANIFEST, WORK_DIRECTORY, open_root, read_record};
use image_format::{Manifest, Toc, parse_manifest};

use super::cleared::partition_on_kernel;
use super::mounts::{look_aside, unmount_aside};
use super::superblock::uuid_of;

/// Left free beside what the delta image needs: the new system's directories, journals, doubled files.
const SPARE_BYTES: u64 = 64 << 20;

/// Disks that are partitioned as the layout says already, with a file system where the root will be.
pub struct OlderPlace {
    seeds: Seeds,
    anew: Plan,
    in_place: Plan,
    device: String,
    fs: FileSystem,
}

/// What a system must be to be made another image's by a delta image.
pub struct Wanted<'a> {
    /// The delta image.
    pub delta: &'a Manifest,
    /// What it leads to.
    pub image: &'a Manifest,
}

/// A system that can become the task's image by a delta image.
pub struct OlderSystem {
    /// With these the same rule on the same disks gives the same plan.
    pub seeds: Seeds,
    pub(super) anew: Plan,
    pub(super) in_place: Plan,
    /// What its image held; no more than a hint of what it holds.
    pub table: Toc,
}

impl OlderPlace {
    /// Looks where the rule of the layout leads. Reads the root's superblock, writes nothing.
    ///
    /// # Errors
    /// Why there is no such place.
    pub fn find(layout: &Layout, disks: &[Disk], seeds: Seeds) -> Result<Self> {
        let anew = Plan::on(layout, &choose(layout, disks)?, &seeds)?;
        let root = anew.file_system(PartitionRole::Root).context("the layout has no root")?;
        let (device, fs) = (root.device.clone(), root.fs);
        for disk in anew.disks() {
            for one in &disk.partitions {
                let sector = u64::from(disk.sector_bytes);
                let expected = one.first_lba * sector..(one.last_lba + 1) * sector;
                ensure!(
                    partition_on_kernel(&disk.name, &one.device) == Some(expected),
                    "{} is not where the layout wants it",
                    one.device
                );
            }
        }
        let opened =
            File::open(Path::new("/dev").join(&device)).with_context(|| format!("opening /dev/{device}"))?;
        let uuid =
            uuid_of(&opened, fs).with_context(|| format!("reading the superblock of /dev/{device}"))?;
        let uuid = uuid.with_context(|| format!("/dev/{device} holds no sound {}", fs.word()))?;
        let in_place = anew.clone().in_place(disks, uuid);
        let in_place =
            in_place.context("the disk is partitioned otherwise, or its layout is none that can stay")?;
        Ok(Self { seeds, anew, in_place, device, fs })
    }

    /// The module that mounts it.
    pub const fn module(&self) -> &'static str {
        self.fs.word()
    }

    /// Mounts the root read-only for a moment and reads what it was made from.
    ///
    /// # Errors
    /// Why it cannot become the wanted image.
    pub fn read(self, wanted: &Wanted<'_>) -> Result<OlderSystem> {
        let place = look_aside(&self.device, self.fs)?;
        let read = read_system(&place, wanted);
        unmount_aside()?;
        let Self { seeds, anew, in_place, .. } = self;
        Ok(OlderSystem { seeds, anew, in_place, table: read? })
    }
}

fn read_system(place: &Path, wanted: &Wanted<'_>) -> Result<Toc> {
    let unfinished = place.join(WORK_DIRECTORY).symlink_metadata();
    match unfinished {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        _ => bail!("a deployment of it was not completed"),
    }
    // What fsck saved there is nobody's and would stay.
    let saved = fs::read_dir(place.join("lost+found")).is_ok_and(|mut saved| saved.next().is_some());
    ensure!(!saved, "it was repaired and has files in lost+found");
    let root = open_root(place)?;
    let table = read_record(root.as_fd()).context("reading the record of its image")?;
    let base = wanted.delta.delta.context("the delta image says not what it leads from")?.base;
    ensure!(
        table.image_id() == base,
        "it is of image {}, and the delta image leads from {base}",
        table.image_id()
    );
    let manifest = fs::read(place.join(RECORD_MANIFEST))?;
    let features = parse_manifest(&manifest)?.root_file_system;
    ensure!(features == wanted.image.root_file_system, "the new image needs another root file system");
    let free = rustix::fs::statvfs(place)?;
    let free = free.f_bavail.saturating_mul(free.f_frsize);
    let needed =
        wanted.delta.file_size.saturating_add(wanted.delta.content_bytes).saturating_add(SPARE_BYTES);
    ensure!(free >= needed, "it has {} MiB free, the delta image needs {} MiB", free >> 20, needed >> 20);
    Ok(table)
}
