//! The one thread that writes. Commits that arrive while another is being synced go into the next batch
//! together: one sync for all of them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rusqlite::{Connection, TransactionBehavior};

use crate::watch::Watchers;
use crate::{Commit, StoreError, Write, lock, sqlite};

/// Commits that wait; further callers block until there is room.
const QUEUE_MAX: usize = 1024;
/// Commits of one batch. A sync takes a few ms; so many small commits add less than that to it.
const BATCH_MAX: usize = 256;

/// The writing thread; dropping it finishes what was begun and ends it.
pub(crate) struct Writer {
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    writes: Vec<Write>,
    reply: SyncSender<Result<Commit, StoreError>>,
}

impl Writer {
    pub(crate) fn start(
        connection: Arc<Mutex<Connection>>,
        watchers: Arc<Watchers>,
    ) -> Result<Self, StoreError> {
        let (requests, queue) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run(&connection, &watchers, &queue))
            .map_err(|_| StoreError::Closed)?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Blocks until the batch with these writes is on disk.
    pub(crate) fn commit(&self, writes: Vec<Write>) -> Result<Commit, StoreError> {
        let (reply, answer) = sync_channel(1);
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests.send(Request { writes, reply }).map_err(|_| StoreError::Closed)?;
        answer.recv().map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to finish.
            let _ = thread.join();
        }
    }
}

fn run(connection: &Mutex<Connection>, watchers: &Watchers, queue: &Receiver<Request>) {
    while let Ok(first) = queue.recv() {
        let batch: Vec<Request> =
            std::iter::once(first).chain(queue.try_iter().take(BATCH_MAX - 1)).collect();
        let outcome = commit_batch(&mut lock(connection), &batch);
        match outcome {
            Ok(commits) => {
                for (request, commit) in batch.iter().zip(&commits) {
                    if let Commit::Done { version } = commit {
                        watchers.tell(*version, &request.writes);
                    }
                }
                for (request, commit) in batch.iter().zip(commits) {
                    // Nobody waits any more: the caller's thread is gone, the commit stands.
                    let _ = request.reply.send(Ok(commit));
                }
            }
            Err(StoreError::Database(error)) => {
                for request in &batch {
                    let _ = request.reply.send(Err(StoreError::Database(Arc::clone(&error))));
                }
            }
            Err(_) => return,
        }
    }
}

/// All commits of a batch in one transaction. If the database fails, none of them happened.
fn commit_batch(connection: &mut Connection, batch: &[Request]) -> Result<Vec<Commit>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let commits: Vec<Commit> =
        batch.iter().map(|request| sqlite::apply(&transaction, &request.writes)).collect::<Result<_, _>>()?;
    transaction.commit()?;
    Ok(commits)
}
