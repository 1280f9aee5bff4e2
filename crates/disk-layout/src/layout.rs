//! Layouts: what a site asks for.

use serde::{Deserialize, Serialize};

/// What a disk should look like after a deployment. TOML in the site file, JSON in the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Which disk; must match exactly one.
    #[serde(default)]
    pub disk: Selector,
    /// What may be on that disk already.
    #[serde(default)]
    pub wipe: WipePolicy,
    /// Partitions in disk order.
    #[serde(rename = "partition", default = "default_partitions")]
    pub partitions: Vec<Partition>,
}

/// Conditions that a disk must all meet; none given means any fixed, writable disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Serial number, shell-style pattern.
    pub serial: Option<String>,
    /// World-wide name, shell-style pattern.
    pub wwn: Option<String>,
    /// Model, shell-style pattern.
    pub model: Option<String>,
    /// Path below `/sys/devices`, shell-style pattern.
    pub path: Option<String>,
    /// At least so many bytes.
    pub size_min_bytes: Option<u64>,
    /// At most so many bytes.
    pub size_max_bytes: Option<u64>,
    /// Spinning or not.
    pub rotational: Option<bool>,
    /// How it is attached.
    pub transport: Option<crate::Transport>,
    /// What to do when several disks meet the conditions.
    #[serde(default)]
    pub pick: Pick,
}

/// What to do when several disks meet a selector's conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// Stop: the rule must name one disk.
    #[default]
    Only,
    /// The smallest; two of that size stop the node.
    Smallest,
    /// The largest; two of that size stop the node.
    Largest,
}

/// What may be on the chosen disk already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WipePolicy {
    /// Nothing: a disk with any signature stops the node.
    Blank,
    /// Nothing, or what this system wrote before (its GPT partition names say so).
    #[default]
    Ours,
    /// Anything; whoever approved the task accepts the loss.
    Any,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// What it is for.
    pub role: PartitionRole,
    /// Size in MiB; 0 takes what the others leave (at most one partition).
    #[serde(default)]
    pub size_mib: u64,
    /// File system; by default what the role needs.
    pub fs: Option<FileSystem>,
    /// Where it is mounted in the installed system; by default what the role needs.
    pub mount: Option<String>,
    /// Whose file-system UUID it gets.
    #[serde(default)]
    pub uuid: UuidRule,
}

/// What a partition is for; decides its GPT type (UEFI specification, Discoverable Partitions Specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionRole {
    /// GRUB's core image for PC BIOS.
    BiosBoot,
    /// EFI system partition.
    Esp,
    /// Root file system.
    Root,
    /// Swap.
    Swap,
    /// Anything else, mounted where `mount` says.
    Data,
}

/// A file system that the agent can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// ext4 with features that GRUB 2.06 reads.
    Ext4,
    /// XFS.
    Xfs,
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
        Self { disk: Selector::default(), wipe: WipePolicy::default(), partitions: default_partitions() }
    }
}

fn default_partitions() -> Vec<Partition> {
    let partition =
        |role, size_mib| Partition { role, size_mib, fs: None, mount: None, uuid: UuidRule::Image };
    vec![
        partition(PartitionRole::BiosBoot, 1),
        partition(PartitionRole::Esp, 512),
        partition(PartitionRole::Root, 0),
    ]
}
