//! A TFTP server that only reads: boot programs for firmware that knows nothing better.
//!
//! Never opens a file: what there is to read is a [`FileSource`]'s, by name. What goes over the wire when is the
//! crate `tftp`'s; here are sockets, threads and bounds. Why not a crate of others: `docs/decisions/0001-own-tftp.md`;
//! why threads of its own: `docs/decisions/0005-tftp-shards.md`.

mod counters;
mod driver;
mod places;
mod shard;
mod socket;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use axum::body::Bytes;

pub(super) use driver::Tftp;

/// The seam to whatever nodes may read.
pub(super) trait FileSource: Send + Sync {
    /// The file with this name for the node with this address. `name` is a relative path without `.` and `..`.
    /// May block for milliseconds: it is called on a thread that may wait.
    fn open(&self, name: &str, node: Ipv4Addr) -> Option<Bytes>;

    /// The node has acknowledged all of the file. Called where nothing may wait.
    fn sent(&self, _name: &str, _node: Ipv4Addr) {}
}
