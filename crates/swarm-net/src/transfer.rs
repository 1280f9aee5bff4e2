//! Downloading a torrent into a file, and seeding a file: what the command lines of people need.

use crate::config::{PeerConfig, PeerEvent, PeerStats, StartError};
use crate::hashing::verified_pieces;
use crate::peer::Peer;
use crate::store::FileStore;
use crate::web_seed::WebSeed;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use swarm::{Metainfo, PieceSet};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Which file to exchange with whom.
#[derive(Clone)]
pub struct Transfer {
    /// The torrent.
    pub metainfo: Metainfo,
    /// The file.
    pub path: PathBuf,
    /// Where to accept peers.
    pub listen: SocketAddr,
    /// The tracker, if there is one.
    pub announce_url: Option<String>,
    /// Peers that are known without a tracker.
    pub first_peers: Vec<SocketAddr>,
    /// The swarm secret; without one the swarm is open.
    pub secret: Option<[u8; 32]>,
    /// Where to fetch pieces that no peer gives.
    pub web_seed: Option<Arc<dyn WebSeed>>,
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file can't be written or read.
    #[error("using the file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file to seed is not the torrent's.
    #[error("{} is not the file of this torrent: {good} of {pieces} pieces have the right hash", path.display())]
    OtherFile {
        /// Which.
        path: PathBuf,
        /// Pieces whose hash is right.
        good: u32,
        /// All pieces.
        pieces: u32,
    },
    /// A piece could not be stored.
    #[error("storing a piece in {}: {error}", path.display())]
    NotStored {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: String,
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
    /// Bytes of it that are verified and stored.
    pub done_bytes: u64,
    /// Everything else.
    pub stats: PeerStats,
}

/// Fetches the file. Until it is complete its bytes lie in `PATH.part`, and a later fetch goes on from there;
/// then they are synced and get their name, so a file of that name is always whole. Ends when the file is
/// complete: to go on seeding, call [`seed_file`] with the same transfer.
pub async fn fetch_to_file(
    transfer: &Transfer,
    mut on_progress: impl FnMut(&Progress),
) -> Result<Progress, TransferError> {
    let mut part = transfer.path.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let (file, have) = open_part(&part, &transfer.metainfo).await?;
    let store = Arc::new(FileStore::new(file, transfer.metainfo.piece_length));
    let (bytes, mut stats) = (transfer.metainfo.length, PeerStats::default());
    if !have.is_full() {
        let config = PeerConfig { super_seed: false, ..transfer.config(store.clone(), have) };
        let peer = download(transfer, config, &mut on_progress).await?;
        stats = peer.stats();
        peer.shutdown().await;
    }
    let progress = Progress { bytes, done_bytes: bytes, stats };
    let (from, to) = (part.clone(), transfer.path.clone());
    let named = spawn_blocking(move || {
        store.file().sync_all()?;
        std::fs::rename(from, to)
    });
    named
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(|source| TransferError::File { path: part, source })?;
    on_progress(&progress);
    Ok(progress)
}

/// Runs a peer until it is complete.
async fn download(
    transfer: &Transfer,
    config: PeerConfig,
    on_progress: &mut impl FnMut(&Progress),
) -> Result<Peer, TransferError> {
    let mut peer = Peer::start(config).await?;
    let mut events = peer.events();
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(PeerEvent::Complete) => return Ok(peer),
                Some(PeerEvent::NotStored { error, .. }) => {
                    return Err(TransferError::NotStored { path: transfer.path.clone(), error });
                }
                Some(PeerEvent::PieceVerified(_) | PeerEvent::Corrupt { .. } | PeerEvent::Banned { .. }) => {}
                None => return Err(TransferError::Ended),
            },
            _ = ticks.tick() => on_progress(&transfer.progress(&peer)),
        }
    }
}

/// Seeds the file, after checking that it is the torrent's.
pub async fn seed_file(transfer: &Transfer) -> Result<Peer, TransferError> {
    let error = |source| TransferError::File { path: transfer.path.clone(), source };
    let file = File::open(&transfer.path).map_err(error)?;
    let (file, have) = checked(file, &transfer.metainfo).await.map_err(error)?;
    if !have.is_full() {
        let (path, good, pieces) = (transfer.path.clone(), have.count(), have.pieces());
        return Err(TransferError::OtherFile { path, good, pieces });
    }
    let store = Arc::new(FileStore::new(file, transfer.metainfo.piece_length));
    Ok(Peer::start(transfer.config(store, have)).await?)
}

impl Transfer {
    fn config(&self, store: Arc<FileStore>, have: PieceSet) -> PeerConfig {
        let config = PeerConfig::new(self.metainfo.clone(), store, have, self.listen);
        PeerConfig {
            announce_url: self.announce_url.clone(),
            first_peers: self.first_peers.clone(),
            secret: self.secret,
            open: self.secret.is_none(),
            web_seed: self.web_seed.clone(),
            ..config
        }
    }

    fn progress(&self, peer: &Peer) -> Progress {
        let stats = peer.stats();
        let bytes = self.metainfo.length;
        // Before the first statistics nothing is known to be done.
        let left = if stats.pieces == 0 { bytes } else { stats.left };
        Progress { bytes, done_bytes: bytes - left.min(bytes), stats }
    }
}

async fn open_part(path: &Path, metainfo: &Metainfo) -> Result<(File, PieceSet), TransferError> {
    let error = |source| TransferError::File { path: path.to_owned(), source };
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(error)?;
    checked(file, metainfo).await.map_err(error)
}

async fn checked(file: File, metainfo: &Metainfo) -> io::Result<(File, PieceSet)> {
    let metainfo = metainfo.clone();
    let check = spawn_blocking(move || {
        let have = verified_pieces(&file, &metainfo, &|_| {})?;
        Ok((file, have))
    });
    check.await.map_err(io::Error::other)?
}
