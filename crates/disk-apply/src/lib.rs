//! The disks that a layout names: from "may be written" to mounted file systems.
//!
//! Never writes to a disk that the layout's own rule did not choose, or that anybody uses.
//!
//! ```text
//!  ClearedDisks::open (rule, holders, O_EXCL) -> wipe -> write tables -> announce -> Partitioned
//!     -> RAID, LUKS, LVM -> make_file_systems -> Formatted -> Mounted::mount
//! ```
//! An older system that stays to be made the new one goes another way: see `older`; so does a root that comes block by
//! block: see `given`.
//! Nothing else opens a disk for writing. Everything is mounted below `/mnt`: where that is not ours alone, the caller
//! takes a mount namespace first.
//!
//! Read first: [`ClearedDisks`], [`make_file_systems`], [`Mounted`].
#![deny(unsafe_code)]

mod cleared;
mod format;
mod given;
mod mounts;
mod older;
mod partitions;
mod stack;
mod superblock;
#[allow(unsafe_code, reason = "the one place for calls that have no safe wrapper")]
mod sys;
mod table;
mod tool;

pub use cleared::{ClearError, ClearedDisks};
pub use format::{FormatError, Formatted, RootFrom, make_file_systems, modules_for, tools_for};
pub use given::{GivenRootError, check_given_root};
pub use mounts::{MountError, Mounted, flush, flush_and_forget, release};
pub use older::{OlderPlace, OlderSystem, Wanted};
pub use partitions::partitions;
pub use stack::{StackError, check_keys};
pub use tool::NO_UDEV;
