//! What a stage says when it fails, and what happens then.

use std::time::Duration;

use node_api::{Recovery, Stage};

use crate::console;

/// The error of one stage: the sentence is its `Display` with its sources.
pub(crate) trait StageError: std::error::Error + Send + Sync + 'static {
    /// A short stable word for events and tests, such as `disk-ambiguous`.
    fn code(&self) -> &'static str;
    /// What the node does next.
    fn recovery(&self) -> Recovery;
}

/// A stage that failed, as console and server see it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) recovery: Recovery,
}

impl Failure {
    pub(crate) fn new(stage: Stage, error: &impl StageError) -> Self {
        Self { stage, code: error.code(), message: console::chain(error), recovery: error.recovery() }
    }
}

/// Pauses between tries: doubled each time up to a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackOff {
    next: Duration,
    limit: Duration,
}

impl BackOff {
    pub(crate) const fn new(first: Duration, limit: Duration) -> Self {
        Self { next: first, limit }
    }

    /// How long to wait before the next try.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.limit);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut back_off = BackOff::new(Duration::from_secs(1), Duration::from_secs(5));
        let pauses: Vec<u64> = (0..5).map(|_| back_off.pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
    }
}
