//! Which disks a node gets its system on, and in which shape: layouts, selectors and plans as values.
//!
//! Never opens a device, reads sysfs or runs a tool.
//!
//! Read first: [`Layout`], [`Disk`], [`Plan`].
//!
//! ```text
//! TOML -> Layout --problems--> good by itself --choose(inventory)--> Chosen --Plan::on--> Plan
//! ```
#![forbid(unsafe_code)]

mod check;
mod choose;
mod disk;
mod glob;
mod layout;
mod plan;

pub use check::{Kind, Problem};
pub use choose::{ChooseError, Chosen, choose};
pub use disk::{
    Disk, FoundPartition, KEPT_NAME_PREFIX, OURS_SIGNATURE, PARTITION_NAME_PREFIX, Transport,
    is_our_partition_name,
};
pub use layout::{
    Count, FileSystem, Layout, Metadata, Part, PartitionRole, Pick, Selector, Size, Subvolume, Unlock,
    UuidRule, WipePolicy, parse_bytes,
};
pub use plan::{
    CrypttabEntry, FsId, Layer, Plan, PlanError, PlannedDisk, PlannedFileSystem, PlannedPartition, Seeds,
    key_path, mdadm_uuid,
};
