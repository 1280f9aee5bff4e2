//! What images are made from: tar streams and the layers of container images, and how several of them become one tree;
//! what of a partition is in use; and disks as files: qcow2, partition tables, FAT.
//!
//! Never opens a file: whoever has the bytes passes them in as [`std::io::Read`], and nothing in them is trusted.
//!
//! Read first: [`Member`] (one name of a source), [`TarReader`] (a stream of them), [`Merge`] (sources in order -> a
//! tree).
#![forbid(unsafe_code)]

mod acl;
mod blocks;
pub mod disk;
mod error;
mod member;
mod merge;
pub mod oci;
mod tar;
mod unpack;

pub use acl::acl_text;
pub use blocks::{BlocksError, Found, ReadAt, find_file_system};
pub use error::{SourceError, printable};
pub use member::{Member, MemberKind, split_path};
pub use merge::{Merge, Over};
pub use tar::TarReader;
pub use unpack::{Compression, unpack};
