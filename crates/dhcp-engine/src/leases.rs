//! Which node has which address of one subnet.
//!
//! ```text
//!            offer             lease
//!   free ------------> offered -----> leased <-+ lease (renewed)
//!    ^                   |  |           |  |---+
//!    |  withdraw         |  +---------+ | decline, conflict
//!    +-------------------+            v v
//!                                  quarantined
//! ```
//! A lease of an address that is reserved for another node since is parked until its end: nobody's, but in use.
//! Every state but `free` has an end. Past it the address may go to another node, but as long as nobody needs
//! it the same node gets it again: ROM, iPXE, agent and the installed system keep one address. What a known node
//! has had goes to other known nodes only, and a reserved address to its own node only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use dhcp_wire::MacAddr;

use crate::moment::Moment;
use crate::record::LeaseRecord;
use crate::settings::POOL_ADDRESSES_MAX;

/// How long an offer stands: UEFI asks again after 4, 8, 16 and 32 s.
pub const OFFER_HOLD: Duration = Duration::from_secs(64);
/// How long an address that somebody else was found to use is left alone.
pub const QUARANTINE: Duration = Duration::from_secs(600);

/// Why a node cannot have the address that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Not an address of this subnet's.
    NotInPool,
    /// Another node has it, or it is in quarantine.
    Taken,
    /// The node has another one.
    HasAnother,
}

/// An address that is held for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) address: Ipv4Addr,
    /// The node had it neither before nor by reservation, so somebody else might use it.
    pub(crate) is_new: bool,
}

/// What a node holds, on its way from the store or from one book into another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) address: u32,
    pub(crate) mac: MacAddr,
    pub(crate) until: Moment,
    /// A known node has had a lease of it.
    pub(crate) kept: bool,
    state: State,
    known: bool,
}

impl Held {
    pub(crate) fn from_record(record: &LeaseRecord, known: bool) -> Self {
        let state = if record.quarantined { State::Quarantined } else { State::Leased };
        let kept = known && state == State::Leased;
        Self { address: record.address.into(), mac: record.mac, until: record.until, kept, state, known }
    }
}

/// The addresses of one subnet. Each is free or has exactly one entry; each node has at most one entry that is its own.
#[derive(Debug)]
pub(crate) struct LeaseBook {
    pools: Vec<RangeInclusive<u32>>,
    reserved: HashMap<MacAddr, u32>,
    reserved_addresses: HashSet<u32>,
    free: BTreeSet<u32>,
    entries: HashMap<u32, Entry>,
    by_mac: HashMap<MacAddr, u32>,
    by_end: BTreeSet<(Rank, Moment, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: MacAddr,
    until: Moment,
    state: State,
    /// The node is one of the site's own.
    known: bool,
    /// And it has had a lease of this address.
    kept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Offered,
    Leased,
    /// Leased, but the address is reserved for another node since.
    Parked,
    Quarantined,
}

/// In which order addresses whose time is over go to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Offer,
    Lease,
    Kept,
}

impl Entry {
    /// Of two addresses of one node the heavier is where it is.
    fn weight(&self) -> (bool, Moment) {
        (self.state == State::Leased, self.until)
    }

    fn rank(&self) -> Rank {
        match self.state {
            _ if self.kept => Rank::Kept,
            State::Offered => Rank::Offer,
            State::Leased | State::Parked | State::Quarantined => Rank::Lease,
        }
    }
}

impl LeaseBook {
    /// A book of the addresses of `pools` without those of `excluded` and of `reserved`, all free.
    pub(crate) fn new(
        pools: &[RangeInclusive<Ipv4Addr>],
        excluded: &[Ipv4Addr],
        reserved: HashMap<MacAddr, u32>,
    ) -> Self {
        let pools: Vec<_> =
            pools.iter().map(|pool| u32::from(*pool.start())..=u32::from(*pool.end())).collect();
        let excluded: HashSet<u32> = excluded.iter().copied().map(u32::from).collect();
        let reserved_addresses: HashSet<u32> = reserved.values().copied().collect();
        let most = usize::try_from(POOL_ADDRESSES_MAX).unwrap_or(usize::MAX);
        let all = pools.iter().flat_map(Clone::clone).take(most);
        let free = all
            .filter(|address| !excluded.contains(address) && !reserved_addresses.contains(address))
            .collect();
        Self {
            pools,
            reserved,
            reserved_addresses,
            free,
            entries: HashMap::new(),
            by_mac: HashMap::new(),
            by_end: BTreeSet::new(),
        }
    }

