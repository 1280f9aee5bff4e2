//! Which machines have fetched iPXE or shim and not been heard of as such since: what Secure Boot refuses never speaks.
//!
//! Never stored: after a restart of the server a machine shows it once more.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dhcp_wire::MacAddr;

use crate::netboot::FirstLoader;
use crate::recent::Recent;

/// A machine that refused iPXE may stand at its firmware's menu until somebody comes the next day.
const FETCHED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Shim is the last that there is to try, and a machine that was switched off between shim and GRUB looks like one that
/// refuses it; nobody does that twice in a row.
const SHIM_REFUSALS: u32 = 2;
/// Machines and addresses that are kept in mind; those that were longest not heard of have to show it once more.
const MACHINES_MAX: usize = 20_000;
/// The kernel's table of machines on its own links.
const NEIGHBOURS: &str = "/proc/net/arp";

/// Fetches by machine. Calls take microseconds.
#[derive(Debug)]
pub(crate) struct Fetches(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// Who has which address; TFTP and HTTP know nothing else of a machine.
    machines: Recent<Ipv4Addr, MacAddr>,
    fetched: Recent<MacAddr, (FirstLoader, Instant)>,
    /// How often in a row each has refused shim.
    refused_shim: Recent<MacAddr, u32>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            machines: Recent::new(MACHINES_MAX),
            fetched: Recent::new(MACHINES_MAX),
            refused_shim: Recent::new(MACHINES_MAX),
        }))
    }
}

impl Fetches {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The firmware of `mac` has, or is about to have, this address.
    pub(crate) fn has_address(&self, mac: MacAddr, address: Ipv4Addr) {
        if !address.is_unspecified() {
            self.lock().machines.insert(address, mac);
        }
    }

    /// Who has this address, as far as anybody knows.
    pub(crate) fn machine(&self, address: Ipv4Addr) -> Option<MacAddr> {
        let known = self.lock().machines.get(&address).copied();
        // A DHCP server beside ours gave the address; on our own link the kernel knows whose it is.
        known.or_else(|| neighbour(&fs::read_to_string(NEIGHBOURS).unwrap_or_default(), address))
    }

    /// Whoever has this address has all of it.
    pub(crate) fn fetched(&self, now: Instant, address: Ipv4Addr, what: FirstLoader) {
        if let Some(mac) = self.machine(address) {
            self.lock().fetched.insert(mac, (what, now));
        }
    }

    /// It spoke from this machine, or it is known what the machine does with it.
    pub(crate) fn forget(&self, mac: MacAddr) {
        let mut inner = self.lock();
        inner.fetched.remove(&mac);
        inner.refused_shim.remove(&mac);
    }

    /// What the machine has that was not heard of since.
    pub(crate) fn has_fetched(&self, now: Instant, mac: MacAddr) -> Option<FirstLoader> {
        let inner = self.lock();
        let (what, since) = inner.fetched.get(&mac)?;
        (now.duration_since(*since) < FETCHED_FOR).then_some(*what)
    }

    /// The machine asks again after it had fetched shim: whether that is proof enough that it refuses shim.
    pub(crate) fn refused_shim(&self, mac: MacAddr) -> bool {
        let mut inner = self.lock();
        let times = inner.refused_shim.get(&mac).copied().unwrap_or_default() + 1;
        inner.refused_shim.insert(mac, times);
        if times < SHIM_REFUSALS {
            inner.fetched.remove(&mac);
        }
        times >= SHIM_REFUSALS
    }
}

/// Whose address it is, by the text of `/proc/net/arp`.
fn neighbour(table: &str, address: Ipv4Addr) -> Option<MacAddr> {
    let mut lines = table.lines().skip(1).map(str::split_ascii_whitespace);
    lines.find_map(|mut words| {
        let of = words.next()?.parse::<Ipv4Addr>().ok()?;
        let mac = words.nth(2)?.parse::<MacAddr>().ok()?;
        (of == address && mac.is_unicast()).then_some(mac)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    const fn mac(number: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, number])
    }

    #[test]
    fn who_fetched_is_known_by_its_address_until_it_speaks_or_a_day_is_over() {
        let (fetches, now) = (Fetches::default(), Instant::now());
        fetches.has_address(mac(1), ADDRESS);
        assert_eq!(fetches.has_fetched(now, mac(1)), None);
        for what in [FirstLoader::Ipxe, FirstLoader::Shim] {
            fetches.fetched(now, ADDRESS, what);
            assert_eq!(fetches.has_fetched(now, mac(1)), Some(what));
        }
        assert_eq!(fetches.has_fetched(now, mac(2)), None);
        assert_eq!(fetches.has_fetched(now + FETCHED_FOR, mac(1)), None);
        fetches.forget(mac(1));
        assert_eq!(fetches.has_fetched(now, mac(1)), None);
        // Nobody's address, and nobody that the kernel knows.
        fetches.fetched(now, Ipv4Addr::new(192, 0, 2, 10), FirstLoader::Ipxe);
        assert_eq!(fetches.lock().fetched.len(), 0);
    }

    #[test]
    fn address_that_goes_to_another_machine_is_the_others() {
        let (fetches, now) = (Fetches::default(), Instant::now());
        fetches.has_address(mac(1), ADDRESS);
        fetches.has_address(mac(2), ADDRESS);
        fetches.fetched(now, ADDRESS, FirstLoader::Ipxe);
        assert!(fetches.has_fetched(now, mac(2)).is_some() && fetches.has_fetched(now, mac(1)).is_none());
    }

    #[test]
    fn neighbours_are_read_as_the_kernel_writes_them() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.77.0.100      0x1         0x2         52:54:00:77:00:01     *        br0\n\
                     10.77.0.101      0x1         0x0         00:00:00:00:00:00     *        br0\n";
        let of = |last: u8| neighbour(table, Ipv4Addr::new(10, 77, 0, last));
        assert_eq!(of(100), Some(MacAddr([0x52, 0x54, 0, 0x77, 0, 1])));
        assert_eq!(of(102), None);
    }
}
