//! Places for large transfers: who has one when more are asked for than there are.
//!
//! Never reads a clock and never waits: who finds no place is told so at once.
//!
//! ```text
//!   free --asked for--> taken --last byte handed over--> free
//!                         | the transfer falls behind its pace, and somebody else asks
//!                         `---------------------------> taken by whoever asks
//! ```
//! Addresses cost an attacker nothing, so they prove nothing: a quarter of the places is kept for the site's own nodes, a
//! place is lost by whoever does not read, and who lost one so takes none away from others for a while.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dhcp_wire::MacAddr;
use tracing::debug;

use crate::recent::Recent;

/// Places of one asker. A node needs one; a few more are of a loader that gave up and asks again, or of machines behind
/// one address.
const PER_ASKER_MAX: usize = 8;
/// One place in so many is for the site's own nodes alone.
const KEPT_FOR_NODES: usize = 4;
/// The slowest firmware seen reads 1 MB/s, and 64 nodes share a link of 100 Mbit/s at three times this.
const PACE_BYTES_PER_S: u64 = 64 << 10;
/// How far a transfer may fall behind its pace, and run ahead of it.
const SLACK: Duration = Duration::from_secs(5);
/// The same for those who have lost a place by it.
const SLACK_OF_SLOW: Duration = Duration::from_secs(1);
/// How long those are remembered. Who holds the 48 places of strangers by turns of 5 s needs 5,760 addresses then.
const SLOW_FOR: Duration = Duration::from_secs(600);
/// How many of them; beyond it those who lost a place longest ago are forgotten.
const SLOW_MAX: usize = 16_384;

/// Who asks for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// One of the site's own nodes, whatever its addresses.
    Node(MacAddr),
    /// Anybody else.
    Stranger(IpAddr),
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    inner: Arc<Mutex<Inner>>,
    max: usize,
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    inner: Arc<Mutex<Inner>>,
    number: u64,
}

#[derive(Debug)]
struct Inner {
    taken: BTreeMap<u64, Taken>,
    next: u64,
    /// Who lost a place because it did not read, and when.
    slow: Recent<Asker, Instant>,
}

#[derive(Debug)]
struct Taken {
    by: Asker,
    /// When its transfer falls behind, if nothing more is read.
    due: Instant,
    slack: Duration,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        let inner = Inner { taken: BTreeMap::new(), next: 0, slow: Recent::new(SLOW_MAX) };
        Self { inner: Arc::new(Mutex::new(inner)), max }
    }

    /// `None` if there is none for this asker now.
    pub(super) fn take(&self, now: Instant, by: Asker) -> Option<Place> {
        let mut inner = lock(&self.inner);
        if !inner.make_room(now, self.max, by) {
            return None;
        }
        let slack = if inner.was_slow(now, by) { SLACK_OF_SLOW } else { SLACK };
        let number = inner.next;
        inner.next += 1;
        inner.taken.insert(number, Taken { by, due: now + slack, slack });
        Some(Place { inner: Arc::clone(&self.inner), number })
    }
}

impl Place {
    /// The transfer has taken these many bytes more. `false` if its place was given to somebody else.
    pub(super) fn took(&self, now: Instant, bytes: usize) -> bool {
        let mut inner = lock(&self.inner);
        let Some(taken) = inner.taken.get_mut(&self.number) else { return false };
        let earned = Duration::from_micros(bytes as u64 * 1_000_000 / PACE_BYTES_PER_S);
        taken.due = (taken.due + earned).min(now + taken.slack);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.inner).taken.remove(&self.number);
    }
}

impl Inner {
    fn was_slow(&self, now: Instant, asker: Asker) -> bool {
        self.slow.get(&asker).is_some_and(|lost| now.saturating_duration_since(*lost) < SLOW_FOR)
    }

    /// Whether a place is free for this asker, if need be by taking it from the transfer that is furthest behind.
    fn make_room(&mut self, now: Instant, max: usize, by: Asker) -> bool {
        let count =
            |holds: &dyn Fn(Asker) -> bool| self.taken.values().filter(|taken| holds(taken.by)).count();
        let own = count(&|other| other == by);
        let for_strangers = max - max / KEPT_FOR_NODES;
        let strangers_full = by.is_stranger() && count(&Asker::is_stranger) >= for_strangers;
        if own < PER_ASKER_MAX && !strangers_full && self.taken.len() < max {
            return true;
        }
        if self.was_slow(now, by) {
            return false;
        }
        // Who has a place, such as a loader that gave up and asks again, takes none but its own.
        let makes_room = |taken: &Taken| match own {
            0 => !strangers_full || taken.by.is_stranger(),
            _ => taken.by == by,
        };
        let behind = self.taken.iter().filter(|(_, taken)| taken.due < now && makes_room(taken));
        let furthest = behind.min_by_key(|(_, taken)| taken.due).map(|(number, _)| *number);
        let Some(number) = furthest else { return false };
        if let Some(lost) = self.taken.remove(&number).map(|taken| taken.by) {
            debug!(?lost, to = ?by, "a large transfer does not move and lost its place");
            self.slow.insert(lost, now);
        }
        true
    }
}

