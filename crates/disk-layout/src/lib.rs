//! Which disk a node gets its system on, and in which shape: layouts, selectors and plans as values.
//!
//! Never opens a device, reads sysfs or runs a tool.
//!
//! Read first: [`Layout`], [`Disk`].
#![forbid(unsafe_code)]

mod disk;
mod layout;

pub use disk::{Disk, Transport};
pub use layout::{FileSystem, Layout, Partition, PartitionRole, Pick, Selector, UuidRule, WipePolicy};
