//! What a layout becomes on one disk: sectors, GUIDs, file-system identities.

use std::fmt;

use uuid::{Builder, Uuid, uuid};

use crate::disk::{Disk, PARTITION_NAME_PREFIX, human_bytes};
use crate::layout::{FileSystem, Layout, Partition, PartitionRole, UuidRule};

/// One mebibyte: the alignment of every partition, which is a multiple of all sector and stripe sizes met.
const MIB: u64 = 1 << 20;
/// A GPT that every firmware reads has 128 entries of 128 bytes (UEFI 2.10 section 5.3.1).
const GPT_ENTRY_ARRAY_BYTES: u64 = 128 * 128;
/// Entries in that array.
const PARTITIONS_MAX: usize = 128;
/// A growing partition below this holds no system.
const GROW_MIN_MIB: u64 = 64;
/// mkfs.xfs refuses less.
const XFS_MIN_MIB: u64 = 300;
/// FAT32 needs 65,525 clusters: 33 MiB with 512-byte sectors, 257 MiB with 4,096 (one sector each).
const FAT32_MIN_MIB_512: u64 = 34;
/// See [`FAT32_MIN_MIB_512`].
const FAT32_MIN_MIB_4096: u64 = 260;

/// Where the identities of a plan come from; chance is an argument.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The image id: [`UuidRule::Image`] derives from it.
    pub image_id: [u8; 32],
    /// 32 fresh random bytes: disk and partition GUIDs and [`UuidRule::Random`] derive from them.
    pub fresh: [u8; 32],
}

/// A layout on one disk, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    disk: String,
    sector_bytes: u32,
    disk_guid: Uuid,
    partitions: Vec<PlannedPartition>,
}

/// One partition of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPartition {
    /// From 1, in disk order.
    pub number: u32,
    /// GPT partition name; begins with [`PARTITION_NAME_PREFIX`].
    pub name: String,
    /// What it is for.
    pub role: PartitionRole,
    /// GPT partition type.
    pub type_guid: Uuid,
    /// GPT unique partition GUID.
    pub guid: Uuid,
    /// First logical sector.
    pub first_lba: u64,
    /// Last logical sector, inclusive.
    pub last_lba: u64,
    /// Its file system and that one's identity.
    pub fs: Option<(FileSystem, FsId)>,
    /// Absolute path in the installed system.
    pub mount: Option<String>,
}

/// What a file system is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsId {
    /// ext4, XFS, swap.
    Uuid(Uuid),
    /// FAT volume id.
    Volume(u32),
}

impl fmt::Display for FsId {
    /// As `UUID=` in fstab and `blkid` show it: FAT is `1234-ABCD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "{uuid}"),
            Self::Volume(id) => write!(f, "{:04X}-{:04X}", id >> 16, id & 0xffff),
        }
    }
}

/// A layout that cannot be put on a disk. Nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A logical sector size that GPT tools do not write.
    #[error("{disk} has logical sectors of {bytes} bytes; only 512 and 4096 are supported")]
    SectorSize {
        /// Kernel name.
        disk: String,
        /// What it says.
        bytes: u32,
    },
    /// The disk ends before the layout does.
    #[error("the layout needs {needed} but {disk} has {have}; use smaller partitions or a larger disk")]
    TooSmall {
        /// Kernel name.
        disk: String,
        /// With the least for the growing partition.
        needed: String,
        /// Size of the disk.
        have: String,
    },
    /// Two partitions of size 0.
    #[error("partitions {0} and {1} both have size_mib = 0; only one can take the rest")]
    TwoGrow(usize, usize),
    /// Not exactly one of a kind.
    #[error("the layout has {count} partitions of role `{role}`, it must have {wanted}")]
    Count {
        /// Which role.
        role: &'static str,
        /// How many.
        count: usize,
        /// How many are right, in words.
        wanted: &'static str,
    },
    /// Too many for a GPT.
    #[error("the layout has {0} partitions, a partition table holds 128")]
    TooMany(usize),
    /// A file system that does not fit the role.
    #[error("partition {number}: a partition of role `{role}` cannot have the file system `{fs}`")]
    FileSystem {
        /// From 1.
        number: usize,
        /// Its role.
        role: &'static str,
        /// What was asked for.
        fs: &'static str,
    },
    /// Too small for its file system.
    #[error(
        "partition {number}: {fs} needs at least {min_mib} MiB on this disk, the partition has {mib} MiB"
    )]
    FileSystemSize {
        /// From 1.
        number: usize,
        /// Which.
        fs: &'static str,
        /// Least.
        min_mib: u64,
        /// Asked for or left.
        mib: u64,
    },
    /// A mount point that is wrong.
    #[error("partition {number}: mount = {mount:?} {problem}")]
    Mount {
        /// From 1.
        number: usize,
        /// As given.
        mount: String,
        /// In words.
        problem: &'static str,
    },
}

