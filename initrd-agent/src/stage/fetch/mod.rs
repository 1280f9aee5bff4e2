//! `fetch`: pieces become frames become files, out of order and in parallel.
//!
//! ```text
//!  peer --PieceVerified--> [table of contents complete?] --> Applier::begin
//!                               |                                 |
//!                               +--> FrameTracker --ready--> Workers --written--> journal, progress
//! ```

mod frames;
mod journal;
mod reuse;
mod workers;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use image_apply::ApplyError;
use image_format::{Manifest, Toc, TocError};
use node_api::{Progress, Recovery, Stage, TrafficCounts};
use swarm_net::{PeerEvent, StartError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Done;
use super::join::Joined;
use crate::api::Session;
use crate::failure::StageError;
use crate::image::Offer;
use crate::peer::{SwarmPeer, toc_pieces};
use crate::pieces::PieceCache;
use crate::report::Reporter;
use frames::FrameTracker;
use journal::Journal;
use reuse::ReuseError;
use workers::{FrameError, Workers};
use writer::Writer;

pub(crate) use journal::remove as remove_journal;
pub(crate) use reuse::{Aside, run_beside};
pub(crate) use writer::Place;

const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Each record flushes the disk, so it is not for every container.
const JOURNAL_EVERY: Duration = Duration::from_secs(30);
/// How often a fetch that gets nothing says so. It never ends by itself: the server may be restarting.
const STALL_MESSAGE_EVERY: Duration = Duration::from_secs(30);

/// The image is on the disk, written but not yet read back.
pub(crate) struct Fetched {
    pub(crate) peer: SwarmPeer,
    pub(crate) toc: Arc<Toc>,
    /// The same as it is in the image, compressed: for the installed system's record of what it was made from.
    pub(crate) table: Vec<u8>,
    pub(crate) traffic: TrafficCounts,
    /// Of that, what the server sent outside of the swarm, bytes.
    pub(crate) beside_bytes: u64,
}

/// Why the image is not on the disk. The disk does not boot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The peer.
    #[error("starting the peer")]
    Start(#[from] StartError),
    /// The peer ended, which only a bug does.
    #[error("the peer stopped by itself")]
    PeerEnded,
    /// The piece store on the disk.
    #[error("making room on the new root for the image's pieces; is it large enough?")]
    Room(#[source] std::io::Error),
    /// The pieces that hold the table of contents.
    #[error("reading the table of contents from the kept pieces")]
    TocRead(#[source] std::io::Error),
    /// The table itself.
    #[error("the image's table of contents is damaged although its pieces are right; make the image again")]
    Toc(#[from] TocError),
    /// Making directories and inodes, or owners and times; or a partition that is none.
    #[error("writing the image")]
    Apply(#[from] ApplyError),
    /// One frame.
    #[error("writing the image")]
    Frame(#[from] FrameError),
    /// The root's device.
    #[error("opening {device}")]
    Open {
        device: String,
        #[source]
        source: std::io::Error,
    },
    /// The root's device has no room for the image of a partition.
    #[error(
        "{device} has {have} bytes, and the partition in the image has {needed}; make the layout's root larger"
    )]
    TooSmall { device: String, have: u64, needed: u64 },
    /// There is no place for pieces.
    #[error("the image of a partition has {0} MiB, and its pieces have to fit into memory")]
    Memory(u64),
    /// Threads.
    #[error("starting the writing threads")]
    Threads(#[source] std::io::Error),
    /// The journal.
    #[error("writing the journal")]
    Journal(#[source] std::io::Error),
    /// The older system could not become the new one. The next try deploys in full.
    #[error("making the new system from the older one")]
    Reuse(#[from] ReuseError),
    /// A task died, which only a bug does.
    #[error("fetching stopped in the middle")]
    Stopped(#[from] tokio::task::JoinError),
}

impl StageError for FetchError {
    fn code(&self) -> &'static str {
        match self {
            Self::Start(_) | Self::PeerEnded => "swarm-start",
            Self::Room(_) | Self::TooSmall { .. } => "disk-full",
            Self::Memory(_) => "memory",
            Self::Toc(_) => "image-toc",
            Self::Apply(_) | Self::Frame(FrameError::Apply { .. }) => "write-image",
            Self::Journal(_) | Self::Open { .. } => "disk-write",
            Self::Reuse(_) => "reuse",
            Self::TocRead(_) | Self::Frame(_) | Self::Threads(_) | Self::Stopped(_) => "fetch-internal",
        }
    }

    fn recovery(&self) -> Recovery {
        match self {
            Self::Room(_) | Self::Toc(_) | Self::TooSmall { .. } | Self::Memory(_) => Recovery::Wait,
            _ => Recovery::Retry,
        }
    }
}

/// Fetches and writes the whole image. Endless while nothing arrives, with messages.
pub(crate) async fn run(
    joined: Joined,
    place: Place,
    offer: &Offer,
    session: &Session,
    reporter: &Reporter,
) -> Result<Done<Fetched>, FetchError> {
    let mut peer = match (joined, &place) {
        (Joined::Running(peer), _) => peer,
        (Joined::NeedsDisk, Place::Tree(root)) => {
            SwarmPeer::start(offer, session, cache_on_disk(root, offer)?).await?
        }
        (Joined::NeedsDisk, Place::Device(_)) => {
            return Err(FetchError::Memory(offer.image.manifest.file_size >> 20));
        }
    };
    let events = peer.events();
    let image_id = offer.image.manifest.image_id.to_string();
    let journal = match &place {
        Place::Tree(root) => Some(Journal::begin(root, &image_id).map_err(FetchError::Journal)?),
        Place::Device(_) => None,
    };
    let fetch = Fetch { peer, offer, place, reporter, journal };
    let (peer, toc) = fetch.run(events).await?;
    let table = read_table(peer.cache(), &offer.image.manifest)?;
    let (traffic, _) = peer.traffic();
    let detail = format!(
        "{} MiB from the server, {} MiB from nodes, {} entries",
        traffic.from_server_bytes >> 20,
        traffic.from_nodes_bytes >> 20,
        toc.entries().len()
    );
    Ok(Done { value: Fetched { peer, toc, table, traffic, beside_bytes: 0 }, detail })
}

fn cache_on_disk(root: &Path, offer: &Offer) -> Result<Arc<PieceCache>, FetchError> {
    let manifest = &offer.image.manifest;
    PieceCache::in_file(root, manifest.file_size, manifest.piece_size).map(Arc::new).map_err(FetchError::Room)
}

/// The compressed table of contents out of the pieces that hold it.
fn read_table(cache: &PieceCache, manifest: &Manifest) -> Result<Vec<u8>, FetchError> {
    let range = manifest.toc_range();
    let length = usize::try_from(range.end - range.start)
        .map_err(|error| FetchError::TocRead(std::io::Error::other(error)))?;
    let mut compressed = vec![0; length];
    cache.read(range.start, &mut compressed).map_err(FetchError::TocRead)?;
    Ok(compressed)
}

struct Fetch<'a> {
    peer: SwarmPeer,
    offer: &'a Offer,
    place: Place,
    reporter: &'a Reporter,
    /// `None` while a thread writes it, and where there is no tree to keep it in.
    journal: Option<Journal>,
}

/// What arrived before the table of contents could be read.
struct Collecting {
    toc_pieces: Range<u32>,
    verified: Vec<u32>,
    toc_missing: usize,
}

impl Collecting {
    fn new(toc_pieces: Range<u32>) -> Self {
        Self { toc_missing: toc_pieces.len(), toc_pieces, verified: Vec::new() }
    }

    /// Whether the table of contents is complete with this piece.
    fn piece_verified(&mut self, piece: u32) -> bool {
        if self.verified.contains(&piece) {
            return false;
        }
        self.verified.push(piece);
        if !self.toc_pieces.contains(&piece) {
            return false;
        }
        self.toc_missing -= 1;
        self.toc_missing == 0
    }
}

/// Reads the table of contents and makes from it what there is without any frame.
type Skeleton = JoinHandle<Result<(Arc<Toc>, Writer), FetchError>>;

/// What is written, and what still can be.
struct Writing {
    toc: Arc<Toc>,
    tracker: FrameTracker,
    workers: Workers,
    outcomes: mpsc::UnboundedReceiver<Result<u32, FrameError>>,
    written_frames: usize,
    written_bytes: u64,
    /// Finished and not yet in the journal.
    finished: Vec<u32>,
}

impl Fetch<'_> {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<PeerEvent>,
    ) -> Result<(SwarmPeer, Arc<Toc>), FetchError> {
        let (toc, writer, verified) = self.read_toc(&mut events).await?;
        let mut writing = self.begin_writing(toc, writer)?;
        for piece in verified {
            writing.piece_verified(piece);
        }
        self.write_all(&mut writing, &mut events).await?;
        let Writing { toc, workers, .. } = writing;
        tokio::task::spawn_blocking(move || match workers.stop() {
            Some(writer) => writer.finish().map_err(FetchError::from),
            None => Err(FetchError::PeerEnded),
        })
        .await??;
        Ok((self.peer, toc))
    }

    /// Takes pieces until the table of contents is in, and makes the skeleton from it. Pieces go on arriving.
    async fn read_toc(
        &self,
        events: &mut mpsc::Receiver<PeerEvent>,
    ) -> Result<(Arc<Toc>, Writer, Vec<u32>), FetchError> {
        let mut collecting = Collecting::new(toc_pieces(self.offer));
        let mut skeleton: Option<Skeleton> = None;
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        let mut stall = Stall::new();
        loop {
            tokio::select! {
                made = async { match skeleton.as_mut() { Some(task) => Some(task.await), None => None } },
                    if skeleton.is_some() =>
                {
                    let Some(made) = made else { continue };
                    let (toc, writer) = made??;
                    tracing::info!("table of contents: {} entries, {} frames", toc.entries().len(), toc.frames().len());
                    return Ok((toc, writer, collecting.verified));
                }
                event = events.recv() => {
                    if let Some(piece) = self.take(event)? {
                        stall.moved();
                        if collecting.piece_verified(piece) {
                            skeleton = Some(self.make_skeleton());
                        }
                    }
                }
                _ = tick.tick() => {
                    self.report_progress(0);
                    stall.say(&self.peer);
                }
            }
        }
    }

    fn make_skeleton(&self) -> Skeleton {
        let manifest = self.offer.image.manifest.clone();
        let cache = Arc::clone(self.peer.cache());
        let place = self.place.clone();
        tokio::task::spawn_blocking(move || {
            let compressed = read_table(&cache, &manifest)?;
            let toc = Arc::new(Toc::from_compressed(&compressed, &manifest)?);
            let writer = place.begin(&toc)?;
            Ok((toc, writer))
        })
    }

    fn begin_writing(&self, toc: Arc<Toc>, writer: Writer) -> Result<Writing, FetchError> {
        let manifest = &self.offer.image.manifest;
        let ranges = toc.frames().iter().map(image_format::FrameEntry::range);
        let tracker =
            FrameTracker::new(ranges, manifest.piece_count, manifest.piece_size, manifest.container_bytes);
        let (workers, outcomes) =
            Workers::start(writer, &toc, self.peer.cache()).map_err(FetchError::Threads)?;
        Ok(Writing {
            toc,
            tracker,
            workers,
            outcomes,
            written_frames: 0,
            written_bytes: 0,
            finished: Vec::new(),
        })
    }

    async fn write_all(
        &mut self,
        writing: &mut Writing,
        events: &mut mpsc::Receiver<PeerEvent>,
    ) -> Result<(), FetchError> {
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        let mut stall = Stall::new();
        let mut recorded = Instant::now();
        let mut recording: Option<JoinHandle<std::io::Result<Journal>>> = None;
        while writing.written_frames < writing.tracker.frames() {
            tokio::select! {
                event = events.recv() => {
                    if let Some(piece) = self.take(event)? {
                        stall.moved();
                        writing.piece_verified(piece);
                    }
                }
                outcome = writing.outcomes.recv() => {
                    stall.moved();
                    writing.frame_written(outcome.ok_or(FetchError::PeerEnded)??);
                }
                _ = tick.tick() => {
                    self.report_progress(writing.written_bytes);
                    stall.say(&self.peer);
                    if recording.as_ref().is_some_and(JoinHandle::is_finished)
                        && let Some(task) = recording.take()
                    {
                        self.journal = Some(task.await?.map_err(FetchError::Journal)?);
                    }
                    if recorded.elapsed() >= JOURNAL_EVERY && let Some(journal) = self.journal.take() {
                        recorded = Instant::now();
                        recording = Some(record(journal, std::mem::take(&mut writing.finished)));
                    }
                }
            }
        }
        if let Some(task) = recording {
            task.await?.map_err(FetchError::Journal)?;
        }
        self.report_progress(writing.written_bytes);
        Ok(())
    }

    /// The piece of an event, if it brought one.
    fn take(&self, event: Option<PeerEvent>) -> Result<Option<u32>, FetchError> {
        match event.ok_or(FetchError::PeerEnded)? {
            PeerEvent::PieceVerified(piece) => Ok(Some(piece)),
            PeerEvent::Complete => {
                tracing::info!("all pieces are here, kept in {}", self.peer.cache().place());
                Ok(None)
            }
            PeerEvent::Corrupt { piece, from } => {
                tracing::warn!("piece {piece} was corrupt, from {from:?}; it is fetched again");
                Ok(None)
            }
            PeerEvent::Banned { addr } => {
                tracing::warn!(
                    "{addr} sent corrupt pieces again and again and is shut out; look at that node"
                );
                self.reporter.broken_peer(addr.ip());
                Ok(None)
            }
            PeerEvent::NotStored { piece, error } => {
                tracing::warn!("piece {piece} could not be kept: {error}; it is fetched again");
                Ok(None)
            }
        }
    }

    fn report_progress(&self, done_bytes: u64) {
        let (traffic, peers) = self.peer.traffic();
        let total_bytes = self.offer.image.manifest.file_size;
        self.reporter.progress(Progress { stage: Stage::Fetch, done_bytes, total_bytes, traffic, peers });
    }
}

/// Records containers on a thread of its own, because it flushes the disk.
fn record(mut journal: Journal, containers: Vec<u32>) -> JoinHandle<std::io::Result<Journal>> {
    tokio::task::spawn_blocking(move || {
        journal.record(&containers)?;
        Ok(journal)
    })
}

impl Writing {
    fn piece_verified(&mut self, piece: u32) {
        for frame in self.tracker.piece_verified(piece) {
            self.workers.push(frame);
        }
    }

    fn frame_written(&mut self, frame: u32) {
        if let Some(written) = self.tracker.frame_written(frame) {
            self.written_frames += 1;
            self.written_bytes += written.bytes;
            self.finished.extend(written.finished_container);
        }
    }
}

/// Notices that nothing moves.
struct Stall {
    moved: Instant,
    said: Instant,
}

impl Stall {
    fn new() -> Self {
        Self { moved: Instant::now(), said: Instant::now() }
    }

    fn moved(&mut self) {
        self.moved = Instant::now();
    }

    fn say(&mut self, peer: &SwarmPeer) {
        let still = self.moved.elapsed();
        if still >= STALL_MESSAGE_EVERY && self.said.elapsed() >= STALL_MESSAGE_EVERY {
            self.said = Instant::now();
            let (_, peers) = peer.traffic();
            tracing::warn!(
                "nothing arrived for {} s, {peers} peers are connected; going on",
                still.as_secs()
            );
        }
    }
}

#[cfg(test)]
mod tests;
