//! What the server has not heard yet.
//!
//! ```text
//!  push_event ->  waiting --batch--> in flight --acknowledge--> gone
//!                    ^                   |
//!                    +------- (the same batch again: nothing is removed before it is acknowledged)
//! ```
//! Events are kept until the server says that it has stored them. Log lines are dropped oldest first when the
//! server is away for long, and their number takes their place. Of progress only the newest counts.

use std::collections::VecDeque;

use node_api::{Event, EventKind, Inventory, LogLine, Progress, ReportReply, ReportRequest};

/// A stage that is tried again once a minute for a day makes this many; beyond it, `entered` events go first.
const EVENTS_MAX: usize = 4096;
/// One request stays small enough for any server.
const EVENTS_PER_BATCH: usize = 64;
/// A kernel under a failing disk prints some hundred lines a second.
const LOG_LINES_MAX: usize = 4000;
/// See [`EVENTS_PER_BATCH`].
const LOG_LINES_PER_BATCH: usize = 256;
/// Longer lines are cut; the kernel's own limit is 1 KiB, our lists of disks may be longer.
const LOG_LINE_BYTES_MAX: usize = 4096;

/// When something happened, by the two clocks of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// Milliseconds since 1970.
    pub(crate) unix_ms: u64,
    /// Milliseconds since the kernel started.
    pub(crate) uptime_ms: u64,
}

/// News for the server. Never reads a clock or touches the network.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    last_sequence: u64,
    events: VecDeque<Event>,
    log: VecDeque<LogLine>,
    log_dropped: u64,
    progress: Option<Progress>,
    inventory: Option<Inventory>,
    boot_share_port: Option<u16>,
}

/// How much of the queue a request holds, so that just that is removed when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    log_lines: usize,
    log_dropped: u64,
    progress: Option<Progress>,
    has_inventory: bool,
}

impl Queue {
    /// Goes on where an earlier agent of this boot stopped.
    pub(crate) fn resume(last_sequence: u64, events: Vec<Event>) -> Self {
        let last_sequence = events.iter().map(|event| event.sequence).fold(last_sequence, u64::max);
        Self { last_sequence, events: events.into(), ..Self::default() }
    }

