//! The engine's clock.

use std::time::{Instant, SystemTime};

use dhcp_engine::Moment;

/// Wall-clock time read once, then counted on by a clock that cannot jump.
pub(super) struct Clock {
    began: Moment,
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { began: Moment(0).after(since_1970), started: Instant::now() }
    }

    pub(super) fn now(&self) -> Moment {
        self.began.after(self.started.elapsed())
    }
}
