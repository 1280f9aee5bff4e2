//! What a layout becomes on a node's disks: sectors, GUIDs, the order in which things are made, identities.

mod files;
mod in_place;
mod place;
mod stack;
mod text;

use std::fmt;

use uuid::{Builder, Uuid};

use crate::check::Problem;
use crate::choose::Chosen;
use crate::disk::Disk;
pub use files::{CrypttabEntry, key_path, mdadm_uuid};

use crate::layout::{FileSystem, Layout, Metadata, PartitionRole, Subvolume, Unlock, UuidRule};

/// One mebibyte: the alignment of every partition, which is a multiple of all sector and stripe sizes met.
const MIB: u64 = 1 << 20;

/// Where the identities of a plan come from; chance is an argument. The default is for plans that only people read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seeds {
    /// The image id: [`UuidRule::Image`] derives from it.
    pub image_id: [u8; 32],
    /// 32 fresh random bytes: GUIDs of disks, partitions, arrays and containers, and [`UuidRule::Random`].
    pub fresh: [u8; 32],
}

/// A layout on a node's disks, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    disks: Vec<PlannedDisk>,
    layers: Vec<Layer>,
    file_systems: Vec<PlannedFileSystem>,
}

/// One disk of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDisk {
    /// Kernel name, without `/dev/`.
    pub name: String,
    /// For people.
    pub description: String,
    /// What is on it now, for people; empty when it is blank.
    pub contents: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Logical sector, bytes.
    pub sector_bytes: u32,
    /// GUID of the partition table.
    pub guid: Uuid,
    /// By number, which is from 1 without gaps.
    pub partitions: Vec<PlannedPartition>,
}

/// One partition of a [`PlannedDisk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPartition {
    /// From 1.
    pub number: u32,
    /// Kernel name of its device, without `/dev/`: `sda3`, `nvme0n1p3`.
    pub device: String,
    /// GPT partition name; begins with [`crate::PARTITION_NAME_PREFIX`].
    pub name: String,
    /// What it is for; `Data` also for members of arrays and the like.
    pub role: PartitionRole,
    /// GPT partition type.
    pub type_guid: Uuid,
    /// GPT unique partition GUID.
    pub guid: Uuid,
    /// First logical sector.
    pub first_lba: u64,
    /// Last logical sector, inclusive.
    pub last_lba: u64,
    /// It is on the disk already and stays as it is.
    pub kept: bool,
}

/// What is made between partitions and file systems, in this order. Devices are named without `/dev/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A RAID1 array.
    Raid {
        /// `md0`
        device: String,
        /// From the layout.
        name: String,
        /// Where its superblock lies.
        metadata: Metadata,
        /// How it is found again.
        uuid: Uuid,
        /// Two partitions or more.
        members: Vec<String>,
    },
    /// An open LUKS2 container.
    Luks {
        /// `mapper/NAME`
        device: String,
        /// From the layout; also that of its key in the task.
        name: String,
        /// How it is found again.
        uuid: Uuid,
        /// How the installed system opens it.
        unlock: Unlock,
        /// What holds it.
        below: String,
        /// Whether the root is in it: it is opened before there is a root.
        holds_root: bool,
    },
    /// An LVM volume group.
    Group {
        /// From the layout.
        name: String,
        /// Its physical volumes.
        members: Vec<String>,
    },
    /// A logical volume.
    Volume {
        /// `mapper/GROUP-NAME`
        device: String,
        /// Its group.
        group: String,
        /// From the layout.
        name: String,
        /// MiB; `None` is what the others leave.
        size_mib: Option<u64>,
    },
}

/// A file system of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFileSystem {
    /// What it is made on, without `/dev/`.
    pub device: String,
    /// Devices on other disks that hold the same, file by file: ESPs, which firmware reads each by itself.
    pub copies: Vec<String>,
    /// What it is for.
    pub role: PartitionRole,
    /// Which.
    pub fs: FileSystem,
    /// What it is found by.
    pub id: FsId,
    /// Where the whole of it is mounted in the installed system.
    pub mount: Option<String>,
    /// Mount options.
    pub options: Option<String>,
    /// btrfs: where parts of it are mounted.
    pub subvolumes: Vec<Subvolume>,
    /// It is there already and is not made anew.
    pub kept: bool,
}

/// What a file system is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsId {
    /// ext4, XFS, btrfs, swap.
    Uuid(Uuid),
    /// FAT volume id.
    Volume(u32),
    /// Partition GUID: of a kept partition, whose file system this plan does not make.
    Partition(Uuid),
}

impl fmt::Display for FsId {
    /// As `UUID=` or `PARTUUID=` in fstab and `blkid` show it: FAT is `1234-ABCD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) | Self::Partition(uuid) => write!(f, "{uuid}"),
            Self::Volume(id) => write!(f, "{:04X}-{:04X}", id >> 16, id & 0xffff),
        }
    }
}

