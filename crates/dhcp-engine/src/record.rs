//! A lease as the store keeps it.

use std::net::Ipv4Addr;

use dhcp_wire::MacAddr;
use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// One lease, under the key `lease/ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// What was given.
    pub address: Ipv4Addr,
    /// To whom.
    pub mac: MacAddr,
    /// Until when.
    pub until: Moment,
    /// Nobody gets it until then: the node found somebody else at it.
    pub quarantined: bool,
}

/// The stored form of a [`LeaseRecord`].
#[derive(Serialize, Deserialize)]
struct StoredLease {
    mac: String,
    until_unix_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    quarantined: bool,
}

impl LeaseRecord {
    /// Prefix of the store's keys.
    pub const KEYS: &'static str = "lease/";

    /// The key in the store.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}{}", Self::KEYS, self.address)
    }

    /// The value in the store.
    #[must_use]
    pub fn value(&self) -> Vec<u8> {
        let Moment(until_unix_ms) = self.until;
        let stored = StoredLease { mac: self.mac.to_string(), until_unix_ms, quarantined: self.quarantined };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`Self::key`] and [`Self::value`] wrote.
    #[must_use]
    pub fn read(key: &str, value: &[u8]) -> Option<Self> {
        let stored: StoredLease = serde_json::from_slice(value).ok()?;
        Some(Self {
            address: key.strip_prefix(Self::KEYS)?.parse().ok()?,
            mac: stored.mac.parse().ok()?,
            until: Moment(stored.until_unix_ms),
            quarantined: stored.quarantined,
        })
    }
}
