//! Which nodes have had what they get only once.
//!
//! Never answers before it is in the store: a node that is told twice to wipe its firmware settings is told once too
//! often.

use anyhow::{Result, bail};
use dhcp_wire::MacAddr;
use serde::{Deserialize, Serialize};
use store::{Commit, Expect, Store, Write};

/// Loaders fetch their script again when something fails; within this time that is the same boot.
const SAME_BOOT_MS: u64 = 60_000;
/// A record that always changes under our hands means that something is wrong.
const TRIES_MAX: u32 = 8;

/// The store's records under `once/MAC`.
#[derive(Clone)]
pub(crate) struct OnceBook {
    store: Store,
}

/// The rule that a node had last, as stored. Rules before it are forgotten: a site has one at a time.
#[derive(Debug, Serialize, Deserialize)]
struct Had {
    rule: String,
    at_unix_ms: u64,
}

impl OnceBook {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Whether the node has had what this rule gives, in an earlier boot.
    pub(crate) fn had(&self, mac: MacAddr, rule: &str, now_unix_ms: u64) -> Result<bool> {
        let had = self.read(mac)?.map(|(had, _)| had);
        Ok(had
            .is_some_and(|had| had.rule == rule && now_unix_ms.saturating_sub(had.at_unix_ms) > SAME_BOOT_MS))
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
    format!("once/{}", mac.hyphenated())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_is_once_per_rule_and_survives_a_restart() {
        let store = Store::open("memory:").unwrap();
        let (book, mac) = (OnceBook::new(store.clone()), MacAddr([2, 0, 0, 0, 0, 1]));
        assert!(!book.had(mac, "default:memtest", 1000).unwrap());
        book.note(mac, "default:memtest", 1000).unwrap();
        assert!(!book.had(mac, "default:memtest", 30_000).unwrap(), "asked again in the same boot");
        book.note(mac, "default:memtest", 50_000).unwrap();
        let restarted = OnceBook::new(store);
        assert!(restarted.had(mac, "default:memtest", 1000 + SAME_BOOT_MS + 1).unwrap());
        assert!(!restarted.had(mac, "default:inventory", 90_000).unwrap(), "the file was changed");
        assert!(!restarted.had(MacAddr([2, 0, 0, 0, 0, 2]), "default:memtest", 90_000).unwrap());
    }
}
