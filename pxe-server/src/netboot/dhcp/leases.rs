//! Which node has which address of one pool.
//!
//! ```text
//!            offer             lease
//!   free ------------> offered -----> leased <-+ lease (renewed)
//!    ^                   |  |           |  |---+
//!    |  withdraw         |  +---------+ | decline
//!    +-------------------+            v v
//!                                  quarantined
//! ```
//! Every state but `free` has an end. Past it the address may go to another node, but as long as nobody needs
//! it the same node gets it again: ROM, iPXE, agent and the installed system keep one address.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use dhcp_wire::MacAddr;
use serde::{Deserialize, Serialize};

use super::Moment;

/// Addresses of one pool; bounds memory, and a broadcast domain of more is no good idea.
pub(in crate::netboot) const POOL_ADDRESSES_MAX: u32 = 65_536;
/// How long an offer stands: UEFI asks again after 4, 8, 16 and 32 s.
pub(super) const OFFER_HOLD: Duration = Duration::from_secs(64);
/// How long an address that somebody else was found to use is left alone.
pub(super) const QUARANTINE: Duration = Duration::from_secs(600);

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::netboot) struct Prefix {
    network: u32,
    len: u8,
}

impl Prefix {
    /// The network of `address` with `len` leading bits; `None` above 32.
    pub(in crate::netboot) fn new(address: Ipv4Addr, len: u8) -> Option<Self> {
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(u32::from(len))?).unwrap_or(0);
        Some(Self { network: u32::from(address) & mask, len })
    }

    /// Leading bits.
    pub(in crate::netboot) fn len(self) -> u8 {
        self.len
    }

    /// The mask as a number.
    pub(in crate::netboot) fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0)
    }

    /// The lowest address, which no node may have.
    pub(in crate::netboot) fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    /// The highest address, which no node may have.
    pub(in crate::netboot) fn broadcast(self) -> Ipv4Addr {
        (self.network | !self.mask()).into()
    }

    /// True if `address` is in this network.
    pub(in crate::netboot) fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == self.network
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network(), self.len)
    }
}

/// One lease as the store keeps it, under `lease/ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseRecord {
    pub(super) address: Ipv4Addr,
    pub(super) mac: MacAddr,
    pub(super) until: Moment,
    pub(super) quarantined: bool,
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
    pub(super) const KEYS: &'static str = "lease/";

    /// The key in the store.
    pub(super) fn key(&self) -> String {
        format!("{}{}", Self::KEYS, self.address)
    }

    /// The value in the store.
    pub(super) fn value(&self) -> Vec<u8> {
        let Moment(until_unix_ms) = self.until;
        let stored = StoredLease { mac: self.mac.to_string(), until_unix_ms, quarantined: self.quarantined };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`Self::key`] and [`Self::value`] wrote.
    pub(super) fn read(key: &str, value: &[u8]) -> Option<Self> {
        let stored: StoredLease = serde_json::from_slice(value).ok()?;
        Some(Self {
            address: key.strip_prefix(Self::KEYS)?.parse().ok()?,
            mac: stored.mac.parse().ok()?,
            until: Moment(stored.until_unix_ms),
            quarantined: stored.quarantined,
        })
    }
}

/// Why a node cannot have the address that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not an address of this pool.
    NotInPool,
    /// Another node has it, or it is in quarantine.
    Taken,
    /// The node has another one.
    HasAnother,
}

/// The addresses of one pool. Each is free or has exactly one entry; each node has at most one entry.
#[derive(Debug)]
pub(super) struct LeaseBook {
    pool: RangeInclusive<u32>,
    free: BTreeSet<u32>,
    entries: HashMap<u32, Entry>,
    by_mac: HashMap<MacAddr, u32>,
    by_end: BTreeSet<(Moment, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: MacAddr,
    until: Moment,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Offered,
    Leased,
    Quarantined,
}

impl LeaseBook {
    /// A book of the addresses of `pool` without those of `excluded`, all free.
    pub(super) fn new(pool: &RangeInclusive<Ipv4Addr>, excluded: &[Ipv4Addr]) -> Self {
        let pool = u32::from(*pool.start())..=u32::from(*pool.end());
        let excluded: BTreeSet<u32> = excluded.iter().copied().map(u32::from).collect();
        let most = usize::try_from(POOL_ADDRESSES_MAX).unwrap_or(usize::MAX);
        let free = pool.clone().take(most).filter(|address| !excluded.contains(address)).collect();
        Self { pool, free, entries: HashMap::new(), by_mac: HashMap::new(), by_end: BTreeSet::new() }
    }

    /// Takes over a lease of the store; `false` if its address is not one of ours.
    pub(super) fn restore(&mut self, record: &LeaseRecord) -> bool {
        let address = u32::from(record.address);
        if !self.free.contains(&address) {
            return false;
        }
        let state = if record.quarantined { State::Quarantined } else { State::Leased };
        if state == State::Leased
            && let Some(&other) = self.by_mac.get(&record.mac)
        {
            // The node moved while its old lease stood in the store: the later one counts.
            if self.entries.get(&other).is_some_and(|entry| entry.until >= record.until) {
                return true;
            }
            self.vacate(other);
        }
        self.insert(address, Entry { mac: record.mac, until: record.until, state });
        true
    }

