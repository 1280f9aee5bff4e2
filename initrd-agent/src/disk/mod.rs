//! The disks that the task names: from "may be written" to mounted file systems.
//!
//! ```text
//!  ClearedDisks::open (rule, holders, O_EXCL) -> wipe -> write tables -> announce -> Partitioned
//!     -> RAID, LUKS, LVM -> make_file_systems -> Formatted -> Mounted::mount
//! ```
//! An older system that stays to be made the new one goes another way: see `older`; so does a root that comes block by
//! block: see `given`.
//! Nothing else in the agent opens a disk for writing.

mod cleared;
mod format;
mod given;
mod mounts;
mod older;
mod stack;
mod superblock;
mod table;
mod tool;

pub(crate) use cleared::{ClearError, ClearedDisks};
pub(crate) use format::{FormatError, Formatted, RootFrom, make_file_systems, modules_for, tools_for};
pub(crate) use given::{GivenRootError, check_given_root};
pub(crate) use mounts::{MountError, Mounted, flush, flush_and_forget, release};
pub(crate) use older::{OlderPlace, OlderSystem, Wanted};
pub(crate) use stack::{StackError, check_keys};
pub(crate) use tool::NO_UDEV;

#[cfg(test)]
mod tests;