/// A layout that cannot be put on a node's disks. Nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The layout contradicts itself.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Problems(Vec<Problem>),
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
        /// Kernel name of a disk, or name of an LVM group.
        disk: String,
        /// With the least for the growing partition.
        needed: String,
        /// Size of the disk.
        have: String,
    },
    /// Too small for its file system.
    #[error("{part}: {fs} needs at least {min_mib} MiB on this disk, it has {mib} MiB")]
    FileSystemSize {
        /// `partition 2`
        part: String,
        /// Which.
        fs: &'static str,
        /// Least.
        min_mib: u64,
        /// Asked for or left.
        mib: u64,
    },
    /// What is kept is not as the layout says.
    #[error("the kept partition {name:?} of {disk} {problem}")]
    Kept {
        /// Name in the layout.
        name: String,
        /// Kernel name.
        disk: String,
        /// In words, and what to do.
        problem: String,
    },
    /// Arrays, containers and groups that hold each other.
    #[error("{0} can't be made, because what holds it is inside it; give one of them a partition")]
    Circle(String),
}

impl Plan {
    /// Puts `layout` on `disk`, the only disk of its only set.
    ///
    /// # Errors
    /// As [`Self::on`].
    pub fn make(layout: &Layout, disk: &Disk, seeds: &Seeds) -> Result<Self, PlanError> {
        Self::on(layout, &Chosen { sets: vec![vec![disk.clone()]] }, seeds)
    }

    /// Puts `layout` on the disks that were chosen for it.
    ///
    /// # Errors
    /// [`PlanError`] when the layout contradicts itself or does not fit.
    pub fn on(layout: &Layout, chosen: &Chosen, seeds: &Seeds) -> Result<Self, PlanError> {
        let problems = layout.problems();
        if !problems.is_empty() {
            return Err(PlanError::Problems(problems));
        }
        stack::Builder::new(layout, seeds).build(chosen)
    }

    /// Every disk, with what becomes of it.
    #[must_use]
    pub fn disks(&self) -> &[PlannedDisk] {
        &self.disks
    }

    /// What is made between partitions and file systems, in this order.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Every file system, swap included.
    #[must_use]
    pub fn file_systems(&self) -> &[PlannedFileSystem] {
        &self.file_systems
    }

    /// The first partition of this role that is not a part of something else.
    #[must_use]
    pub fn find(&self, role: PartitionRole) -> Option<&PlannedPartition> {
        self.partitions().find(|partition| partition.role == role)
    }

    /// Every partition of every disk.
    pub fn partitions(&self) -> impl Iterator<Item = &PlannedPartition> {
        self.disks.iter().flat_map(|disk| &disk.partitions)
    }

    /// Disks whose BIOS boot partition takes a boot loader, by kernel name.
    pub fn bios_disks(&self) -> impl Iterator<Item = &str> {
        let boots =
            |disk: &&PlannedDisk| disk.partitions.iter().any(|one| one.role == PartitionRole::BiosBoot);
        self.disks.iter().filter(boots).map(|disk| disk.name.as_str())
    }

    /// The file system of this role.
    #[must_use]
    pub fn file_system(&self, role: PartitionRole) -> Option<&PlannedFileSystem> {
        self.file_systems.iter().find(|one| one.role == role)
    }

    /// The same plan for a root that comes block by block, with a UUID of its own.
    #[must_use]
    pub fn with_root(mut self, root: Uuid) -> Self {
        for one in self.file_systems.iter_mut().filter(|one| one.role == PartitionRole::Root) {
            one.id = FsId::Uuid(root);
        }
        self
    }

    /// Which file system holds a path of the installed system, and where in it, as a boot loader sees it that knows
    /// no mounts: `/boot/grub` may be `/@/boot/grub` of a btrfs or `/grub` of a boot partition.
    #[must_use]
    pub fn place_of(&self, path: &str) -> Option<(&PlannedFileSystem, String)> {
        let inside = |mount: &str| {
            let rest = path.strip_prefix(mount.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/')).then(|| (mount.len(), rest.to_owned()))
        };
        let places = self.file_systems.iter().flat_map(|one| {
            let whole =
                one.mount.iter().filter_map(move |mount| inside(mount).map(|(deep, rest)| (deep, one, rest)));
            let parts = one.subvolumes.iter().filter_map(move |subvolume| {
                let (deep, rest) = inside(&subvolume.mount)?;
                Some((deep, one, format!("/{}{rest}", subvolume.name)))
            });
            whole.chain(parts).collect::<Vec<_>>()
        });
        places.max_by_key(|(deep, ..)| *deep).map(|(_, one, rest)| (one, rest))
    }
}

impl PlannedPartition {
    /// Size in bytes.
    #[must_use]
    pub const fn size_bytes(&self, sector_bytes: u32) -> u64 {
        (self.last_lba - self.first_lba + 1) * sector_bytes as u64
    }
}

/// A version 8 UUID (RFC 9562 section 5.8) from the first 16 bytes of a keyed BLAKE3.
fn derive_uuid(purpose: &str, number: u32, seed: &[u8; 32]) -> Uuid {
    let mut hasher = blake3::Hasher::new_derive_key("esir disk-layout v1 identities");
    hasher.update(seed).update(purpose.as_bytes()).update(&[0]).update(&number.to_le_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// The identity of a file system on the part `number` of its kind.
fn identity(fs: FileSystem, purpose: &str, number: u32, rule: UuidRule, seeds: &Seeds) -> FsId {
    let seed = match rule {
        UuidRule::Image => &seeds.image_id,
        UuidRule::Random => &seeds.fresh,
    };
    let uuid = derive_uuid(purpose, number, seed);
    match fs {
        // FAT has 32 bits; 0 would read as "none".
        FileSystem::Vfat => FsId::Volume(uuid.as_fields().0.max(1)),
        _ => FsId::Uuid(uuid),
    }
}

#[cfg(test)]
mod tests;
