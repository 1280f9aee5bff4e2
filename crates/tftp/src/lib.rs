//! TFTP as boot servers and firmware speak it: packets, one file to a node, one file from a server.
//!
//! Never opens a socket or a file, never reads a clock; has no way to write a file on the server.
//!
//! Read first: [`Transfer`] (the server's side), [`Fetch`] (the node's side), [`Packet`].
//!
//! RFC 1350 (protocol), 2347 (options), 2348 (blksize), 2349 (timeout, tsize), 7440 (windowsize).
//! Why it is our own: `docs/decisions/0001-own-tftp.md`.
#![forbid(unsafe_code)]

mod burst;
mod fetch;
mod packet;
mod transfer;

pub use burst::Burst;
pub use fetch::{Fetch, FetchOptions, FetchOutcome};
pub use packet::{NAME_BYTES_MAX, Packet, ReadRequest, Reply, error_code, error_packet};
pub use transfer::{
    BLOCK_BYTES_MAX, Outcome, TIMEOUTS_MAX, TIMEOUTS_UNPROVEN_MAX, Transfer, WINDOW_BLOCKS_MAX,
};

/// The number of a block on the wire: 16 bits that roll over to 0.
fn on_wire(block: u64) -> u16 {
    let [.., high, low] = block.to_be_bytes();
    u16::from_be_bytes([high, low])
}
