//! Who may have a transfer: so many at a time, so many of one node, and nobody keeps a place that only claims to be
//! there.
//!
//! Never knows a socket. Places are numbered in the order in which they were taken.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tftp::ReadRequest;

/// Transfers at a time: with the files in memory each costs a socket and a few hundred bytes.
pub(super) const TRANSFERS_MAX: usize = 1024;
/// Transfers of one node at a time; firmware needs one, and one more that it has left behind.
pub(super) const TRANSFERS_PER_NODE_MAX: usize = 8;

/// What the listener and a transfer's shard tell each other.
#[derive(Debug)]
pub(super) struct Flags {
    /// The listener: somebody waits for the file.
    pub(super) wanted: AtomicBool,
    /// The shard: the node has answered.
    pub(super) proven: AtomicBool,
}

/// A request's fate.
#[derive(Debug)]
pub(super) enum Taken {
    /// It has a place with this number.
    Place(u64, Arc<Flags>),
    /// Its transfer is already under way.
    Echo,
    /// No place is free.
    Full,
}

#[derive(Debug)]
struct Place {
    node: SocketAddrV4,
    request: ReadRequest,
    flags: Arc<Flags>,
}

/// All places that are taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: BTreeMap<u64, Place>,
    /// What each node's port reads; a second request from it is either an echo or a change of mind.
    by_port: HashMap<SocketAddrV4, u64>,
    by_node: HashMap<Ipv4Addr, usize>,
    next: u64,
    /// Transfers that were told to end so that another could begin.
    replaced: u64,
}

impl Places {
    /// Takes a place for a request.
    pub(super) fn take(&mut self, node: SocketAddrV4, request: &ReadRequest) -> Taken {
        if let Some(number) = self.by_port.get(&node).copied() {
            if self.taken.get(&number).is_some_and(|place| place.request == *request) {
                return Taken::Echo;
            }
            self.replace(number);
        }
        let of_node = self.by_node.get(node.ip()).copied().unwrap_or_default();
        let room = (of_node < TRANSFERS_PER_NODE_MAX || self.replace_unproven(Some(*node.ip())))
            && (self.taken.len() < TRANSFERS_MAX || self.replace_unproven(None));
        if !room {
            return Taken::Full;
        }
        let number = self.next;
        self.next += 1;
        let flags = Arc::new(Flags { wanted: AtomicBool::new(true), proven: AtomicBool::new(false) });
        self.taken.insert(number, Place { node, request: request.clone(), flags: Arc::clone(&flags) });
        self.by_port.insert(node, number);
        *self.by_node.entry(*node.ip()).or_default() += 1;
        Taken::Place(number, flags)
    }

    /// The transfer with this number has ended. Without effect if its place was given to another before.
    pub(super) fn free(&mut self, number: u64) {
        let Some(place) = self.taken.remove(&number) else { return };
        if self.by_port.get(&place.node) == Some(&number) {
            self.by_port.remove(&place.node);
        }
        if let Some(count) = self.by_node.get_mut(place.node.ip()) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_node.remove(place.node.ip());
            }
        }
    }

    /// Transfers that were told to end so that another could begin, since the last call.
    pub(super) fn take_replaced(&mut self) -> u64 {
        std::mem::take(&mut self.replaced)
    }

    /// Whoever writes false addresses into requests never answers; the oldest such place goes to the next request.
    fn replace_unproven(&mut self, node: Option<Ipv4Addr>) -> bool {
        let unproven = |place: &Place| {
            node.is_none_or(|node| *place.node.ip() == node) && !place.flags.proven.load(Ordering::Relaxed)
        };
        let oldest = self.taken.iter().find(|(_, place)| unproven(place)).map(|(number, _)| *number);
        oldest.is_some_and(|number| {
            self.replace(number);
            true
        })
    }

    fn replace(&mut self, number: u64) {
        if let Some(place) = self.taken.get(&number) {
            place.flags.wanted.store(false, Ordering::Relaxed);
            self.replaced += 1;
        }
        self.free(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(node: u32, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + node), port)
    }

    fn request(name: &str) -> ReadRequest {
        ReadRequest { name: name.into(), ..ReadRequest::default() }
    }

    fn proven(taken: &Taken) {
        let Taken::Place(_, flags) = taken else { panic!("{taken:?}") };
        flags.proven.store(true, Ordering::Relaxed);
    }

    #[test]
    fn echo_is_no_second_transfer_and_another_name_ends_the_first() {
        let mut places = Places::default();
        let Taken::Place(first, flags) = places.take(port(1, 1), &request("a")) else { panic!() };
        assert!(matches!(places.take(port(1, 1), &request("a")), Taken::Echo));
        assert!(matches!(places.take(port(1, 1), &request("b")), Taken::Place(..)));
        assert!(!flags.wanted.load(Ordering::Relaxed));
        assert_eq!(places.take_replaced(), 1);
        // The first one's end comes late and takes nothing from the second.
        places.free(first);
        assert!(matches!(places.take(port(1, 1), &request("b")), Taken::Echo));
    }

    #[test]
    fn one_node_has_a_bounded_share() {
        let mut places = Places::default();
        for at in 0..8 {
            proven(&places.take(port(1, at), &request("a")));
        }
        assert!(matches!(places.take(port(1, 99), &request("a")), Taken::Full));
        assert!(matches!(places.take(port(2, 99), &request("a")), Taken::Place(..)));
    }

    #[test]
    fn flood_with_false_addresses_takes_no_place_from_who_answers() {
        let mut places = Places::default();
        let honest = places.take(port(1, 1), &request("a"));
        proven(&honest);
        for at in 0..50_000 {
            assert!(matches!(places.take(port(1000 + at, 7), &request("a")), Taken::Place(..)), "{at}");
        }
        assert_eq!((places.taken.len(), places.by_node.len()), (TRANSFERS_MAX, TRANSFERS_MAX));
        let Taken::Place(_, flags) = &honest else { panic!() };
        assert!(flags.wanted.load(Ordering::Relaxed));
        for number in 0..60_000 {
            places.free(number);
        }
        assert!(places.taken.is_empty() && places.by_port.is_empty() && places.by_node.is_empty());
    }

    #[test]
    fn full_house_of_those_who_answer_lets_nobody_in() {
        let mut places = Places::default();
        for at in 0..u32::try_from(TRANSFERS_MAX).unwrap() {
            proven(&places.take(port(at, 1), &request("a")));
        }
        assert!(matches!(places.take(port(9999, 1), &request("a")), Taken::Full));
        places.free(17);
        assert!(matches!(places.take(port(9999, 1), &request("a")), Taken::Place(..)));
    }
}
