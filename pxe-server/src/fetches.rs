//! Which machines have fetched iPXE and not been heard of as iPXE since: what Secure Boot refuses never speaks.
//!
//! Never stored: after a restart of the server a machine shows it once more.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dhcp_wire::MacAddr;

use crate::recent::Recent;

/// A machine that refused iPXE may stand at its firmware's menu until somebody comes the next day.
const FETCHED_FOR: Duration = Duration::from_secs(24 * 3600);
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
    fetched: Recent<MacAddr, Instant>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self(Mutex::new(Inner { machines: Recent::new(MACHINES_MAX), fetched: Recent::new(MACHINES_MAX) }))
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

    /// Whoever has this address has all of iPXE.
    pub(crate) fn fetched(&self, now: Instant, address: Ipv4Addr) {
        let known = self.lock().machines.get(&address).copied();
        // A DHCP server beside ours gave the address; on our own link the kernel knows whose it is.
        let mac = known.or_else(|| neighbour(&fs::read_to_string(NEIGHBOURS).unwrap_or_default(), address));
        if let Some(mac) = mac {
            self.lock().fetched.insert(mac, now);
        }
    }

    /// iPXE spoke from this machine, or it is known what it does with iPXE.
    pub(crate) fn forget(&self, mac: MacAddr) {
        self.lock().fetched.remove(&mac);
    }

    /// Whether the machine has iPXE that was not heard of since.
    pub(crate) fn has_fetched(&self, now: Instant, mac: MacAddr) -> bool {
        self.lock().fetched.get(&mac).is_some_and(|since| now.duration_since(*since) < FETCHED_FOR)
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
        assert!(!fetches.has_fetched(now, mac(1)));
        fetches.fetched(now, ADDRESS);
        assert!(fetches.has_fetched(now, mac(1)) && !fetches.has_fetched(now, mac(2)));
        assert!(!fetches.has_fetched(now + FETCHED_FOR, mac(1)));
        fetches.forget(mac(1));
        assert!(!fetches.has_fetched(now, mac(1)));
        // Nobody's address, and nobody that the kernel knows.
        fetches.fetched(now, Ipv4Addr::new(192, 0, 2, 10));
        assert_eq!(fetches.lock().fetched.len(), 0);
    }

    #[test]
    fn address_that_goes_to_another_machine_is_the_others() {
        let (fetches, now) = (Fetches::default(), Instant::now());
        fetches.has_address(mac(1), ADDRESS);
        fetches.has_address(mac(2), ADDRESS);
        fetches.fetched(now, ADDRESS);
        assert!(fetches.has_fetched(now, mac(2)) && !fetches.has_fetched(now, mac(1)));
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
