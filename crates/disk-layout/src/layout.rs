//! Layouts: what a site asks for.

mod read;
mod size;

use serde::{Deserialize, Serialize};

pub use size::{Size, parse_bytes};

/// What a node's disks should look like after a deployment. TOML in the site file, JSON in the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Which disks: one table for one set of like disks, or an array of tables.
    #[serde(rename = "disk", default = "one_set", deserialize_with = "read::one_or_more")]
    pub disks: Vec<Selector>,
    /// What may be on those disks already.
    #[serde(default)]
    pub wipe: WipePolicy,
    /// Partitions in disk order; each is made on every disk of its set.
    #[serde(rename = "partition", default = "default_partitions")]
    pub partitions: Vec<Part>,
    /// RAID1 arrays of partitions.
    #[serde(rename = "raid", default)]
    pub raids: Vec<Part>,
    /// LUKS2 containers on a partition or an array.
    #[serde(rename = "luks", default)]
    pub luks: Vec<Part>,
    /// Logical volumes.
    #[serde(rename = "volume", default)]
    pub volumes: Vec<Part>,
}

/// Conditions that a disk must all meet; none given means any fixed, writable disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Name of the set of disks that partitions refer to by `disk`; one set needs none.
    #[serde(default)]
    pub name: String,
    /// How many disks; each gets the same partitions. Default 1.
    #[serde(default)]
    pub count: Count,
    /// Serial number, shell-style pattern.
    pub serial: Option<String>,
    /// World-wide name, shell-style pattern.
    pub wwn: Option<String>,
    /// Model, shell-style pattern.
    pub model: Option<String>,
    /// Path below `/sys/devices`, shell-style pattern.
    pub path: Option<String>,
    /// At least so many bytes; a number or `"200GB"`.
    #[serde(default, alias = "size_min", deserialize_with = "read::bytes")]
    pub size_min_bytes: Option<u64>,
    /// At most so many bytes; a number or `"2TB"`.
    #[serde(default, alias = "size_max", deserialize_with = "read::bytes")]
    pub size_max_bytes: Option<u64>,
    /// Spinning or not.
    pub rotational: Option<bool>,
    /// How it is attached.
    pub transport: Option<crate::Transport>,
    /// What to do when more disks meet the conditions than are asked for.
    #[serde(default)]
    pub pick: Pick,
}

/// How many disks a set has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Count(pub u32);

impl Default for Count {
    fn default() -> Self {
        Self(1)
    }
}

/// What to do when more disks meet a selector's conditions than it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// Stop: the rule must name exactly so many.
    #[default]
    Only,
    /// The smallest; where that leaves a choice between disks of one size, stop.
    Smallest,
    /// The largest; where that leaves a choice between disks of one size, stop.
    Largest,
}

/// What may be on the chosen disks already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WipePolicy {
    /// Nothing: a disk with any signature stops the node.
    Blank,
    /// Nothing, or what this system wrote before (its GPT partition names say so) but for partitions that an earlier
    /// layout kept and this one does not.
    #[default]
    Ours,
    /// Anything; whoever approved the task accepts the loss.
    Any,
}

impl WipePolicy {
    /// Its word in layouts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::Ours => "ours",
            Self::Any => "any",
        }
    }
}