impl Layout {
    /// The smallest disk that this layout fits on, bytes: partitions, the least for a growing one, and both
    /// partition tables.
    #[must_use]
    pub fn size_min_bytes(&self) -> u64 {
        let mib = self.partitions.iter().fold(0_u64, |sum, partition| {
            sum.saturating_add(if partition.size_mib == 0 { GROW_MIN_MIB } else { partition.size_mib })
        });
        // One MiB before the first partition and, for the second table, one after the last.
        mib.saturating_add(2).saturating_mul(MIB)
    }
}

impl Plan {
    /// Puts `layout` on `disk`.
    ///
    /// # Errors
    /// [`PlanError`] when the layout contradicts itself or does not fit.
    pub fn make(layout: &Layout, disk: &Disk, seeds: &Seeds) -> Result<Self, PlanError> {
        let sector_bytes = disk.logical_sector_bytes;
        if !matches!(sector_bytes, 512 | 4096) {
            return Err(PlanError::SectorSize { disk: disk.name.clone(), bytes: sector_bytes });
        }
        check_counts(&layout.partitions)?;
        let extents = place(layout, disk)?;
        let mut partitions = Vec::with_capacity(extents.len());
        for (index, (partition, extent)) in layout.partitions.iter().zip(extents).enumerate() {
            partitions.push(plan_one(index, partition, extent, sector_bytes, seeds)?);
        }
        check_mounts(&partitions)?;
        let disk_guid = derive_uuid("disk", 0, &seeds.fresh);
        Ok(Self { disk: disk.name.clone(), sector_bytes, disk_guid, partitions })
    }

    /// Kernel name of the disk that this plan was made for.
    #[must_use]
    pub fn disk(&self) -> &str {
        &self.disk
    }

    /// Logical sector, bytes.
    #[must_use]
    pub const fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    /// GUID of the partition table.
    #[must_use]
    pub const fn disk_guid(&self) -> Uuid {
        self.disk_guid
    }

    /// In disk order; numbers from 1 without gaps.
    #[must_use]
    pub fn partitions(&self) -> &[PlannedPartition] {
        &self.partitions
    }

    /// The first partition of this role.
    #[must_use]
    pub fn find(&self, role: PartitionRole) -> Option<&PlannedPartition> {
        self.partitions.iter().find(|partition| partition.role == role)
    }

    /// Lines of `/etc/fstab`, root first, then by depth of the mount point, then swap; each ends in `\n`.
    #[must_use]
    pub fn fstab(&self) -> String {
        let mut entries: Vec<(usize, String)> = self.partitions.iter().filter_map(fstab_line).collect();
        entries.sort();
        entries.into_iter().map(|(_, line)| line).collect()
    }
}

impl PlannedPartition {
    /// Size in bytes.
    #[must_use]
    pub const fn size_bytes(&self, sector_bytes: u32) -> u64 {
        (self.last_lba - self.first_lba + 1) * sector_bytes as u64
    }

    /// Kernel name of this partition's block device: `sda3`, `nvme0n1p3`.
    #[must_use]
    pub fn device_name(&self, disk: &str) -> String {
        // The kernel puts a `p` between when the disk's name ends in a digit (block/partitions/core.c).
        let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        format!("{disk}{separator}{}", self.number)
    }
}

