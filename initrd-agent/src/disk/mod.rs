//! The one disk that the task names: from "may be written" to mounted file systems.
//!
//! ```text
//!  ClearedDisk::open (rule, holders, O_EXCL) -> wipe -> write_table -> announce -> Partitioned
//!     -> make_file_systems -> Formatted -> Mounted::mount
//! ```
//! Nothing else in the agent opens a disk for writing.

mod cleared;
mod format;
mod mounts;
mod table;

pub(crate) use cleared::{ClearError, ClearedDisk};
pub(crate) use format::{FormatError, make_file_systems, modules_for, tools_for};
pub(crate) use mounts::{MountError, Mounted, release};

#[cfg(test)]
mod tests;