    /// The address that the node should have, held for [`OFFER_HOLD`]: its own, else the one it wants if that is
    /// free, else a free one, else the one whose lease ended first. `None` if all are in use.
    pub(super) fn offer(&mut self, now: Moment, mac: MacAddr, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let until = now.after(OFFER_HOLD);
        if let Some(&address) = self.by_mac.get(&mac) {
            let entry = *self.entries.get(&address)?;
            // A lease that lasts longer stays as it is.
            if entry.until < until {
                let state = if entry.until > now { entry.state } else { State::Offered };
                self.insert(address, Entry { mac, until, state });
            }
            return Some(address.into());
        }
        let wanted = wanted.map(u32::from).filter(|address| self.is_available(now, *address));
        let address = wanted.or_else(|| self.free_near(mac)).or_else(|| self.ended_first(now))?;
        self.insert(address, Entry { mac, until, state: State::Offered });
        Some(address.into())
    }

    /// Gives `address` to the node until `now + lease`, or says why not.
    pub(super) fn lease(
        &mut self,
        now: Moment,
        mac: MacAddr,
        address: Ipv4Addr,
        lease: Duration,
    ) -> Result<LeaseRecord, Refused> {
        let number = u32::from(address);
        match self.by_mac.get(&mac) {
            Some(&own) if own == number => {}
            _ if !self.is_ours(number) => return Err(Refused::NotInPool),
            Some(_) => return Err(Refused::HasAnother),
            // Not ours to know (we were restarted after the offer), but free: it may keep what it asks for.
            None if self.is_available(now, number) => {}
            None => return Err(Refused::Taken),
        }
        let until = now.after(lease);
        self.insert(number, Entry { mac, until, state: State::Leased });
        Ok(LeaseRecord { address, mac, until, quarantined: false })
    }

    /// The node took another server's offer: ours is free again. A lease that it has stays.
    pub(super) fn withdraw_offer(&mut self, mac: MacAddr) {
        if let Some(&address) = self.by_mac.get(&mac)
            && self.entries.get(&address).is_some_and(|entry| entry.state == State::Offered)
        {
            self.vacate(address);
        }
    }

    /// The node gives its address back: another may have it, but this one is preferred.
    pub(super) fn release(&mut self, now: Moment, mac: MacAddr, address: Ipv4Addr) -> Option<LeaseRecord> {
        let entry = self.held(mac, address)?;
        self.insert(address.into(), Entry { until: now, ..entry });
        Some(LeaseRecord { address, mac, until: now, quarantined: false })
    }

    /// The node found somebody else at its address: nobody gets it for [`QUARANTINE`].
    pub(super) fn decline(&mut self, now: Moment, mac: MacAddr, address: Ipv4Addr) -> Option<LeaseRecord> {
        let entry = self.held(mac, address)?;
        let until = now.after(QUARANTINE);
        self.insert(address.into(), Entry { until, state: State::Quarantined, ..entry });
        Some(LeaseRecord { address, mac, until, quarantined: true })
    }

    fn held(&self, mac: MacAddr, address: Ipv4Addr) -> Option<Entry> {
        let number = u32::from(address);
        let own = self.by_mac.get(&mac).is_some_and(|own| *own == number);
        self.entries.get(&number).copied().filter(|_| own)
    }

    fn is_ours(&self, address: u32) -> bool {
        self.pool.contains(&address) && (self.free.contains(&address) || self.entries.contains_key(&address))
    }

    fn is_available(&self, now: Moment, address: u32) -> bool {
        self.free.contains(&address) || self.entries.get(&address).is_some_and(|entry| entry.until <= now)
    }

    /// A free address that depends on the node alone, so that it gets the same one even from an empty store.
    fn free_near(&self, mac: MacAddr) -> Option<u32> {
        let spread = mac
            .0
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        let size = self.pool.end().saturating_sub(*self.pool.start()).saturating_add(1);
        let first = self.pool.start().saturating_add(spread % size);
        self.free.range(first..).next().or_else(|| self.free.first()).copied()
    }

    fn ended_first(&self, now: Moment) -> Option<u32> {
        self.by_end.first().filter(|(until, _)| *until <= now).map(|(_, address)| *address)
    }

    /// Puts `entry` in the place of whatever `address` was.
    fn insert(&mut self, address: u32, entry: Entry) {
        self.remove(address);
        self.free.remove(&address);
        if entry.state != State::Quarantined {
            self.by_mac.insert(entry.mac, address);
        }
        self.by_end.insert((entry.until, address));
        self.entries.insert(address, entry);
    }

    fn vacate(&mut self, address: u32) {
        self.remove(address);
        self.free.insert(address);
    }

    fn remove(&mut self, address: u32) {
        if let Some(entry) = self.entries.remove(&address) {
            self.by_end.remove(&(entry.until, address));
            if self.by_mac.get(&entry.mac) == Some(&address) {
                self.by_mac.remove(&entry.mac);
            }
        }
    }
}
