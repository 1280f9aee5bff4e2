//! Who wants to hear of which keys.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::{Write, lock};

/// Changes that wait for a slow watcher; then it is told that it missed some.
const CHANGES_MAX: usize = 1024;

/// What a watcher hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A commit wrote these keys.
    Keys {
        /// Their version now, unless they were deleted.
        version: u64,
        /// Those that begin with the watched prefix.
        keys: Vec<String>,
    },
    /// Changes were dropped because nobody took them: list everything again.
    Missed,
}

/// The commits that touch one prefix, in order.
pub struct Watch {
    changes: Receiver<Change>,
}

impl Watch {
    /// The next change, waiting up to `timeout`. `None` when there was none, or never will be one again.
    #[must_use]
    pub fn next(&self, timeout: Duration) -> Option<Change> {
        self.changes.recv_timeout(timeout).ok()
    }
}

#[derive(Default)]
pub(crate) struct Watchers {
    list: Mutex<Vec<Watcher>>,
}

struct Watcher {
    prefix: String,
    changes: SyncSender<Change>,
    missed: bool,
}

impl Watchers {
    pub(crate) fn add(&self, prefix: &str) -> Watch {
        let (sender, changes) = sync_channel(CHANGES_MAX);
        lock(&self.list).push(Watcher { prefix: prefix.to_owned(), changes: sender, missed: false });
        Watch { changes }
    }

    /// Never blocks. Forgets watchers that are gone.
    pub(crate) fn tell(&self, version: u64, writes: &[Write]) {
        lock(&self.list).retain_mut(|watcher| watcher.tell(version, writes));
    }
}

impl Watcher {
    /// Whether anybody still listens.
    fn tell(&mut self, version: u64, writes: &[Write]) -> bool {
        let keys: Vec<String> = writes
            .iter()
            .map(|write| &write.key)
            .filter(|key| key.starts_with(&self.prefix))
            .cloned()
            .collect();
        if keys.is_empty() {
            return true;
        }
        if self.missed {
            match self.changes.try_send(Change::Missed) {
                Ok(()) => self.missed = false,
                Err(TrySendError::Full(_)) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        match self.changes.try_send(Change::Keys { version, keys }) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed = true;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}