/// A partition, an array, a LUKS container or a logical volume, and what is on it: a file system, or a part of
/// something else. One type for the four, because a layout is mostly what is on them; the checks say which words
/// belong to which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Arrays, LUKS containers and volumes: its name. Partitions: needed with `keep`.
    #[serde(default)]
    pub name: String,
    /// Partitions: which set of disks; the first by default.
    pub disk: Option<String>,
    /// Volumes: its LVM group.
    pub group: Option<String>,
    /// Partitions and volumes: `"40GiB"`, a number of MiB, `"rest"`, or `"40GiB.."` for the rest, but not less.
    #[serde(default, alias = "size_mib")]
    pub size: Size,
    /// Arrays: where md's superblock lies.
    #[serde(default)]
    pub metadata: Metadata,
    /// LUKS: how the installed system opens it.
    #[serde(default)]
    pub unlock: Unlock,
    /// Partitions: survives deployments with everything in it.
    #[serde(default)]
    pub keep: bool,
    /// What it is for.
    #[serde(default)]
    pub role: PartitionRole,
    /// File system; by default what the role needs.
    pub fs: Option<FileSystem>,
    /// Where it is mounted in the installed system; by default what the role needs.
    pub mount: Option<String>,
    /// Mount options for fstab, in place of `defaults`.
    pub options: Option<String>,
    /// Whose file-system UUID it gets.
    #[serde(default)]
    pub uuid: UuidRule,
    /// btrfs: subvolumes with their mount points.
    #[serde(default)]
    pub subvolumes: Vec<Subvolume>,
    /// Part of this array, in place of a file system.
    pub raid: Option<String>,
    /// Part of this LVM group, in place of a file system.
    pub lvm: Option<String>,
    /// Holds this LUKS container, in place of a file system.
    pub luks: Option<String>,
}

/// A btrfs subvolume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subvolume {
    /// Its name at the top of the file system, such as `@home`.
    pub name: String,
    /// Where it is mounted.
    pub mount: String,
}

/// What a part is for; decides a partition's GPT type (UEFI specification, Discoverable Partitions Specification).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionRole {
    /// GRUB's core image for PC BIOS.
    BiosBoot,
    /// EFI system partition.
    Esp,
    /// `/boot`: kernels and GRUB's files, where the boot loader cannot read the root.
    Boot,
    /// Root file system.
    Root,
    /// Swap.
    Swap,
    /// Anything else, mounted where `mount` says.
    #[default]
    Data,
}

/// Where md keeps its superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metadata {
    /// At the start: the usual.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// At the end: each member looks like a plain file system, which firmware needs of an ESP.
    #[serde(rename = "1.0")]
    V1_0,
}

impl Metadata {
    /// As `mdadm --metadata` takes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_0 => "1.0",
        }
    }
}

/// How an installed system opens a LUKS container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlock {
    /// Somebody types the key at each start.
    #[default]
    Passphrase,
    /// By a key file that lies in the installed system, and in its initramfs if the root is in the container: nobody is
    /// asked. It protects what lies elsewhere than the key.
    Keyfile,
}

/// A file system that the agent can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// ext4 with features that GRUB 2.06 reads.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// FAT32.
    Vfat,
    /// Swap.
    Swap,
}

/// Whose UUID a file system gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UuidRule {
    /// Derived from the image id, so that nothing in the image needs an edit and every node has the same.
    #[default]
    Image,
    /// New on every deployment.
    Random,
}

impl Default for Layout {
    /// A BIOS boot partition and an ESP, so that the disk boots under either firmware, and one root for the rest.
    fn default() -> Self {
        Self {
            disks: one_set(),
            wipe: WipePolicy::default(),
            partitions: default_partitions(),
            raids: Vec::new(),
            luks: Vec::new(),
            volumes: Vec::new(),
        }
    }
}

fn one_set() -> Vec<Selector> {
    vec![Selector::default()]
}

fn default_partitions() -> Vec<Part> {
    let part = |role, size| Part { role, size, ..Part::default() };
    vec![
        part(PartitionRole::BiosBoot, Size::mib(1)),
        part(PartitionRole::Esp, Size::mib(512)),
        part(PartitionRole::Root, Size::REST),
    ]
}

impl PartitionRole {
    /// The word for this role in layouts, partition names and messages.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::BiosBoot => "bios-boot",
            Self::Esp => "esp",
            Self::Boot => "boot",
            Self::Root => "root",
            Self::Swap => "swap",
            Self::Data => "data",
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
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
            Self::Swap => "swap",
        }
    }
}
