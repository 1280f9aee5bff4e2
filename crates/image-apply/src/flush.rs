//! Keeps the disk busy while the processors decompress: data goes out as it comes, not in one burst at the end.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// Data that is collected before it is written out: enough for the file system to lay files out one behind the other,
/// little enough that nodes with 512 MiB of memory never wait for it.
const FLUSH_BYTES: u64 = 64 << 20;

/// A thread that syncs the file system now and then.
#[derive(Debug)]
pub(crate) struct Flusher {
    /// Bytes since the last wake-up.
    pending: AtomicU64,
    wake: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flusher {
    /// For the file system that `root` is on.
    pub(crate) fn start(root: BorrowedFd<'_>) -> io::Result<Self> {
        let root: OwnedFd = root.try_clone_to_owned()?;
        let (wake, woken) = sync_channel::<()>(1);
        let thread = std::thread::Builder::new().name("flush".to_owned()).spawn(move || {
            while woken.recv().is_ok() {
                rustix::fs::syncfs(&root)?;
            }
            Ok(())
        })?;
        Ok(Self { pending: AtomicU64::new(0), wake, thread })
    }

    /// Takes note of data that was written; never waits.
    pub(crate) fn wrote(&self, bytes: u64) {
        let before = self.pending.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes >= FLUSH_BYTES {
            self.pending.store(0, Ordering::Relaxed);
            // Full: it is awake already. Gone: it failed, which `stop` says.
            let _: Result<(), TrySendError<()>> = self.wake.try_send(());
        }
    }

    /// Waits for the thread.
    ///
    /// # Errors
    /// What a sync said.
    pub(crate) fn stop(self) -> io::Result<()> {
        drop(self.wake);
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
