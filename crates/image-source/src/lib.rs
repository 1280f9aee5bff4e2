//! What images are made from: tar streams and the layers of container images; and how several of them become one tree.
//!
//! Never opens a file: whoever has the bytes passes them in as [`std::io::Read`], and nothing in them is trusted.
//!
//! Read first: [`Member`] (one name of a source), [`TarReader`] (a stream of them), [`Merge`] (sources in order -> a
//! tree).
#![forbid(unsafe_code)]

mod acl;
mod error;
mod member;
mod merge;
pub mod oci;
mod tar;
mod unpack;

pub use error::{SourceError, printable};
pub use member::{Member, MemberKind, split_path};
pub use merge::{Merge, Over};
pub use tar::TarReader;
pub use unpack::{Compression, unpack};