    /// Adds an event and returns its sequence number.
    pub(crate) fn push_event(&mut self, kind: EventKind, at: Moment) -> u64 {
        if self.events.len() >= EVENTS_MAX {
            let least = self.events.iter().position(|event| matches!(event.kind, EventKind::Entered { .. }));
            self.events.remove(least.unwrap_or_default());
        }
        if matches!(kind, EventKind::Entered { .. }) {
            // The last figure of one stage says nothing of the next, and would seem to lead back to it.
            self.progress = None;
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.events.push_back(Event { sequence, at_unix_ms: at.unix_ms, uptime_ms: at.uptime_ms, kind });
        sequence
    }

    /// Adds a log line and drops the oldest beyond the bound.
    pub(crate) fn push_log(&mut self, source: &str, mut text: String, uptime_ms: u64) {
        if text.len() > LOG_LINE_BYTES_MAX {
            let end =
                (0..=LOG_LINE_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
            text.truncate(end);
        }
        self.log.push_back(LogLine { uptime_ms, source: source.to_owned(), text });
        while self.log.len() > LOG_LINES_MAX {
            self.log.pop_front();
            self.log_dropped += 1;
        }
    }

    /// Replaces the progress.
    pub(crate) fn set_progress(&mut self, progress: Progress) {
        self.progress = Some(progress);
    }

    /// Sends this inventory with the next batch.
    pub(crate) fn set_inventory(&mut self, inventory: Inventory) {
        self.inventory = Some(inventory);
    }

    /// From now on every report says that boot files are served at this port.
    pub(crate) fn set_boot_share_port(&mut self, port: u16) {
        self.boot_share_port = Some(port);
    }

    /// Whether anything waits that is worth a request now.
    pub(crate) fn has_news(&self) -> bool {
        !self.events.is_empty() || !self.log.is_empty() || self.inventory.is_some() || self.progress.is_some()
    }

    /// Whether every event up to this one is stored at the server.
    pub(crate) fn is_stored(&self, sequence: u64) -> bool {
        self.events.front().is_none_or(|first| first.sequence > sequence)
    }

    /// The next request. Nothing is removed; asking again gives the same and what came since.
    pub(crate) fn batch(&self) -> (ReportRequest, InFlight) {
        let mut log: Vec<LogLine> = self.log.iter().take(LOG_LINES_PER_BATCH).cloned().collect();
        let in_flight = InFlight {
            log_lines: log.len(),
            log_dropped: self.log_dropped,
            progress: self.progress,
            has_inventory: self.inventory.is_some(),
        };
        if self.log_dropped > 0 {
            let uptime_ms = log.first().map_or(0, |line| line.uptime_ms);
            let text = format!("{} log lines before this one were dropped", self.log_dropped);
            log.insert(0, LogLine { uptime_ms, source: "agent".to_owned(), text });
        }
        let request = ReportRequest {
            events: self.events.iter().take(EVENTS_PER_BATCH).cloned().collect(),
            progress: self.progress,
            log,
            inventory: self.inventory.clone(),
            boot_share_port: self.boot_share_port,
        };
        (request, in_flight)
    }

    /// The server has this request: forgets what it said that it stored.
    pub(crate) fn acknowledge(&mut self, in_flight: InFlight, reply: &ReportReply) {
        while self.events.front().is_some_and(|event| event.sequence <= reply.stored_sequence) {
            self.events.pop_front();
        }
        // Lines that were dropped meanwhile were the oldest, so they were among those sent.
        let dropped_since = self.log_dropped.saturating_sub(in_flight.log_dropped);
        let dropped = usize::try_from(dropped_since).unwrap_or(usize::MAX);
        let sent = in_flight.log_lines.saturating_sub(dropped);
        self.log.drain(..sent.min(self.log.len()));
        let lost = dropped.saturating_sub(in_flight.log_lines);
        self.log_dropped = u64::try_from(lost).unwrap_or(u64::MAX);
        if in_flight.has_inventory {
            self.inventory = None;
        }
        if self.progress == in_flight.progress {
            self.progress = None;
        }
    }

    /// What the next agent of this boot needs: the last sequence number and the events not yet stored.
    pub(crate) fn unstored(&self) -> (u64, Vec<Event>) {
        (self.last_sequence, self.events.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use node_api::Stage;

    use super::*;

    fn entered(stage: Stage) -> EventKind {
        EventKind::Entered { stage }
    }

    fn stored(stored_sequence: u64) -> ReportReply {
        ReportReply { stored_sequence, directive: None }
    }

    #[test]
    fn events_are_sent_again_until_the_server_has_stored_them() {
        let mut queue = Queue::default();
        let first = queue.push_event(entered(Stage::Start), Moment::default());
        let second = queue.push_event(entered(Stage::Probe), Moment::default());
        let (request, in_flight) = queue.batch();
        assert_eq!(request.events.len(), 2);
        queue.acknowledge(in_flight, &stored(first));
        assert!(queue.is_stored(first) && !queue.is_stored(second));
        assert_eq!(queue.batch().0.events.len(), 1);
        let (_, in_flight) = queue.batch();
        queue.acknowledge(in_flight, &stored(second));
        assert!(queue.is_stored(second) && !queue.has_news());
    }

    #[test]
    fn log_lines_that_came_during_a_request_are_kept() {
        let mut queue = Queue::default();
        queue.push_log("agent", "one".into(), 1);
        let (_, in_flight) = queue.batch();
        queue.push_log("agent", "two".into(), 2);
        queue.acknowledge(in_flight, &stored(0));
        let (request, _) = queue.batch();
        assert_eq!(request.log.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["two"]);
    }

    #[test]
    fn long_absence_of_the_server_costs_the_oldest_lines_and_says_how_many() {
        let mut queue = Queue::default();
        for number in 0..LOG_LINES_MAX + 10 {
            queue.push_log("kernel", number.to_string(), 7);
        }
        let (request, in_flight) = queue.batch();
        assert_eq!(request.log[0].text, "10 log lines before this one were dropped");
        assert_eq!(request.log[1].text, "10");
        // Meanwhile more arrive, which push out some of those that are in flight.
        for number in 0..5 {
            queue.push_log("kernel", format!("late {number}"), 8);
        }
        queue.acknowledge(in_flight, &stored(0));
        let (request, _) = queue.batch();
        assert_eq!(request.log[0].text, (10 + LOG_LINES_PER_BATCH).to_string());
    }

    #[test]
    fn progress_is_sent_once_and_ends_with_its_stage() {
        let progress = |done_bytes| Progress {
            stage: Stage::Fetch,
            done_bytes,
            total_bytes: 9,
            traffic: node_api::TrafficCounts::default(),
            peers: 1,
        };
        let mut queue = Queue::default();
        queue.set_progress(progress(1));
        let (request, in_flight) = queue.batch();
        assert_eq!(request.progress, Some(progress(1)));
        queue.set_progress(progress(2));
        queue.acknowledge(in_flight, &stored(0));
        let (request, in_flight) = queue.batch();
        assert_eq!(request.progress, Some(progress(2)));
        queue.acknowledge(in_flight, &stored(0));
        assert!(!queue.has_news());
        queue.set_progress(progress(3));
        queue.push_event(entered(Stage::Verify), Moment::default());
        assert_eq!(queue.batch().0.progress, None, "a late figure would lead back to the stage before");
    }

    #[test]
    fn inventory_is_sent_until_it_arrived() {
        let mut queue = Queue::default();
        queue.set_inventory(Inventory::default());
        assert!(queue.batch().0.inventory.is_some());
        let (request, in_flight) = queue.batch();
        assert!(request.inventory.is_some());
        queue.acknowledge(in_flight, &stored(0));
        assert!(queue.batch().0.inventory.is_none());
    }

    #[test]
    fn next_agent_of_a_boot_goes_on_counting_and_sends_what_was_left() {
        let mut queue = Queue::default();
        queue.push_event(entered(Stage::Start), Moment::default());
        let (last, events) = queue.unstored();
        let mut next = Queue::resume(last, events);
        assert_eq!(next.push_event(entered(Stage::Start), Moment::default()), 2);
        assert_eq!(next.batch().0.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn outcomes_outlive_entered_events_when_there_are_too_many() {
        let mut queue = Queue::default();
        let finished = EventKind::Finished { stage: Stage::Start, took_ms: 1, detail: String::new() };
        let outcome = queue.push_event(finished, Moment::default());
        for _ in 0..EVENTS_MAX + 3 {
            queue.push_event(entered(Stage::Enrol), Moment::default());
        }
        assert_eq!(queue.events.len(), EVENTS_MAX);
        assert_eq!(queue.batch().0.events[0].sequence, outcome);
    }
}