    /// Takes over what a node holds by the store or by former settings; `false` if its address is not one of this subnet's.
    pub(crate) fn take_over(&mut self, held: &Held) -> bool {
        let Held { address, mac, until, known, .. } = *held;
        let reserved = self.reserved.get(&mac).copied();
        let is_others = self.reserved_addresses.contains(&address) && reserved != Some(address);
        if reserved != Some(address) && !is_others && !self.free.contains(&address) {
            return false;
        }
        // It is reserved for another node now, but this one uses it for the rest of its lease, whatever is said here. It is
        // told no when it asks for more time.
        let state = match held.state {
            State::Offered if is_others => return true,
            State::Leased | State::Parked if is_others => State::Parked,
            State::Leased | State::Parked => State::Leased,
            other => other,
        };
        let is_own = matches!(state, State::Leased | State::Offered);
        let entry = Entry { mac, until, state, known, kept: held.kept && is_own };
        let other = self.by_mac.get(&mac).copied().filter(|_| is_own);
        match (other, reserved) {
            // It has another one reserved, and this one until it moves there, or for the rest of the lease.
            (Some(other), Some(own)) if own != address => {
                self.insert(address, entry);
                self.by_mac.insert(mac, other);
            }
            // The node moved while its old lease stood in the store: the later one counts, and no offer before a lease.
            (Some(other), None)
                if self.entries.get(&other).is_some_and(|other| other.weight() >= entry.weight()) => {}
            (Some(other), None) => {
                self.vacate(other);
                self.insert(address, entry);
            }
            _ => self.insert(address, entry),
        }
        true
    }

    /// All that nodes hold.
    pub(crate) fn into_held(self) -> impl Iterator<Item = Held> {
        self.entries.into_iter().map(|(address, entry)| {
            let Entry { mac, until, state, known, kept } = entry;
            Held { address, mac, until, state, known, kept }
        })
    }

    /// Whether this address is on offer to this node.
    pub(crate) fn is_offered(&self, mac: MacAddr, address: Ipv4Addr) -> bool {
        self.held(mac, address).is_some_and(|entry| entry.state == State::Offered)
    }

    /// The address that the node should have, held for [`OFFER_HOLD`]: its own, else the one it wants if that is
    /// free, else a free one, else one whose time is over. `None` if all are in use.
    pub(crate) fn offer(
        &mut self,
        now: Moment,
        mac: MacAddr,
        known: bool,
        wanted: Option<Ipv4Addr>,
    ) -> Option<Offer> {
        let until = now.after(OFFER_HOLD);
        if let Some(address) = self.own(now, mac) {
            let entry = self.entries.get(&address).copied();
            // A lease that lasts longer stays as it is.
            if entry.is_none_or(|entry| entry.until < until) {
                let running = entry.filter(|entry| entry.until > now).map(|entry| entry.state);
                let (state, kept) =
                    (running.unwrap_or(State::Offered), entry.is_some_and(|entry| entry.kept));
                self.insert(address, Entry { mac, until, state, known, kept });
            }
            return Some(Offer { address: address.into(), is_new: false });
        }
        let wanted = wanted.map(u32::from).filter(|address| self.is_available(now, *address, known));
        let address = wanted.or_else(|| self.free_near(mac)).or_else(|| self.given_up(now, known))?;
        self.insert(address, Entry { mac, until, state: State::Offered, known, kept: false });
        Some(Offer { address: address.into(), is_new: true })
    }

    /// Gives `address` to the node until `now + lease`, or says why not.
    pub(crate) fn lease(
        &mut self,
        now: Moment,
        (mac, known): (MacAddr, bool),
        address: Ipv4Addr,
        lease: Duration,
    ) -> Result<LeaseRecord, Refused> {
        let number = u32::from(address);
        match self.own(now, mac) {
            Some(own) if own == number => {}
            _ if !self.is_ours(number) => return Err(Refused::NotInPool),
            Some(_) => return Err(Refused::HasAnother),
            // Not ours to know (we were restarted after the offer), but free: it may keep what it asks for.
            None if self.is_available(now, number, known) => {}
            None => return Err(Refused::Taken),
        }
        let until = now.after(lease);
        self.insert(number, Entry { mac, until, state: State::Leased, known, kept: known });
        Ok(LeaseRecord { address, mac, until, quarantined: false })
    }

    /// The node took another server's offer: ours is free again. A lease that it has stays.
    pub(crate) fn withdraw_offer(&mut self, now: Moment, mac: MacAddr) {
        let Some(&address) = self.by_mac.get(&mac) else { return };
        let Some(entry) = self.entries.get(&address).copied() else { return };
        match entry.state {
            State::Offered if entry.kept => self.insert(address, Entry { until: now, ..entry }),
            State::Offered => self.vacate(address),
            State::Leased | State::Parked | State::Quarantined => {}
        }
    }

    /// The node gives its address back: another may have it, but this one is preferred.
    pub(crate) fn release(&mut self, now: Moment, mac: MacAddr, address: Ipv4Addr) -> Option<LeaseRecord> {
        let entry = self.held(mac, address)?;
        self.insert(address.into(), Entry { until: now, ..entry });
        Some(LeaseRecord { address, mac, until: now, quarantined: false })
    }

    /// The node found somebody else at its address: nobody gets it for [`QUARANTINE`]. A reserved address stays
    /// its node's: no other could be given, and whoever forges such a packet should lock nobody out.
    pub(crate) fn decline(&mut self, now: Moment, mac: MacAddr, address: Ipv4Addr) -> Option<LeaseRecord> {
        self.held(mac, address).filter(|_| !self.reserved.contains_key(&mac))?;
        Some(self.quarantine(now, mac, address))
    }

