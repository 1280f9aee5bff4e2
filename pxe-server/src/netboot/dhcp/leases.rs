//! The leases' way into the store and back.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use anyhow::Context as _;
use dhcp_engine::{Engine, Hint, LeaseRecord, Reply};
use dhcp_wire::MacAddr;
use store::{Commit, Expect, Store, Write};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Leases of one commit; the store's own bound is higher.
const COMMIT_LEASES_MAX: usize = 512;

/// A lease to write, and what to send when it is on disk.
pub(super) struct StoreJob {
    pub(super) record: LeaseRecord,
    pub(super) reply: Option<Reply>,
}

/// Reads the store's leases into the engine.
pub(super) fn restore(
    engine: &mut Engine,
    store: &Store,
    hint: &dyn Fn(MacAddr) -> Hint,
) -> anyhow::Result<()> {
    let all = store.list(LeaseRecord::KEYS).context("reading the leases from the store")?;
    let (mut kept, mut left) = (0_usize, 0_usize);
    for (key, stored) in all {
        match LeaseRecord::read(&key, &stored.value) {
            Some(record) if engine.restore(&record, hint(record.mac)) => kept += 1,
            Some(_) | None => left += 1,
        }
    }
    if left > 0 {
        warn!(left, "leases of the store that are in no pool now are left alone");
    }
    debug!(kept, "leases restored");
    Ok(())
}

/// Writes what waits in one commit, so that a storm of nodes shares one sync; then lets the answers go.
pub(super) fn write_leases(store: &Store, jobs: &Receiver<StoreJob>, stored: &mpsc::Sender<Vec<Reply>>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        batch.extend(jobs.try_iter().take(COMMIT_LEASES_MAX - 1));
        // One write per address; the last one is the truth.
        let writes: BTreeMap<String, Vec<u8>> =
            batch.iter().map(|job| (job.record.key(), job.record.value())).collect();
        let writes: Vec<Write> =
            writes.into_iter().map(|(key, value)| Write::put(key, Expect::Anything, value)).collect();
        match store.commit(&writes) {
            Ok(Commit::Done { .. }) => {
                let replies = batch.into_iter().filter_map(|job| job.reply).collect();
                if stored.blocking_send(replies).is_err() {
                    return;
                }
            }
            Ok(Commit::Conflict { key }) => warn!(key, "a lease was not stored and is not acknowledged"),
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "leases were not stored and are not acknowledged"
                );
            }
        }
    }
}
