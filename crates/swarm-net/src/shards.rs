//! The threads that carry the network: each an event loop of its own, so that one core is never the ceiling.
//! The first one also runs the engine; the others have nothing but connections.

use std::io;
use std::num::NonZero;
use std::sync::mpsc::sync_channel;
use std::thread;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// Most network threads. One carries more than a gigabyte per second, so four fill 25 Gbit/s links with room.
const SHARDS_MAX: usize = 4;

/// Threads per shard that wait for a store without a file, or for a disk.
const BLOCKING_THREADS_MAX: usize = 4;

/// How many threads carry the network if nothing else is said: half of the cores; the other half hash and
/// store. A machine of two cores has one, which saves it the hops between threads.
pub(crate) fn default_count() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    (cores / 2).clamp(1, SHARDS_MAX)
}

/// Starts a thread with an event loop and runs `body` on it. Gives what spawns tasks there.
pub(crate) fn start_thread(
    number: usize,
    body: impl FnOnce(&Runtime) + Send + 'static,
) -> io::Result<Handle> {
    let (report, started) = sync_channel(1);
    thread::Builder::new().name(format!("swarm-net-{number}")).spawn(move || {
        let mut builder = Builder::new_current_thread();
        match builder.enable_io().enable_time().max_blocking_threads(BLOCKING_THREADS_MAX).build() {
            Ok(runtime) => {
                // Nobody listens: then nobody needs this thread.
                if report.send(Ok(runtime.handle().clone())).is_ok() {
                    body(&runtime);
                }
            }
            Err(error) => {
                let _ = report.send(Err(error));
            }
        }
    })?;
    started.recv().map_err(io::Error::other)?
}

/// All threads by turns.
pub(crate) struct Shards {
    handles: Vec<Handle>,
    next: usize,
    /// Dropped with this; then the threads end.
    _alive: Vec<oneshot::Sender<()>>,
}

impl Shards {
    /// Starts all threads but the first, which is the caller's.
    pub(crate) fn start(count: usize) -> io::Result<Shards> {
        let (mut handles, mut alive) = (Vec::new(), Vec::new());
        for number in 1..count.clamp(1, SHARDS_MAX) {
            let (sender, ended) = oneshot::channel::<()>();
            handles.push(start_thread(number, move |runtime| {
                let _ = runtime.block_on(ended);
            })?);
            alive.push(sender);
        }
        Ok(Shards { handles, next: 0, _alive: alive })
    }

    /// The thread for the next connection. Called on the first one.
    pub(crate) fn pick(&mut self) -> Handle {
        self.next = (self.next + 1) % (self.handles.len() + 1);
        self.handles.get(self.next).cloned().unwrap_or_else(Handle::current)
    }
}