    /// We found somebody else at an address that we were about to offer to this node.
    pub(crate) fn conflict(&mut self, now: Moment, mac: MacAddr, address: Ipv4Addr) -> Option<LeaseRecord> {
        self.held(mac, address).filter(|entry| entry.state == State::Offered)?;
        Some(self.quarantine(now, mac, address))
    }

    /// Whether the address belongs to this node by reservation.
    pub(crate) fn is_reserved(&self, mac: MacAddr, address: Ipv4Addr) -> bool {
        self.reserved.get(&mac) == Some(&u32::from(address))
    }

    /// The address that is the node's: by reservation, unless a former holder's lease of it still runs; else what it has.
    fn own(&self, now: Moment, mac: MacAddr) -> Option<u32> {
        let others = |address: &u32| {
            self.entries.get(address).is_some_and(|entry| entry.mac != mac && entry.until > now)
        };
        let reserved = self.reserved.get(&mac).filter(|address| !others(address));
        reserved.or_else(|| self.by_mac.get(&mac)).copied()
    }

    fn quarantine(&mut self, now: Moment, mac: MacAddr, address: Ipv4Addr) -> LeaseRecord {
        let until = now.after(QUARANTINE);
        let entry = Entry { mac, until, state: State::Quarantined, known: false, kept: false };
        self.insert(address.into(), entry);
        LeaseRecord { address, mac, until, quarantined: true }
    }

    fn held(&self, mac: MacAddr, address: Ipv4Addr) -> Option<Entry> {
        let number = u32::from(address);
        let own = self.by_mac.get(&mac).is_some_and(|own| *own == number);
        self.entries.get(&number).copied().filter(|_| own)
    }

    fn is_ours(&self, address: u32) -> bool {
        self.free.contains(&address)
            || self.entries.contains_key(&address)
            || self.reserved_addresses.contains(&address)
    }

    /// Whether a node that has not had it may have this address of the pools.
    fn is_available(&self, now: Moment, address: u32, known: bool) -> bool {
        self.free.contains(&address)
            || !self.reserved_addresses.contains(&address)
                && self
                    .entries
                    .get(&address)
                    .is_some_and(|entry| entry.until <= now && (known || !entry.kept))
    }

    /// A free address that depends on the node alone, so that it gets the same one even from an empty store.
    fn free_near(&self, mac: MacAddr) -> Option<u32> {
        let spread = mac
            .0
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        let size = |pool: &RangeInclusive<u32>| {
            u64::from(pool.end().saturating_sub(*pool.start())).saturating_add(1)
        };
        let total: u64 = self.pools.iter().map(size).sum();
        let mut at = u64::from(spread).checked_rem(total)?;
        let mut first = 0;
        for pool in &self.pools {
            if at < size(pool) {
                first = pool.start().saturating_add(u32::try_from(at).unwrap_or(0));
                break;
            }
            at -= size(pool);
        }
        self.free.range(first..).next().or_else(|| self.free.first()).copied()
    }

    /// What may be taken from another node: an offer or a lease that is over. For a known node, when there is
    /// nothing else, what is only offered to a stranger, and what another known node has had.
    fn given_up(&self, now: Moment, known: bool) -> Option<u32> {
        let of = |rank: Rank| self.by_end.range((rank, Moment(0), 0)..).take_while(move |key| key.0 == rank);
        let ended = |rank: Rank| of(rank).next().filter(|(_, until, _)| *until <= now).map(|key| key.2);
        let strangers_offer = || {
            let offers = of(Rank::Offer).map(|key| key.2);
            offers.into_iter().find(|address| self.entries.get(address).is_some_and(|entry| !entry.known))
        };
        let anybody_s = ended(Rank::Offer).or_else(|| ended(Rank::Lease));
        if !known {
            return anybody_s;
        }
        anybody_s.or_else(strangers_offer).or_else(|| ended(Rank::Kept))
    }

    /// Puts `entry` in the place of whatever `address` was.
    fn insert(&mut self, address: u32, entry: Entry) {
        self.remove(address);
        self.free.remove(&address);
        if matches!(entry.state, State::Offered | State::Leased) {
            self.by_mac.insert(entry.mac, address);
        }
        if !self.reserved_addresses.contains(&address) {
            self.by_end.insert((entry.rank(), entry.until, address));
        }
        self.entries.insert(address, entry);
    }

    fn vacate(&mut self, address: u32) {
        self.remove(address);
        if !self.reserved_addresses.contains(&address) {
            self.free.insert(address);
        }
    }

    fn remove(&mut self, address: u32) {
        if let Some(entry) = self.entries.remove(&address) {
            self.by_end.remove(&(entry.rank(), entry.until, address));
            if self.by_mac.get(&entry.mac) == Some(&address) {
                self.by_mac.remove(&entry.mac);
            }
        }
    }
}
