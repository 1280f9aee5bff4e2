//! Machines that come into view, and those that never became more than that.
//!
//! ```text
//!   DHCP, menus --> passing (memory only) --boot or order--> stored --enrolment or approval--> lasting
//!                      |                                        |
//!                      v oldest first, or after a day           v oldest first when there is no room, or after a week
//!                   forgotten                                forgotten
//! ```
//! Whoever invents hardware addresses pushes out other inventions and nobody else; a real machine that is forgotten
//! too soon is simply seen again.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail};
use dhcp_wire::MacAddr;
use store::{Commit, Expect, Write};

use super::live::Live;
use super::record::{HistoryEntry, NodeRecord, NodeState};
use super::{
    Entry, HISTORY_MAX, Inner, Nodes, TRIES_MAX, UNSTORED, history_key, history_writes, mac_key, new_record,
    node_key,
};
use crate::clock::now_unix_ms;
use crate::menus::once_key;

/// Machines that asked for an address or a menu and for no boot: more than a site powers on within a minute, in 4 MiB.
pub(super) const PASSING_MAX: usize = 4096;
/// Machines in the store; whoever invents hardware addresses fills nobody's disk.
pub(super) const STORED_MAX: usize = 20_000;
/// So many are forgotten at once when there is no room for another: looking for the oldest takes a look at all.
const FORGOTTEN_AT_ONCE: usize = 64;
/// A machine that asked for nothing more within this time is not coming.
const PASSING_LIFE_MS: u64 = 24 * 3600 * 1000;
/// A machine that was sent the agent and never enrolled is forgotten after so long.
const UNENROLLED_LIFE_MS: u64 = 7 * 24 * 3600 * 1000;

impl Nodes {
    /// The name of the node that boots by this address. One that was never seen is kept in memory only.
    pub(super) fn ensure(&self, mac: MacAddr) -> Result<String> {
        let mut inner = self.lock();
        if let Some(name) = inner.by_mac.get(&mac.to_string()).cloned() {
            inner.passing.touch(&mac);
            return Ok(name);
        }
        let name = self.new_name(&inner, mac);
        inner.put_passing(mac, new_record(name.clone(), mac)?);
        Ok(name)
    }

    /// As [`Self::ensure`], and the node is in the store.
    pub(super) fn keep(&self, mac: MacAddr) -> Result<String> {
        for _ in 0..TRIES_MAX {
            let name = self.ensure(mac)?;
            let (mut record, is_full) = {
                let inner = self.lock();
                let Some(entry) = inner.nodes.get(&name) else { continue };
                if entry.version != UNSTORED {
                    return Ok(name);
                }
                (entry.record.clone(), inner.stored() >= self.stored_max)
            };
            if is_full && self.forget_oldest()? == 0 {
                bail!("{} nodes are known already; {mac} is ignored", self.stored_max);
            }
            let mut writes = vec![Write::put(mac_key(&mac.to_string()), Expect::Absent, record.name.clone())];
            let first = HistoryEntry {
                at_unix_ms: record.created_unix_ms,
                from: String::new(),
                to: NodeState::Seen.word().to_owned(),
                stage: None,
                text: format!("first seen as {mac}"),
                code: None,
            };
            history_writes(&mut record, vec![first], &mut writes)?;
            writes.push(Write::put(node_key(&record.name), Expect::Absent, serde_json::to_vec(&record)?));
            match self.store.commit(&writes)? {
                Commit::Done { version } => {
                    let mut inner = self.lock();
                    inner.passing.remove(&mac);
                    inner.put(record, version);
                    return Ok(name);
                }
                Commit::Conflict { key } => {
                    // Another server was first, with this machine or with this name.
                    self.lock().drop_passing(mac);
                    if key.starts_with("mac/") { self.reload_owner(&key)? } else { self.reload(&key)? }
                }
            }
        }
        bail!("node {mac} could not be recorded, because its record kept changing")
    }

