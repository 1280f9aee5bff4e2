//! Writes an image into a directory, or onto a partition, frame by frame, in any order; and reads it back.
//!
//! Never writes a byte whose frame hash it has not checked, never leaves the root directory it was given, and never
//! follows a symbolic link.
//!
//! Read first: [`Applier`], [`verify_tree`], [`PartitionWriter`], [`Inode`].
#![forbid(unsafe_code)]

mod applier;
mod beneath;
mod buffers;
mod contents;
mod finish;
mod flush;
mod inode;
mod parallel;
mod partition;
mod redeploy;
mod reuse;
mod skeleton;
mod verify;
mod write;

pub use applier::{AppliedTree, Applier, ApplyError};
pub use inode::{FileType, Inode, read_inode};
pub use partition::{PartitionWriter, verify_partition};
pub use redeploy::{RECORD_MANIFEST, RECORD_TABLE, RedeployError, Redeployment, read_record};
pub use reuse::{Reused, Source, WORK_DIRECTORY, remove_all, remove_aside, set_aside, staged_name};
pub use verify::{VerifyError, VerifyReport, verify_tree, verify_tree_at};

pub use beneath::{is_plain_file_system, open_directory, open_file, open_root};
