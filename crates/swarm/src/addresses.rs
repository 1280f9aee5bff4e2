//! Whom to connect to, and when to try again.

use crate::chance::Chance;
use crate::moment::Moment;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Most addresses remembered; a tracker names 8 to 12, so this is room for a large site's changes.
pub const ADDRESSES_MAX: usize = 1024;

/// First wait after a failed connection; doubles up to [`RETRY_MAX`].
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(250);

/// Longest wait: a server that comes back is found within this.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(4);

/// A tracked address is forgotten after this many failures in a row; a first peer never is.
const FAILURES_MAX: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    /// Not connected; try at this time.
    Waiting(Moment),
    /// A connection attempt or a connection exists.
    Busy,
    /// It is ourselves, or banned: never try.
    Never,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    contact: Contact,
    failures: u32,
    /// Given by the configuration (the server): tried for ever.
    first: bool,
}

/// The addresses that peers can be reached at.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    entries: BTreeMap<SocketAddr, Entry>,
    /// When the first of those that wait is due: it is asked for after every message.
    next: Option<Moment>,
}

impl AddressBook {
    /// Adds an address to be tried at once; known ones stay as they are.
    pub(crate) fn add(&mut self, now: Moment, address: SocketAddr, first: bool) {
        if self.entries.len() >= ADDRESSES_MAX && !first {
            return;
        }
        let fresh = Entry { contact: Contact::Waiting(now), failures: 0, first };
        self.entries.entry(address).or_insert(fresh).first |= first;
        self.find_next();
    }

    /// The next address that is due, in random order; it counts as busy from now on.
    pub(crate) fn take_due(&mut self, now: Moment, chance: &mut Chance) -> Option<SocketAddr> {
        let due = self.entries.iter_mut().filter(|(_, entry)| is_due(entry, now));
        let mut due: Vec<_> = due.collect();
        // The configured peers come first: the server is the one that surely has something.
        if due.iter().any(|(_, entry)| entry.first) {
            due.retain(|(_, entry)| entry.first);
        }
        let chosen = chance.below(due.len());
        let (address, entry) = due.into_iter().nth(chosen)?;
        entry.contact = Contact::Busy;
        let address = *address;
        self.find_next();
        Some(address)
    }

    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.next
    }

    fn find_next(&mut self) {
        let waiting = self.entries.values().filter_map(|entry| match entry.contact {
            Contact::Waiting(until) => Some(until),
            Contact::Busy | Contact::Never => None,
        });
        self.next = waiting.min();
    }

    /// A connection to or from the address works.
    pub(crate) fn connected(&mut self, address: SocketAddr) {
        if let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.contact != Contact::Never) {
            entry.contact = Contact::Busy;
            entry.failures = 0;
            self.find_next();
        }
    }

    /// The connection ended or could not be made: try again later, a little later each time.
    pub(crate) fn lost(&mut self, now: Moment, address: SocketAddr, chance: &mut Chance) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        if entry.contact == Contact::Never {
            return;
        }
        entry.failures += 1;
        if entry.failures > FAILURES_MAX && !entry.first {
            self.entries.remove(&address);
            return self.find_next();
        }
        let doubled = RETRY_MIN.saturating_mul(1 << entry.failures.min(8).saturating_sub(1));
        let wait = doubled.min(RETRY_MAX);
        // Up to a quarter more, so that a whole cluster doesn't knock in step.
        let spread = wait / 64 * u32::try_from(chance.below(16)).unwrap_or(0);
        entry.contact = Contact::Waiting(now.plus(wait + spread));
        self.find_next();
    }

    /// Never try this address again: it is ourselves, or a banned peer's.
    pub(crate) fn never(&mut self, address: SocketAddr) {
        let entry = Entry { contact: Contact::Never, failures: 0, first: false };
        if self.entries.len() < ADDRESSES_MAX || self.entries.contains_key(&address) {
            self.entries.insert(address, entry);
            self.find_next();
        }
    }
}

fn is_due(entry: &Entry, now: Moment) -> bool {
    matches!(entry.contact, Contact::Waiting(until) if until <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn the_server_is_tried_for_ever_and_never_waits_longer_than_the_bound() {
        let (mut book, mut chance) = (AddressBook::default(), Chance::new([0; 32]));
        book.add(Moment::ZERO, address(1), true);
        book.add(Moment::ZERO, address(2), false);
        let mut now = Moment::ZERO;
        for _ in 0..100 {
            while let Some(due) = book.take_due(now, &mut chance) {
                book.lost(now, due, &mut chance);
            }
            let next = book.next_due().unwrap();
            assert!(next.since(now) <= RETRY_MAX * 5 / 4);
            now = next;
        }
        assert_eq!(
            book.entries.keys().copied().collect::<Vec<_>>(),
            [address(1)],
            "the tracked one is forgotten"
        );
    }

    #[test]
    fn an_address_is_dialled_once_at_a_time() {
        let (mut book, mut chance) = (AddressBook::default(), Chance::new([0; 32]));
        book.add(Moment::ZERO, address(1), false);
        assert_eq!(book.take_due(Moment::ZERO, &mut chance), Some(address(1)));
        book.add(Moment::ZERO, address(1), false);
        assert_eq!(book.take_due(Moment::ZERO, &mut chance), None);
        book.never(address(1));
        book.lost(Moment::ZERO, address(1), &mut chance);
        assert_eq!(book.next_due(), None);
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = AddressBook::default();
        for port in 0..u16::try_from(ADDRESSES_MAX).unwrap() + 100 {
            book.add(Moment::ZERO, address(port), false);
        }
        assert_eq!(book.entries.len(), ADDRESSES_MAX);
    }
}
