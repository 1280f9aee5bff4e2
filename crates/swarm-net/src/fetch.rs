//! Downloading a torrent into a file and seeding a file: what `image-tools fetch` and `seed` need.

use crate::config::{PeerConfig, PeerEvent, PeerStats, StartError};
use crate::peer::Peer;
use crate::store::FileStore;
use sha1::{Digest, Sha1};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use swarm::{Metainfo, PieceSet};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// What to fetch, and where to.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// The torrent.
    pub metainfo: Metainfo,
    /// The file to make. Until it is complete, its bytes lie beside it in `OUTPUT.part`, and a later fetch goes
    /// on from there.
    pub output: PathBuf,
    /// How to take part; the fields that concern pieces and store are overwritten.
    pub configure: fn(PeerConfig) -> PeerConfig,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The file can't be written or read.
    #[error("using the file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The peer can't start.
    #[error("starting the peer")]
    Start(#[from] StartError),
    /// The peer ended by itself.
    #[error("the peer ended before the file was complete")]
    Ended,
}

/// How far a fetch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes that are verified and stored.
    pub done_bytes: u64,
    /// Everything else.
    pub stats: PeerStats,
}