impl fmt::Display for Plan {
    /// What would happen, for a person who has to agree to it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "/dev/{}: all data on it is lost; new GPT {}", self.disk, self.disk_guid)?;
        for partition in &self.partitions {
            write!(
                f,
                "  {:2} {:<14} {:>10}  LBA {}..={}",
                partition.number,
                partition.name,
                human_bytes(partition.size_bytes(self.sector_bytes)),
                partition.first_lba,
                partition.last_lba
            )?;
            if let Some((fs, id)) = &partition.fs {
                write!(f, "  {} {id}", fs.word())?;
            }
            if let Some(mount) = &partition.mount {
                write!(f, "  on {mount}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// First sector (in MiB) and length (in MiB) of each partition.
fn place(layout: &Layout, disk: &Disk) -> Result<Vec<(u64, u64)>, PlanError> {
    let sector_bytes = u64::from(disk.logical_sector_bytes);
    // The second table: entry array and one header sector at the very end.
    let tail_bytes = GPT_ENTRY_ARRAY_BYTES + sector_bytes;
    let end_mib = disk.size_bytes.saturating_sub(tail_bytes) / MIB;
    let fixed_mib =
        layout.partitions.iter().fold(0_u64, |sum, partition| sum.saturating_add(partition.size_mib));
    let grows = layout.partitions.iter().any(|partition| partition.size_mib == 0);
    let rest_mib = end_mib.saturating_sub(1).checked_sub(fixed_mib);
    let least_mib = if grows { GROW_MIN_MIB } else { 0 };
    let Some(rest_mib) = rest_mib.filter(|rest| *rest >= least_mib) else {
        return Err(PlanError::TooSmall {
            disk: disk.name.clone(),
            needed: human_bytes(layout.size_min_bytes()),
            have: human_bytes(disk.size_bytes),
        });
    };
    let mut next_mib = 1;
    Ok(layout
        .partitions
        .iter()
        .map(|partition| {
            let size_mib = if partition.size_mib == 0 { rest_mib } else { partition.size_mib };
            let first_mib = next_mib;
            next_mib += size_mib;
            (first_mib, size_mib)
        })
        .collect())
}

fn plan_one(
    index: usize,
    partition: &Partition,
    (first_mib, size_mib): (u64, u64),
    sector_bytes: u32,
    seeds: &Seeds,
) -> Result<PlannedPartition, PlanError> {
    let ordinal = index + 1;
    let role = partition.role;
    let fs = choose_fs(ordinal, partition)?;
    if let Some(fs) = fs {
        let min_mib = fs.min_mib(sector_bytes);
        if size_mib < min_mib {
            return Err(PlanError::FileSystemSize { number: ordinal, fs: fs.word(), min_mib, mib: size_mib });
        }
    }
    let seed = match partition.uuid {
        UuidRule::Image => &seeds.image_id,
        UuidRule::Random => &seeds.fresh,
    };
    let number = u32::try_from(ordinal).map_err(|_| PlanError::TooMany(ordinal))?;
    let uuid = derive_uuid("file-system", number, seed);
    let fs = fs.map(|fs| {
        (fs, if fs == FileSystem::Vfat { FsId::Volume(volume_id(uuid)) } else { FsId::Uuid(uuid) })
    });
    let sectors_per_mib = MIB / u64::from(sector_bytes);
    let suffix = if role == PartitionRole::Data { format!("-{number}") } else { String::new() };
    Ok(PlannedPartition {
        number,
        name: format!("{PARTITION_NAME_PREFIX}{}{suffix}", role.word()),
        role,
        type_guid: role.type_guid(),
        guid: derive_uuid("partition", number, &seeds.fresh),
        first_lba: first_mib * sectors_per_mib,
        last_lba: (first_mib + size_mib) * sectors_per_mib - 1,
        fs,
        mount: choose_mount(ordinal, partition)?,
    })
}

fn choose_fs(number: usize, partition: &Partition) -> Result<Option<FileSystem>, PlanError> {
    let (default, allowed): (Option<FileSystem>, &[FileSystem]) = match partition.role {
        PartitionRole::BiosBoot => (None, &[]),
        PartitionRole::Esp => (Some(FileSystem::Vfat), &[FileSystem::Vfat]),
        PartitionRole::Root => (Some(FileSystem::Ext4), &[FileSystem::Ext4, FileSystem::Xfs]),
        PartitionRole::Swap => (Some(FileSystem::Swap), &[FileSystem::Swap]),
        PartitionRole::Data => {
            (Some(FileSystem::Ext4), &[FileSystem::Ext4, FileSystem::Xfs, FileSystem::Vfat])
        }
    };
    match partition.fs {
        None => Ok(default),
        Some(fs) if allowed.contains(&fs) => Ok(Some(fs)),
        Some(fs) => Err(PlanError::FileSystem { number, role: partition.role.word(), fs: fs.word() }),
    }
}

fn choose_mount(number: usize, partition: &Partition) -> Result<Option<String>, PlanError> {
    let wrong = |mount: &str, problem| Err(PlanError::Mount { number, mount: mount.to_owned(), problem });
    match (partition.role, partition.mount.as_deref()) {
        (PartitionRole::Root, None | Some("/")) => Ok(Some("/".to_owned())),
        (PartitionRole::Root, Some(mount)) => wrong(mount, "cannot hold the root file system; leave it out"),
        (PartitionRole::BiosBoot | PartitionRole::Swap, None) => Ok(None),
        (PartitionRole::BiosBoot | PartitionRole::Swap, Some(mount)) => {
            wrong(mount, "is given for a partition that cannot be mounted; leave it out")
        }
        (PartitionRole::Esp, None) => Ok(Some("/boot/efi".to_owned())),
        (PartitionRole::Data, None) => Ok(None),
        (PartitionRole::Esp | PartitionRole::Data, Some(mount)) => match mount_problem(mount) {
            Some(problem) => wrong(mount, problem),
            None => Ok(Some(mount.to_owned())),
        },
    }
}

/// fstab is a line of words, and the path is used beneath the new root: nothing else may get through.
fn mount_problem(mount: &str) -> Option<&'static str> {
    let Some(relative) = mount.strip_prefix('/') else {
        return Some("must begin with /");
    };
    if relative.is_empty() {
        return Some("belongs to the partition of role `root`");
    }
    if relative.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Some("must be a plain path without empty parts, `.` or `..`");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    (!mount.chars().all(plain)).then_some("must consist of letters, digits and / . _ - + @ :")
}

fn check_counts(partitions: &[Partition]) -> Result<(), PlanError> {
    if partitions.len() > PARTITIONS_MAX {
        return Err(PlanError::TooMany(partitions.len()));
    }
    let count = |role| partitions.iter().filter(|partition| partition.role == role).count();
    let roots = count(PartitionRole::Root);
    if roots != 1 {
        return Err(PlanError::Count {
            role: PartitionRole::Root.word(),
            count: roots,
            wanted: "exactly one",
        });
    }
    for role in [PartitionRole::BiosBoot, PartitionRole::Esp, PartitionRole::Swap] {
        let count = count(role);
        if count > 1 {
            return Err(PlanError::Count { role: role.word(), count, wanted: "at most one" });
        }
    }
    let mut growing = partitions.iter().enumerate().filter(|(_, partition)| partition.size_mib == 0);
    match (growing.next(), growing.next()) {
        (Some((first, _)), Some((second, _))) => Err(PlanError::TwoGrow(first + 1, second + 1)),
        _ => Ok(()),
    }
}

fn check_mounts(partitions: &[PlannedPartition]) -> Result<(), PlanError> {
    let mut seen: Vec<&str> = Vec::new();
    for (index, partition) in partitions.iter().enumerate() {
        let Some(mount) = partition.mount.as_deref() else { continue };
        if seen.contains(&mount) {
            let problem = "is used twice";
            return Err(PlanError::Mount { number: index + 1, mount: mount.to_owned(), problem });
        }
        seen.push(mount);
    }
    Ok(())
}

/// Sort key and line; `None` for what fstab does not name.
fn fstab_line(partition: &PlannedPartition) -> Option<(usize, String)> {
    let (fs, id) = partition.fs.as_ref()?;
    if *fs == FileSystem::Swap {
        return Some((usize::MAX, format!("UUID={id} none swap sw 0 0\n")));
    }
    let mount = partition.mount.as_deref()?;
    let depth = if mount == "/" { 0 } else { mount.matches('/').count() };
    let (options, pass) = match (fs, mount) {
        (FileSystem::Ext4, "/") => ("errors=remount-ro", 1),
        (FileSystem::Ext4, _) => ("defaults", 2),
        // xfs_repair is never run at boot; fsck.xfs does nothing.
        (FileSystem::Xfs, _) => ("defaults", 0),
        (FileSystem::Vfat, _) => ("umask=0077", 2),
        (FileSystem::Swap, _) => return None,
    };
    Some((depth, format!("UUID={id} {mount} {} {options} 0 {pass}\n", fs.word())))
}

/// A version 8 UUID (RFC 9562 section 5.8) from the first 16 bytes of a keyed BLAKE3.
fn derive_uuid(purpose: &str, number: u32, seed: &[u8; 32]) -> Uuid {
    let mut hasher = blake3::Hasher::new_derive_key("esir disk-layout v1 identities");
    hasher.update(seed).update(purpose.as_bytes()).update(&[0]).update(&number.to_le_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// FAT has 32 bits; 0 would read as "none".
fn volume_id(uuid: Uuid) -> u32 {
    uuid.as_fields().0.max(1)
}

impl PartitionRole {
    /// The word for this role in partition names and messages.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::BiosBoot => "bios-boot",
            Self::Esp => "esp",
            Self::Root => "root",
            Self::Swap => "swap",
            Self::Data => "data",
        }
    }

    /// UEFI specification 5.3.3, GRUB manual 3.4, Discoverable Partitions Specification.
    const fn type_guid(self) -> Uuid {
        match self {
            Self::BiosBoot => uuid!("21686148-6449-6e6f-744e-656564454649"),
            Self::Esp => uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
            Self::Root => uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
            Self::Swap => uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
            Self::Data => uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"),
        }
    }
}

impl FileSystem {
    /// Its type in fstab and `mount`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Vfat => "vfat",
            Self::Swap => "swap",
        }
    }

    const fn min_mib(self, sector_bytes: u32) -> u64 {
        match self {
            Self::Ext4 | Self::Swap => 1,
            Self::Xfs => XFS_MIN_MIB,
            Self::Vfat if sector_bytes == 4096 => FAT32_MIN_MIB_4096,
            Self::Vfat => FAT32_MIN_MIB_512,
        }
    }
}

#[cfg(test)]
mod tests;
