//! A TFTP server that only reads: boot programs for firmware that knows nothing better.
//!
//! Never opens a file: what there is to read is a [`FileSource`]'s, by name.
//! RFC 1350 (protocol), 2347 (options), 2348 (blksize), 2349 (timeout, tsize), 7440 (windowsize).
//! Why not a crate: `docs/decisions/0001-own-tftp.md`.

mod driver;
mod request;
mod transfer;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use axum::body::Bytes;

pub(super) use driver::Tftp;

/// The seam to whatever nodes may read.
pub(super) trait FileSource: Send + Sync {
    /// The file with this name for the node with this address. `name` has no leading slash.
    fn open(&self, name: &str, node: Ipv4Addr) -> Option<Bytes>;
}
