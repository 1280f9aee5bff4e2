//! Which nodes have had what they get only once.
//!
//! Never answers before it is in the store: a node that is told twice to wipe its firmware settings is told once too
//! often.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use dhcp_wire::MacAddr;
use serde::{Deserialize, Serialize};
use store::{Commit, Expect, Store, Write};

use crate::recent::Recent;

/// Prefix of the store's keys.
const KEYS: &str = "once/";

/// Loaders fetch their script again when something fails; within this time that is the same boot.
const SAME_BOOT_MS: u64 = 60_000;
/// A record that always changes under our hands means that something is wrong.
const TRIES_MAX: u32 = 8;

/// Nodes of which it is known without a look into the store.
const RECENT_MAX: usize = 20_000;

/// The store's records under `once/MAC`.
pub(crate) struct OnceBook {
    store: Store,
    recent: Mutex<Recent<MacAddr, Had>>,
}

/// The rule that a node had last, as stored. Rules before it are forgotten: a site has one at a time.
#[derive(Debug, Serialize, Deserialize)]
struct Had {
    rule: String,
    at_unix_ms: u64,
}

impl Had {
    fn is_over(&self, rule: &str, now_unix_ms: u64) -> bool {
        self.rule == rule && now_unix_ms.saturating_sub(self.at_unix_ms) > SAME_BOOT_MS
    }
}

impl OnceBook {
    pub(crate) fn open(store: Store) -> Result<Self> {
        let mut recent = Recent::new(RECENT_MAX);
        for (key, found) in store.list(KEYS).context("reading what nodes have had once")? {
            let mac = key.strip_prefix(KEYS).and_then(|mac| mac.parse().ok());
            if let Some((mac, had)) = mac.zip(serde_json::from_slice(&found.value).ok()) {
                recent.insert(mac, had);
            }
        }
        Ok(Self { store, recent: Mutex::new(recent) })
    }

    /// Whether the node has had what this rule gives, in an earlier boot.
    pub(crate) fn had(&self, mac: MacAddr, rule: &str, now_unix_ms: u64) -> Result<bool> {
        let had = self.read(mac)?.map(|(had, _)| had);
        Ok(had.is_some_and(|had| had.is_over(rule, now_unix_ms)))
    }

    /// The same from memory and at once; `false` where that does not know.
    pub(crate) fn is_known_had(&self, mac: MacAddr, rule: &str, now_unix_ms: u64) -> bool {
        self.recent().get(&mac).is_some_and(|had| had.is_over(rule, now_unix_ms))
    }

    fn recent(&self) -> MutexGuard<'_, Recent<MacAddr, Had>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that it has it now.
    pub(crate) fn note(&self, mac: MacAddr, rule: &str, now_unix_ms: u64) -> Result<()> {
        for _ in 0..TRIES_MAX {
            let found = self.read(mac)?;
            // The first time counts: a loader that asks every 30 s would otherwise never be done.
            if found.as_ref().is_some_and(|(had, _)| had.rule == rule) {
                return Ok(());
            }
            let expect = found.map_or(Expect::Absent, |(_, version)| Expect::Version(version));
            let had = Had { rule: rule.to_owned(), at_unix_ms: now_unix_ms };
            let write = Write::put(key(mac), expect, serde_json::to_vec(&had)?);
            if let Commit::Done { .. } = self.store.commit(&[write])? {
                self.recent().insert(mac, had);
                return Ok(());
            }
        }
        bail!("what node {mac} boots once could not be written down, because its record kept changing")
    }

    fn read(&self, mac: MacAddr) -> Result<Option<(Had, u64)>> {
        let Some(found) = self.store.get(&key(mac))? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&found.value)?, found.version)))
    }
}

fn key(mac: MacAddr) -> String {
    once_key(&mac.to_string())
}

/// The key in the store for a hardware address as nodes' records have it.
pub(crate) fn once_key(mac: &str) -> String {
    format!("{KEYS}{}", mac.replace(':', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_is_once_per_rule_and_survives_a_restart() {
        let store = Store::open("memory:").unwrap();
        let (book, mac) = (OnceBook::open(store.clone()).unwrap(), MacAddr([2, 0, 0, 0, 0, 1]));
        assert!(!book.had(mac, "default:memtest", 1000).unwrap());
        book.note(mac, "default:memtest", 1000).unwrap();
        assert!(!book.had(mac, "default:memtest", 30_000).unwrap(), "asked again in the same boot");
        book.note(mac, "default:memtest", 50_000).unwrap();
        assert!(!book.is_known_had(mac, "default:memtest", 50_000));
        assert!(book.is_known_had(mac, "default:memtest", 1000 + SAME_BOOT_MS + 1));
        let restarted = OnceBook::open(store).unwrap();
        assert!(restarted.is_known_had(mac, "default:memtest", 1000 + SAME_BOOT_MS + 1));
        assert!(restarted.had(mac, "default:memtest", 1000 + SAME_BOOT_MS + 1).unwrap());
        assert!(!restarted.had(mac, "default:inventory", 90_000).unwrap(), "the file was changed");
        assert!(!restarted.had(MacAddr([2, 0, 0, 0, 0, 2]), "default:memtest", 90_000).unwrap());
    }
}