    /// Forgets machines that nobody has heard of for long and that never enrolled.
    pub(crate) fn prune(&self, now_unix_ms: u64) -> Result<()> {
        let old: Vec<String> = {
            let mut inner = self.lock();
            let silent_ms = |inner: &Inner, name: &String| {
                let entry = inner.nodes.get(name);
                entry.map_or(0, |entry| now_unix_ms.saturating_sub(entry.live.last_seen_unix_ms))
            };
            let passed: Vec<MacAddr> = inner
                .passing
                .iter()
                .filter(|(_, name)| silent_ms(&inner, name) > PASSING_LIFE_MS)
                .map(|(mac, _)| *mac)
                .collect();
            for mac in passed {
                inner.drop_passing(mac);
            }
            let all = self.forgettable(&inner).into_values();
            all.filter(|name| silent_ms(&inner, name) > UNENROLLED_LIFE_MS).collect()
        };
        self.forget(&old).map(drop)
    }

    /// Makes room for another machine; how much.
    fn forget_oldest(&self) -> Result<usize> {
        let oldest: Vec<String> = {
            let all = self.forgettable(&self.lock());
            all.into_values().take(FORGOTTEN_AT_ONCE).collect()
        };
        self.forget(&oldest)
    }

    /// Stored machines that may be forgotten, by the time when they were last heard of.
    fn forgettable(&self, inner: &Inner) -> BTreeMap<(u64, usize), String> {
        let given = self.names_given();
        let names: HashSet<&str> = given.values().map(String::as_str).collect();
        let is_named = |record: &NodeRecord| names.contains(record.name.as_str());
        let unenrolled = inner.nodes.iter().enumerate().filter(|(_, (_, entry))| {
            entry.version != UNSTORED && never_enrolled(&entry.record) && !is_named(&entry.record)
        });
        unenrolled.map(|(at, (name, entry))| ((entry.live.last_seen_unix_ms, at), name.clone())).collect()
    }

    fn forget(&self, names: &[String]) -> Result<usize> {
        let mut forgotten = 0;
        for name in names {
            let (record, version) = {
                let inner = self.lock();
                let Some(entry) = inner.nodes.get(name) else { continue };
                (entry.record.clone(), entry.version)
            };
            let mut writes = vec![Write::delete(node_key(name), Expect::Version(version))];
            let history = record.history_next.saturating_sub(HISTORY_MAX)..record.history_next;
            let keys = history.map(|sequence| history_key(name, sequence));
            let by_mac = record.macs.iter().flat_map(|mac| [mac_key(mac), once_key(mac)]);
            writes.extend(keys.chain(by_mac).map(|key| Write::delete(key, Expect::Anything)));
            // Should it enrol just now, it stays.
            if !never_enrolled(&record) || writes.len() > store::WRITES_MAX {
                continue;
            }
            if let Commit::Done { .. } = self.store.commit(&writes)? {
                self.lock().remove(name);
                forgotten += 1;
            }
        }
        if forgotten > 0 {
            tracing::info!(
                forgotten,
                "machines that never enrolled and were not heard of for longest are forgotten"
            );
        }
        Ok(forgotten)
    }
}

impl Inner {
    /// Nodes in the store.
    fn stored(&self) -> usize {
        self.nodes.len().saturating_sub(self.passing.len())
    }

    fn put_passing(&mut self, mac: MacAddr, record: NodeRecord) {
        let name = record.name.clone();
        self.by_mac.insert(mac.to_string(), name.clone());
        self.changed.insert(name.clone());
        self.nodes.insert(name.clone(), Entry::new(record, UNSTORED, Live::new(now_unix_ms())));
        if let Some((_, oldest)) = self.passing.insert(mac, name) {
            self.remove(&oldest);
        }
    }

    fn drop_passing(&mut self, mac: MacAddr) {
        if let Some(name) = self.passing.remove(&mac) {
            self.remove(&name);
        }
    }

    fn remove(&mut self, name: &str) {
        let Some(entry) = self.nodes.remove(name) else { return };
        for mac in &entry.record.macs {
            self.by_mac.remove(mac);
        }
        self.changed.remove(name);
        self.forgotten = true;
    }
}

/// Nothing but its boot requests is known of it, and nobody has said anything about it.
fn never_enrolled(record: &NodeRecord) -> bool {
    record.state == NodeState::Seen
        && record.approved.is_none()
        && record.boot.is_none()
        && record.run.is_none()
        && record.installed.is_none()
}
