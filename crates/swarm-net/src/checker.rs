//! Hashing and storing of whole pieces, on threads of their own.

use crate::buffers::Buffer;
use crate::config::PieceHashes;
use crate::driver::Input;
use crate::sha1_lanes::{LANES, sha1_of_each};
use crate::store::PieceStore;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use swarm::{CheckOutcome, Metainfo, PieceIndex};
use tokio::sync::mpsc;

/// Hashing threads, at most half of the cores: the other half carry the network. More than these outrun every store.
const THREADS_MAX: usize = 4;

/// Jobs that wait at one thread. The engine's bound on pieces in memory (1024) is the real one.
const QUEUE: usize = 1024;

/// A piece whose bytes are all here.
pub(crate) struct Job {
    pub(crate) piece: PieceIndex,
    /// Its bytes, in order, each part with its length.
    pub(crate) parts: Vec<(Buffer, usize)>,
}

impl Job {
    fn bytes(&self) -> Vec<&[u8]> {
        self.parts.iter().filter_map(|(buffer, length)| buffer.bytes().get(..*length)).collect()
    }
}

/// The threads; they end when this is dropped.
pub(crate) struct Checker {
    threads: Vec<SyncSender<Job>>,
    next: usize,
}

struct Worker {
    jobs: Receiver<Job>,
    expected: Arc<Expected>,
    store: Arc<dyn PieceStore>,
    results: mpsc::Sender<Input>,
}

enum Expected {
    Sha1(Vec<[u8; 20]>),
    Blake3(Vec<[u8; 32]>),
}

impl Checker {
    pub(crate) fn start(
        metainfo: &Metainfo,
        hashes: PieceHashes,
        store: &Arc<dyn PieceStore>,
        results: &mpsc::Sender<Input>,
    ) -> io::Result<Checker> {
        let expected = Arc::new(match hashes {
            PieceHashes::Sha1 => Expected::Sha1(metainfo.pieces.clone()),
            PieceHashes::Blake3(hashes) => Expected::Blake3(hashes),
        });
        let count =
            thread::available_parallelism().map_or(1, |count| (count.get() / 2).clamp(1, THREADS_MAX));
        let mut threads = Vec::new();
        for number in 0..count {
            let (sender, jobs) = sync_channel(QUEUE);
            let worker =
                Worker { jobs, expected: expected.clone(), store: store.clone(), results: results.clone() };
            thread::Builder::new().name(format!("piece-check-{number}")).spawn(move || worker.run())?;
            threads.push(sender);
        }
        Ok(Checker { threads, next: 0 })
    }

    /// Gives a piece to the next thread; gives it back if that one is overrun, which the engine's bounds rule
    /// out.
    pub(crate) fn submit(&mut self, job: Job) -> Result<(), Job> {
        self.next = (self.next + 1) % self.threads.len().max(1);
        let Some(thread) = self.threads.get(self.next) else { return Err(job) };
        thread.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

impl Worker {
    /// Takes all that waits, up to what can be hashed at once.
    fn run(self) {
        while let Ok(job) = self.jobs.recv() {
            let jobs: Vec<Job> = std::iter::once(job).chain(self.jobs.try_iter().take(LANES - 1)).collect();
            let good = self.good(&jobs);
            for (job, good) in jobs.into_iter().zip(good) {
                let (outcome, error) = if good { self.store(&job) } else { (CheckOutcome::Corrupt, None) };
                // Its buffers are free before the engine knows that there is room for another piece.
                let piece = job.piece;
                drop(job);
                if self.results.blocking_send(Input::Checked { piece, outcome, error }).is_err() {
                    return;
                }
            }
        }
    }

    /// Whether each has the hash that it should.
    fn good(&self, jobs: &[Job]) -> Vec<bool> {
        let expected = |job: &Job| job.piece.get() as usize;
        match self.expected.as_ref() {
            Expected::Sha1(hashes) => {
                let pieces: Vec<Vec<&[u8]>> = jobs.iter().map(Job::bytes).collect();
                let found = sha1_of_each(&pieces);
                jobs.iter().zip(&found).map(|(job, found)| hashes.get(expected(job)) == Some(found)).collect()
            }
            Expected::Blake3(hashes) => {
                let is_good =
                    |job: &Job| hashes.get(expected(job)).is_some_and(|hash| blake3(&job.bytes()) == *hash);
                jobs.iter().map(is_good).collect()
            }
        }
    }

    fn store(&self, job: &Job) -> (CheckOutcome, Option<io::Error>) {
        match self.store.write_piece_parts(job.piece.get(), &job.bytes()) {
            Ok(()) => (CheckOutcome::Stored, None),
            Err(error) => (CheckOutcome::NotStored, Some(error)),
        }
    }
}

fn blake3(parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    hasher.finalize()
}
