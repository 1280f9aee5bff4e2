//! What came of one thing that was made several times on a computer that others may use.

use super::figures::median;

/// Its bytes, and how long it took.
#[derive(Clone, Debug, Default)]
pub(super) struct Timed {
    /// Of the last run.
    pub(super) bytes: u64,
    /// Of the runs that no other work disturbed.
    pub(super) seconds: Vec<f64>,
}

impl Timed {
    /// One run more.
    pub(super) fn add(&mut self, bytes: u64, seconds: f64, is_quiet: bool) {
        self.bytes = bytes;
        self.seconds.extend(is_quiet.then_some(seconds));
    }

    /// Seconds.
    pub(super) fn median(&self) -> Option<f64> {
        median(self.seconds.iter().copied())
    }
}

/// What a report adds to what its figures are limited by.
pub(super) fn note_if_untimed<'a>(all: impl IntoIterator<Item = &'a Timed>) -> &'static str {
    if all.into_iter().any(|timed| timed.seconds.is_empty()) {
        "; no time where other work kept this computer busy"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_run_gives_bytes_and_no_time() {
        let mut timed = Timed::default();
        timed.add(10, 1.0, true);
        timed.add(12, 9.0, false);
        assert_eq!((timed.bytes, timed.median()), (12, Some(1.0)));
    }

    #[test]
    fn a_report_says_that_something_has_no_time() {
        let mut timed = Timed::default();
        assert_eq!(timed.median(), None);
        assert!(note_if_untimed([&timed]).contains("no time"));
        timed.add(10, 1.0, true);
        assert_eq!(note_if_untimed([&timed]), "");
        assert!(note_if_untimed([&timed, &Timed::default()]).contains("no time"));
    }
}
