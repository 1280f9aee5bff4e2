//! Keeps the system's state as versioned keys and values: what is acknowledged is on disk.
//!
//! Never overwrites anything that the caller has not seen: compare-and-put is the only write.
//!
//! Read first: [`Store`], [`Write`], [`Commit`].
//!
//! Versions come from one counter of the whole store, as in etcd: a key that is deleted and made again has a
//! higher version than before, so a version that was read once never comes back with another value.
#![forbid(unsafe_code)]

mod sqlite;
mod watch;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

pub use watch::{Change, Watch};

/// Keys are paths such as `node/NAME`; longer ones are a mistake of the caller.
pub const KEY_BYTES_MAX: usize = 512;
/// Values are small records; images and logs do not belong here.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// Writes of one commit; more would hold up everybody else's commits for too long.
pub const WRITES_MAX: usize = 1024;

/// The state of one server. Cheap to clone; every clone is the same store. Calls block for milliseconds.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    writer: writer::Writer,
    /// For a file, a connection of its own, so that reading never waits for a commit; for `memory:` the
    /// writer's connection, because nothing else can see that database.
    reader: Arc<Mutex<Connection>>,
    watchers: Arc<watch::Watchers>,
}

/// A value and the version of the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// What was written.
    pub value: Vec<u8>,
    /// The store's counter at that commit; never 0.
    pub version: u64,
}

/// What must hold for a key for the commit to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists and was last written by the commit of this version.
    Version(u64),
    /// Whatever is there.
    Anything,
}

/// One write of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// 1 to [`KEY_BYTES_MAX`] printable ASCII characters without blanks.
    pub key: String,
    /// What must hold before.
    pub expect: Expect,
    /// The new value; `None` deletes the key.
    pub value: Option<Vec<u8>>,
}

impl Write {
    /// Writes `value`, if `expect` holds.
    pub fn put(key: impl Into<String>, expect: Expect, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), expect, value: Some(value.into()) }
    }

    /// Deletes the key, if `expect` holds.
    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Self { key: key.into(), expect, value: None }
    }
}

/// How a commit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Every write is on disk.
    Done {
        /// The version that every written key now has.
        version: u64,
    },
    /// Nothing was written, because what was expected of `key` does not hold. Read again and decide anew.
    Conflict {
        /// The first key, in the order of the writes, that was otherwise.
        key: String,
    },
}

/// The store could not do what was asked. Unless it says otherwise nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address names no kind of store.
    #[error("`{0}` is no store; write sqlite:PATH or memory:")]
    Url(String),
    /// The file was written by a newer program.
    #[error("the store has schema {found}, this program knows up to {known}; run the newer version again")]
    Schema {
        /// In the file.
        found: u32,
        /// The highest that this program knows.
        known: u32,
    },
    /// A key that cannot be.
    #[error("`{0}` cannot be a key: 1 to {KEY_BYTES_MAX} printable ASCII characters without blanks")]
    Key(String),
    /// A value above [`VALUE_BYTES_MAX`].
    #[error("the value of `{key}` has {bytes} bytes; at most {VALUE_BYTES_MAX} can be stored")]
    ValueTooLarge {
        /// Whose value.
        key: String,
        /// Its size.
        bytes: usize,
    },
    /// A commit above [`WRITES_MAX`].
    #[error("a commit of {0} writes; at most {WRITES_MAX} go into one")]
    TooManyWrites(usize),
    /// The same key twice in one commit.
    #[error("`{0}` is written twice in one commit")]
    Twice(String),
    /// SQLite failed, such as on a full disk. A commit that was waiting may or may not have happened.
    #[error("the store's database failed")]
    Database(#[source] Arc<rusqlite::Error>),
    /// The writing thread could not be started or has ended.
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl Store {
    /// Opens `sqlite:PATH` (made if absent) or `memory:` (empty, for tests, gone with the last clone).
    ///
    /// # Errors
    /// [`StoreError::Url`], [`StoreError::Schema`], or the database's own.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let (writing, reader) = match url.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => {
                let writing = Arc::new(Mutex::new(sqlite::open_file(path)?));
                (writing, Arc::new(Mutex::new(sqlite::open_file(path)?)))
            }
            Some(("memory", "")) => {
                let both = Arc::new(Mutex::new(sqlite::open_memory()?));
                (Arc::clone(&both), both)
            }
            _ => return Err(StoreError::Url(url.to_owned())),
        };
        let watchers = Arc::new(watch::Watchers::default());
        let writer = writer::Writer::start(writing, Arc::clone(&watchers))?;
        Ok(Self { inner: Arc::new(Inner { writer, reader, watchers }) })
    }

    /// The value of `key`, if it exists.
    ///
    /// # Errors
    /// The database's own.
    pub fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        sqlite::get(&lock(&self.inner.reader), key)
    }

    /// Every key that begins with `prefix`, in the order of its bytes; all of one moment.
    ///
    /// # Errors
    /// The database's own.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>, StoreError> {
        sqlite::list(&lock(&self.inner.reader), prefix)
    }

    /// Does all of `writes` or none. Durable when it returns [`Commit::Done`]: it survives a killed process
    /// and, as far as the disk keeps its word, a power cut. Commits of several threads share one sync.
    ///
    /// # Errors
    /// Writes that cannot be, or the database's own.
    pub fn commit(&self, writes: &[Write]) -> Result<Commit, StoreError> {
        check_writes(writes)?;
        self.inner.writer.commit(writes.to_vec())
    }

    /// Tells of every commit from now on that writes a key beginning with `prefix`.
    #[must_use]
    pub fn watch(&self, prefix: &str) -> Watch {
        self.inner.watchers.add(prefix)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store(..)")
    }
}

fn check_writes(writes: &[Write]) -> Result<(), StoreError> {
    if writes.len() > WRITES_MAX {
        return Err(StoreError::TooManyWrites(writes.len()));
    }
    let mut keys = std::collections::BTreeSet::new();
    for write in writes {
        let key = &write.key;
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(StoreError::Key(key.chars().take(KEY_BYTES_MAX).collect()));
        }
        let bytes = write.value.as_ref().map_or(0, Vec::len);
        if bytes > VALUE_BYTES_MAX {
            return Err(StoreError::ValueTooLarge { key: key.clone(), bytes });
        }
        if !keys.insert(key) {
            return Err(StoreError::Twice(key.clone()));
        }
    }
    Ok(())
}

/// A panic elsewhere cannot leave a connection half-written: a transaction that was not committed is undone.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
