//! Hashing and storing of whole pieces, on threads of their own.

use crate::buffers::Buffer;
use crate::config::PieceHashes;
use crate::driver::Input;
use crate::store::PieceStore;
use sha1::{Digest, Sha1};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use swarm::{CheckOutcome, Metainfo, PieceIndex};
use tokio::sync::mpsc;

/// Hashing threads: more than the store and the network can keep busy are of no use.
const THREADS_MAX: usize = 4;

/// Jobs that wait at one thread. The engine's bound on pieces in memory (1024) is the real one.
const QUEUE: usize = 1024;

/// A piece whose bytes are all here.
pub(crate) struct Job {
    pub(crate) piece: PieceIndex,
    /// Its bytes, in order, each part with its length.
    pub(crate) parts: Vec<(Buffer, usize)>,
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
    fn run(self) {
        while let Ok(job) = self.jobs.recv() {
            let (outcome, error) = self.check(&job);
            // Its buffers are free before the engine knows that there is room for another piece.
            let piece = job.piece;
            drop(job);
            if self.results.blocking_send(Input::Checked { piece, outcome, error }).is_err() {
                return;
            }
        }
    }

    fn check(&self, job: &Job) -> (CheckOutcome, Option<io::Error>) {
        let parts: Vec<&[u8]> =
            job.parts.iter().filter_map(|(buffer, length)| buffer.bytes().get(..*length)).collect();
        let at = job.piece.get() as usize;
        let good = match self.expected.as_ref() {
            Expected::Sha1(hashes) => hashes.get(at).is_some_and(|hash| sha1(&parts).as_slice() == hash),
            Expected::Blake3(hashes) => hashes.get(at).is_some_and(|hash| blake3(&parts) == *hash),
        };
        if !good {
            return (CheckOutcome::Corrupt, None);
        }
        match self.store.write_piece_parts(job.piece.get(), &parts) {
            Ok(()) => (CheckOutcome::Stored, None),
            Err(error) => (CheckOutcome::NotStored, Some(error)),
        }
    }
}

fn sha1(parts: &[&[u8]]) -> sha1::digest::Output<Sha1> {
    let mut hasher = Sha1::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn blake3(parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    hasher.finalize()
}
