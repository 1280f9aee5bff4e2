//! The BitTorrent engine: decides which blocks to ask of whom, whom to serve and what to announce.
//!
//! Never opens a socket, reads a clock or touches a disk; time and chance are arguments, so the same code runs
//! in the agent, the server and a simulated world, and does the same thing for the same seed.
//!
//! Read first: [`Swarm`] (with the state diagram in its module), [`Action`], [`Metainfo`].
#![forbid(unsafe_code)]

pub mod bencode;
pub mod tracker;
pub mod wire;

mod addresses;
mod chance;
mod engine;
mod extension;
mod geometry;
mod metainfo;
mod moment;
mod picker;
mod piece_set;
mod pieces;
mod secret;

pub use addresses::ADDRESSES_MAX;
pub use chance::Chance;
pub use engine::{
    Action, AnnounceEvent, BlockVerdict, CheckOutcome, CloseReason, ConfigError, Counts, Event, HavePolicy,
    Limits, PeerKey, PeerView, Refusal, Swarm, SwarmConfig,
};
pub use extension::{ExtensionHandshake, HaveBatch, Nonce};
pub use geometry::{BLOCK_BYTES, Block, Geometry, GeometryError, PIECE_BYTES_MAX, PieceIndex};
pub use metainfo::{InfoHash, METAINFO_BYTES_MAX, Metainfo, MetainfoError, NAME_BYTES_MAX};
pub use moment::Moment;
pub use piece_set::PieceSet;
pub use secret::{Secret, Side};

/// Most pieces of a torrent: 256 Ki, which is 1 TiB in pieces of 4 MiB; a bitfield then takes 32 KiB.
pub const PIECES_MAX: u32 = 256 * 1024;
