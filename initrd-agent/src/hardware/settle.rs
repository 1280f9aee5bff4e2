//! When all devices have appeared, as far as one can know.
//!
//! ```text
//!            event, load begun, load returned
//!          +---------------------------------+
//!          v                                 |
//!       [busy] --nothing loads, 700 ms quiet--> settled
//!          |
//!          +--the deadline passes--> given up (what still loads is named)
//! ```
//! Never reads a clock.

use std::time::{Duration, Instant};

/// Events of one chain (controller, port, device, disk) follow each other faster than this: in 25 emulated
/// machines no disk came later, and waiting costs every node this long.
const QUIET: Duration = Duration::from_millis(700);

/// How often to look whether a load has returned.
const LOAD_POLL: Duration = Duration::from_millis(20);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait at most this long for an event, then ask again.
    Wait(Duration),
    /// Nothing happens any more.
    Settled,
    /// Time is over.
    GivenUp,
}

/// The rule, as a state machine over the clock of its caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settle {
    last_change: Instant,
    deadline: Instant,
}

impl Settle {
    pub(crate) const fn new(now: Instant, deadline: Instant) -> Self {
        Self { last_change: now, deadline }
    }

    /// A device came or went, or a load began or returned.
    pub(crate) fn changed(&mut self, now: Instant) {
        self.last_change = now;
    }

    /// What to do while `loading` modules are waiting or loading.
    pub(crate) fn next(&mut self, now: Instant, loading: usize) -> Next {
        let left = self.deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Next::GivenUp;
        }
        if loading > 0 {
            self.last_change = now;
            return Next::Wait(LOAD_POLL.min(left));
        }
        let quiet = QUIET.saturating_sub(now.saturating_duration_since(self.last_change));
        if quiet.is_zero() { Next::Settled } else { Next::Wait(quiet.min(left)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn quiet_for_long_enough_is_settled() {
        let start = Instant::now();
        let mut settle = Settle::new(start, start + ms(10_000));
        assert_eq!(settle.next(start, 0), Next::Wait(QUIET));
        assert_eq!(settle.next(start + ms(400), 0), Next::Wait(ms(300)));
        settle.changed(start + ms(500));
        assert_eq!(settle.next(start + ms(800), 0), Next::Wait(ms(400)));
        assert_eq!(settle.next(start + ms(1200), 0), Next::Settled);
    }

    #[test]
    fn a_load_that_has_not_returned_is_waited_for_and_quiet_counts_from_its_end() {
        let start = Instant::now();
        let mut settle = Settle::new(start, start + ms(10_000));
        assert_eq!(settle.next(start + ms(5000), 1), Next::Wait(LOAD_POLL));
        assert_eq!(settle.next(start + ms(5100), 0), Next::Wait(ms(600)));
        assert_eq!(settle.next(start + ms(5700), 0), Next::Settled);
    }

    #[test]
    fn a_driver_that_hangs_does_not_hang_us() {
        let start = Instant::now();
        let mut settle = Settle::new(start, start + ms(1000));
        assert_eq!(settle.next(start + ms(990), 1), Next::Wait(ms(10)));
        assert_eq!(settle.next(start + ms(1000), 1), Next::GivenUp);
    }
}
