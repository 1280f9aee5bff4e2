//! The tables and the statements. One table of keys, one of facts about the store itself.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::{Commit, Expect, StoreError, Versioned, Write};

/// Entry n brings a store of schema n to n + 1. Entries are only ever added.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE entry (key TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE fact (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO fact VALUES ('version', 0);
"];

/// Another process that has the file open, such as a backup, is waited for so long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens or makes the database file, brings its schema up to date and makes commits durable.
pub(crate) fn open_file(path: &str) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // WAL: readers and the writer don't wait for each other. FULL: the log is synced at every commit
    // (with NORMAL a power cut loses acknowledged commits; sqlite.org/pragma.html#pragma_synchronous).
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    prepare(connection)
}

/// Opens an empty database that lives as long as the connection.
pub(crate) fn open_memory() -> Result<Connection, StoreError> {
    prepare(Connection::open_in_memory()?)
}

fn prepare(mut connection: Connection) -> Result<Connection, StoreError> {
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction
        .execute_batch("CREATE TABLE IF NOT EXISTS migration (schema INTEGER PRIMARY KEY NOT NULL)")?;
    let found: u32 =
        transaction.query_row("SELECT coalesce(max(schema), 0) FROM migration", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Schema { found, known });
    }
    for (schema, migration) in (1_u32..).zip(MIGRATIONS) {
        if schema > found {
            transaction.execute_batch(migration)?;
            transaction.execute("INSERT INTO migration VALUES (?1)", [schema])?;
        }
    }
    transaction.commit()?;
    Ok(connection)
}

pub(crate) fn get(connection: &Connection, key: &str) -> Result<Option<Versioned>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT version, value FROM entry WHERE key = ?1")?;
    let read = |row: &rusqlite::Row<'_>| Ok(Versioned { version: row.get(0)?, value: row.get(1)? });
    Ok(statement.query_row([key], read).optional()?)
}

pub(crate) fn list(connection: &Connection, prefix: &str) -> Result<Vec<(String, Versioned)>, StoreError> {
    // Keys are printable ASCII, so DEL comes after every key that continues the prefix.
    let end = format!("{prefix}\u{7f}");
    let mut statement = connection
        .prepare_cached("SELECT key, version, value FROM entry WHERE key >= ?1 AND key < ?2 ORDER BY key")?;
    let rows = statement.query_map([prefix, &end], |row| {
        Ok((row.get(0)?, Versioned { version: row.get(1)?, value: row.get(2)? }))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Checks and does one commit within an open transaction. On [`Commit::Conflict`] it has changed nothing.
pub(crate) fn apply(transaction: &Transaction<'_>, writes: &[Write]) -> Result<Commit, StoreError> {
    for write in writes {
        if !holds(transaction, write)? {
            return Ok(Commit::Conflict { key: write.key.clone() });
        }
    }
    let version: u64 = transaction
        .prepare_cached("UPDATE fact SET value = value + 1 WHERE name = 'version' RETURNING value")?
        .query_row([], |row| row.get(0))?;
    for write in writes {
        match &write.value {
            Some(value) => transaction
                .prepare_cached("INSERT OR REPLACE INTO entry VALUES (?1, ?2, ?3)")?
                .execute(rusqlite::params![write.key, version, value])?,
            None => transaction.prepare_cached("DELETE FROM entry WHERE key = ?1")?.execute([&write.key])?,
        };
    }
    Ok(Commit::Done { version })
}

fn holds(transaction: &Transaction<'_>, write: &Write) -> Result<bool, StoreError> {
    if write.expect == Expect::Anything {
        return Ok(true);
    }
    let found: Option<u64> = transaction
        .prepare_cached("SELECT version FROM entry WHERE key = ?1")?
        .query_row([&write.key], |row| row.get(0))
        .optional()?;
    Ok(match write.expect {
        Expect::Anything => true,
        Expect::Absent => found.is_none(),
        Expect::Version(version) => found == Some(version),
    })
}
