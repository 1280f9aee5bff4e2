//! Which disk a node gets its system on, and in which shape: layouts, selectors and plans as values.
//!
//! Never opens a device, reads sysfs or runs a tool.
//!
//! Read first: [`Layout`], [`Disk`], [`Plan`].
#![forbid(unsafe_code)]

mod choose;
mod disk;
mod glob;
mod layout;
mod plan;

pub use choose::{ChooseError, choose};
pub use disk::{Disk, OURS_SIGNATURE, PARTITION_NAME_PREFIX, Transport, is_our_partition_name};
pub use layout::{FileSystem, Layout, Partition, PartitionRole, Pick, Selector, UuidRule, WipePolicy};
pub use plan::{FsId, Plan, PlanError, PlannedPartition, Seeds};
