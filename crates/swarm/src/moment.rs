//! Time as the engine sees it: nanoseconds since an origin that the driver chose.

use std::time::Duration;

/// A point in time: nanoseconds since the driver's origin (its start, or zero in a simulated world).
///
/// The engine only compares and adds; it can't ask what time it is. All arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The origin.
    pub const ZERO: Moment = Moment(0);

    /// The moment `elapsed` after the origin.
    pub fn after_origin(elapsed: Duration) -> Moment {
        Moment(nanos(elapsed))
    }

    /// How long after the origin this is.
    pub fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// This moment plus `delay`.
    pub fn plus(self, delay: Duration) -> Moment {
        Moment(self.0.saturating_add(nanos(delay)))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes per second over the last half second, in whole numbers so that every machine computes the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateMeter {
    buckets: [u64; RATE_BUCKETS],
    newest: u64,
    first: Option<Moment>,
}

const RATE_BUCKETS: usize = 8;
const RATE_BUCKET: Duration = Duration::from_millis(64);
/// A rate is never computed over less than this: one early block must not look like a fast link.
const RATE_WINDOW_MIN: Duration = Duration::from_millis(20);

impl RateMeter {
    pub(crate) fn add(&mut self, now: Moment, bytes: u64) {
        self.first.get_or_insert(now);
        let slot = slot(now);
        if slot > self.newest {
            let gone = (slot - self.newest).min(RATE_BUCKETS as u64);
            for step in 0..gone {
                if let Some(bucket) = self.buckets.get_mut(position(slot - step)) {
                    *bucket = 0;
                }
            }
            self.newest = slot;
        }
        if let Some(bucket) = self.buckets.get_mut(position(slot)) {
            *bucket = bucket.saturating_add(bytes);
        }
    }

    pub(crate) fn per_second(&self, now: Moment) -> u64 {
        let Some(first) = self.first else { return 0 };
        let current = slot(now);
        let gone = current.saturating_sub(self.newest);
        if gone >= RATE_BUCKETS as u64 {
            return 0;
        }
        let kept = RATE_BUCKETS as u64 - gone;
        let sum: u64 = (0..kept)
            .filter_map(|step| self.newest.checked_sub(step))
            .filter_map(|slot| self.buckets.get(position(slot)))
            .sum();
        let window = RATE_BUCKET * u32::try_from(RATE_BUCKETS).unwrap_or(1);
        let window = now.since(first).min(window).max(RATE_WINDOW_MIN);
        u64::try_from(u128::from(sum) * 1_000_000_000 / window.as_nanos().max(1)).unwrap_or(u64::MAX)
    }
}

fn slot(now: Moment) -> u64 {
    // Slot 0 is never current, so that a fresh meter's `newest` means "nothing yet".
    now.0 / nanos(RATE_BUCKET).max(1) + 1
}

fn position(slot: u64) -> usize {
    usize::try_from(slot % RATE_BUCKETS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_is_measured_within_a_quarter() {
        let mut meter = RateMeter::default();
        let mut now = Moment::ZERO;
        for _ in 0..2000 {
            now = now.plus(Duration::from_millis(1));
            meter.add(now, 16_384);
        }
        let rate = meter.per_second(now);
        assert!((12_000_000..20_000_000).contains(&rate), "{rate}");
        assert_eq!(meter.per_second(now.plus(Duration::from_secs(2))), 0);
    }
}
