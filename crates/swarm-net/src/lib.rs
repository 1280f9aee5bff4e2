//! Drives the BitTorrent engine over real sockets: the peer, its store, the announce and web-seed fetches.
//!
//! Never decides what to ask, whom to serve or what to announce: that is the engine's ([`swarm::Swarm`]).
//!
//! Read first: [`Peer`], [`PeerConfig`], [`PieceStore`].
#![deny(unsafe_code)]

mod announce;
mod buffers;
mod checker;
mod clock;
mod config;
mod connection;
mod driver;
mod hashing;
mod http;
mod intake;
mod low_water;
mod outlet;
mod peer;
mod sha1_lanes;
mod shards;
mod stats_json;
mod store;
mod sys;
mod web_seed;

pub use clock::Clock;
pub use config::{PeerConfig, PeerEvent, PeerStats, PieceHashes, StartError};
pub use hashing::{piece_hashes, verified_pieces};
pub use http::{HttpError, http_get};
pub use peer::Peer;
pub use store::{FileStore, MemoryStore, PieceStore, write_parts_at};
pub use web_seed::{HttpWebSeed, WebSeed};

pub use swarm::tracker::{Admission, AnnounceReply, AnnounceRequest, Racks, Tracker, TrackerConfig};
pub use swarm::{HavePolicy, InfoHash, Limits, Metainfo, PieceSet, Secret};
