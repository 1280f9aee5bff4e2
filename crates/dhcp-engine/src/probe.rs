//! Offers that wait until it is known whether somebody else uses their address (RFC 5227).
//!
//! An offer waits alone: every other packet is handled meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp_wire::MacAddr;

use crate::moment::Moment;

/// How long an answer to a probe is waited for. A switched network answers within a few ms, a busy machine within
/// some ten; firmware asks again after 4 s, iPXE after 1 s.
pub const PROBE_WAIT: Duration = Duration::from_millis(300);
/// Offers that wait at once; further ones leave unprobed, since nodes shall not wait for a flood. Bounds memory to
/// this many packets.
pub const PROBES_MAX: usize = 1024;
/// Addresses that are tried for one node in a row; then it has to ask again.
const TRIES_MAX: u8 = 4;

/// The question that an offer answers, to be read again when the offer leaves.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) mac: MacAddr,
    pub(crate) source: SocketAddrV4,
    pub(crate) packet: Vec<u8>,
    pub(crate) tries: u8,
    until: Moment,
}

/// Every probe that is under way, by its address.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    waiting: HashMap<Ipv4Addr, Waiting>,
    by_end: BTreeSet<(Moment, Ipv4Addr)>,
}

impl Probes {
    /// Whether there is room for another.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < PROBES_MAX
    }

    /// The node asked again while its probe runs: its last question is answered. `false` if no probe runs for it.
    pub(crate) fn ask_again(
        &mut self,
        address: Ipv4Addr,
        mac: MacAddr,
        source: SocketAddrV4,
        packet: &[u8],
    ) -> bool {
        let Some(waiting) = self.waiting.get_mut(&address).filter(|waiting| waiting.mac == mac) else {
            return false;
        };
        waiting.source = source;
        waiting.packet = packet.to_vec();
        true
    }

    /// Begins to wait for whoever has `address`.
    pub(crate) fn begin(
        &mut self,
        now: Moment,
        address: Ipv4Addr,
        (mac, source, packet): (MacAddr, SocketAddrV4, &[u8]),
        tries: u8,
    ) {
        let until = now.after(PROBE_WAIT);
        self.remove(address);
        let waiting = Waiting { mac, source, packet: packet.to_vec(), tries, until };
        self.waiting.insert(address, waiting);
        self.by_end.insert((until, address));
    }

    /// Somebody with hardware address `mac` says that it has `address`: the offer that was about to leave, if it
    /// was for another.
    pub(crate) fn is_used_by(&mut self, address: Ipv4Addr, mac: MacAddr) -> Option<Waiting> {
        self.waiting.get(&address).filter(|waiting| waiting.mac != mac)?;
        self.remove(address)
    }

    /// When the next offer leaves.
    pub(crate) fn next_end(&self) -> Option<Moment> {
        self.by_end.first().map(|(until, _)| *until)
    }

    /// An offer that has waited long enough.
    pub(crate) fn take_ended(&mut self, now: Moment) -> Option<(Ipv4Addr, Waiting)> {
        let (_, address) = *self.by_end.first().filter(|(until, _)| *until <= now)?;
        Some((address, self.remove(address)?))
    }

    /// Gives up every offer but those that may go on; the others' nodes ask again.
    pub(crate) fn retain(&mut self, goes_on: impl Fn(Ipv4Addr, MacAddr) -> bool) {
        self.waiting.retain(|address, waiting| goes_on(*address, waiting.mac));
        self.by_end.retain(|(_, address)| self.waiting.contains_key(address));
    }

    fn remove(&mut self, address: Ipv4Addr) -> Option<Waiting> {
        let waiting = self.waiting.remove(&address)?;
        self.by_end.remove(&(waiting.until, address));
        Some(waiting)
    }
}

impl Waiting {
    /// Whether another address may be tried for this question.
    pub(crate) fn may_try_another(&self) -> bool {
        self.tries < TRIES_MAX
    }
}
