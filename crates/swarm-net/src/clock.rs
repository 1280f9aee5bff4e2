//! The one place that asks what time it is.

use std::time::Instant;
use swarm::Moment;

/// Turns the machine's monotonic clock into the engine's [`Moment`]s.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// The time since the origin.
    pub fn now(&self) -> Moment {
        Moment::after_origin(self.origin.elapsed())
    }

    /// When a moment comes, for tokio's timers.
    pub(crate) fn at(&self, moment: Moment) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin + moment.since_origin())
    }
}