impl Asker {
    fn is_stranger(self) -> bool {
        matches!(self, Self::Stranger(_))
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;
    const FRAME: usize = 64 << 10;

    fn stranger(number: u32) -> Asker {
        Asker::Stranger(IpAddr::from((0x0a4d_0000 + number).to_be_bytes()))
    }

    fn node(number: u8) -> Asker {
        Asker::Node(MacAddr([0x52, 0x54, 0, 0, 0, number]))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Strangers from `first` on take all places that they may have; none of them reads.
    fn crowd(places: &Places, now: Instant, first: u32) -> Vec<Place> {
        (first..).map_while(|number| places.take(now, stranger(number))).collect()
    }

    #[test]
    fn strangers_never_have_the_quarter_that_is_kept_for_nodes() {
        let (places, now) = (Places::new(MAX), Instant::now());
        assert_eq!(crowd(&places, now, 0).len(), 48);
        let _crowd = crowd(&places, now, 0);
        let held: Vec<Place> = (0..64).map_while(|number| places.take(now, node(number))).collect();
        assert_eq!(held.len(), 16);
        assert!(places.take(now, node(99)).is_none(), "nobody is behind");
    }

    #[test]
    fn nodes_may_have_all_places_and_one_asker_eight() {
        let (places, now) = (Places::new(MAX), Instant::now());
        let eight: Vec<Place> = (0..9).filter_map(|_| places.take(now, node(1))).collect();
        assert_eq!(eight.len(), 8);
        let others: Vec<Place> = (2..99).map_while(|number| places.take(now, node(number))).collect();
        assert_eq!(others.len(), MAX - 8);
    }

    #[test]
    fn who_reads_nothing_loses_its_place_to_the_next_that_asks() {
        let (places, now) = (Places::new(MAX), Instant::now());
        let crowd = crowd(&places, now, 0);
        assert!(places.take(now + SLACK, stranger(900)).is_none());
        let later = now + seconds(6);
        let _place = places.take(later, stranger(900)).unwrap();
        assert!(!crowd[0].took(later, FRAME), "the first that fell behind");
        assert!(crowd[1].took(later, FRAME));
    }

    #[test]
    fn who_lost_its_place_takes_none_from_others_for_ten_minutes() {
        let (places, now) = (Places::new(MAX), Instant::now());
        let _crowd = crowd(&places, now, 0);
        let _honest = places.take(now + seconds(6), stranger(900)).unwrap();
        assert!(places.take(now + seconds(7), stranger(0)).is_none());
        assert!(places.take(now + seconds(600), stranger(0)).is_none());
        assert!(places.take(now + seconds(606), stranger(0)).is_some());
    }

    #[test]
    fn who_asks_all_the_time_and_reads_nothing_runs_out_of_addresses() {
        let (places, start) = (Places::new(MAX), Instant::now());
        let mut held = Vec::new();
        for second in 0..120 {
            let now = start + seconds(second);
            // Each is quicker than the node, and what it gets fills the buffers on the way.
            for number in 0..200 {
                let place = places.take(now, stranger(number));
                place.iter().for_each(|place| assert!(place.took(now, 4 << 20)));
                held.extend(place);
            }
            if second > 40 {
                assert!(places.take(now, stranger(5000)).is_some(), "no place after {second} s");
            }
        }
    }

    #[test]
    fn slowest_firmware_and_a_shared_slow_link_keep_their_places() {
        for bytes_per_s in [1_000_000, 12_500_000 / MAX] {
            let (places, start) = (Places::new(MAX), Instant::now());
            let crowd = crowd(&places, start, 0);
            for second in 1..=120 {
                let now = start + seconds(second);
                assert!(places.take(now, stranger(900)).is_none(), "after {second} s");
                assert!(crowd.iter().all(|place| place.took(now, bytes_per_s)));
            }
        }
    }

    #[test]
    fn what_runs_ahead_is_not_saved_up() {
        let (places, now) = (Places::new(MAX), Instant::now());
        let crowd = crowd(&places, now, 0);
        assert!(crowd.iter().all(|place| place.took(now, 24_000_000)), "all buffers on the way are filled");
        assert!(places.take(now + seconds(6), stranger(900)).is_some());
    }

    #[test]
    fn loader_that_gave_up_and_asks_again_replaces_itself() {
        let (places, now) = (Places::new(MAX), Instant::now());
        let given_up: Vec<Place> = (0..8).filter_map(|_| places.take(now, stranger(1))).collect();
        let later = now + seconds(6);
        let again = places.take(later, stranger(1)).unwrap();
        assert!(!given_up[0].took(later, FRAME) && again.took(later, FRAME));
        assert!(places.take(later, stranger(1)).is_none(), "once is enough");
    }

    #[test]
    fn few_places_are_shared_as_far_as_they_can() {
        let (places, now) = (Places::new(1), Instant::now());
        let place = places.take(now, stranger(1));
        assert!(place.is_some() && places.take(now, node(1)).is_none());
        drop(place);
        assert!(places.take(now, node(1)).is_some());
    }
}
