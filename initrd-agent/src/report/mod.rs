//! Tells the server what happens on this node: events, log and progress, in batches of about one second.
//!
//! Never loses an event while the server is away, never waits for the server.
//!
//! Read first: [`Reporter`] (the side of the stages), [`send`] (the side of the server), [`queue::Queue`].

mod kernel_log;
mod queue;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use node_api::{Directive, Event, EventKind, Inventory, Progress, ReportReply, Stage, TrafficCounts};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::api::{ApiError, Session};
use crate::failure::{BackOff, Failure};
use queue::{InFlight, Moment, Queue};

pub(crate) use kernel_log::follow_kernel_log;

/// With nothing to say, one empty report tells that the node lives and asks for directives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The server may ask for no shorter and no longer interval.
const INTERVAL_MIN: Duration = Duration::from_millis(200);
/// See [`INTERVAL_MIN`].
const INTERVAL_MAX: Duration = Duration::from_secs(30);
/// While the server is away.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// A server that restarts may say so a few times before its sessions are back.
const UNAUTHORISED_MAX: u32 = 10;
/// Events not yet stored, for the next agent of this boot.
const STATE_FILE: &str = "report-state.json";

/// Cheap to clone; every method returns at once.
#[derive(Clone)]
pub(crate) struct Reporter {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something was added that should not wait for the interval.
    urgent: Notify,
    /// Rises with each reply, so that waiters look at the queue again.
    replies: watch::Sender<u64>,
    directive: watch::Sender<Option<Directive>>,
    state_file: Option<PathBuf>,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    last_sequence: u64,
    events: Vec<Event>,
}

impl Reporter {
    /// Goes on where an earlier agent of this boot stopped, if its state is in `directory`.
    pub(crate) fn new(directory: Option<&Path>) -> Self {
        let state_file = directory.map(|directory| directory.join(STATE_FILE));
        let state = state_file.as_deref().and_then(read_state).unwrap_or_default();
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue::resume(state.last_sequence, state.events)),
                urgent: Notify::new(),
                replies: watch::Sender::new(0),
                directive: watch::Sender::new(None),
                state_file,
            }),
        }
    }

    /// A stage began.
    pub(crate) fn entered(&self, stage: Stage) {
        self.event(EventKind::Entered { stage });
    }

    /// A stage ended well.
    pub(crate) fn finished(&self, stage: Stage, took: Duration, detail: &str) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.event(EventKind::Finished { stage, took_ms, detail: detail.to_owned() });
    }

    /// A stage ended badly.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.event(EventKind::Failed {
            stage: failure.stage,
            code: failure.code.to_owned(),
            message: failure.message.clone(),
            recovery: failure.recovery,
        });
    }

    /// The installed system is complete. Returns the number to wait for with [`Self::stored`].
    pub(crate) fn installed(
        &self,
        image_id: &str,
        traffic: TrafficCounts,
        host_keys: Vec<String>,
        changes: Vec<String>,
    ) -> u64 {
        self.event(EventKind::Installed { image_id: image_id.to_owned(), traffic, host_keys, changes })
    }

    /// A peer is shut out for damaged pieces.
    pub(crate) fn broken_peer(&self, address: IpAddr) {
        self.event(EventKind::BrokenPeer { address });
    }

    /// How far the running stage is.
    pub(crate) fn progress(&self, progress: Progress) {
        self.queue().set_progress(progress);
    }

    /// What the machine has.
    pub(crate) fn inventory(&self, inventory: Inventory) {
        self.queue().set_inventory(inventory);
        self.shared.urgent.notify_one();
    }

    /// Boot files are served to other nodes at this port.
    pub(crate) fn serves_boot_files(&self, port: u16) {
        self.queue().set_boot_share_port(port);
    }

    /// One log line; `source` is `agent` or `kernel`.
    pub(crate) fn log(&self, source: &str, text: String) {
        self.queue().push_log(source, text, uptime_ms());
    }

    /// Ends when the event of this number is in the server's store.
    pub(crate) async fn stored(&self, sequence: u64) {
        let mut replies = self.shared.replies.subscribe();
        while !self.queue().is_stored(sequence) {
            if replies.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends when every event so far is stored.
    pub(crate) async fn all_stored(&self) {
        let last = self.queue().unstored().0;
        self.shared.urgent.notify_one();
        self.stored(last).await;
    }

    /// Ends when every event so far is stored, at the latest after `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let _ = timeout(limit, self.all_stored()).await;
    }

    /// What the server told this node to do, as it changes.
    pub(crate) fn directives(&self) -> watch::Receiver<Option<Directive>> {
        self.shared.directive.subscribe()
    }

    fn event(&self, kind: EventKind) -> u64 {
        let mut queue = self.queue();
        let sequence = queue.push_event(kind, now());
        self.keep(&queue);
        drop(queue);
        self.shared.urgent.notify_one();
        sequence
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic aborts the agent, so a poisoned lock is never seen; the queue would still be whole.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge(&self, in_flight: InFlight, reply: &ReportReply) {
        let mut queue = self.queue();
        let before = queue.unstored().1.len();
        queue.acknowledge(in_flight, reply);
        if queue.unstored().1.len() != before {
            self.keep(&queue);
        }
        drop(queue);
        if reply.directive.is_some() {
            self.shared.directive.send_replace(reply.directive);
        }
        self.shared.replies.send_modify(|replies| *replies = replies.wrapping_add(1));
    }

    /// Best effort: without it the next agent of this boot starts a new count, which the server notices.
    fn keep(&self, queue: &Queue) {
        let Some(path) = &self.shared.state_file else { return };
        let (last_sequence, events) = queue.unstored();
        if let Ok(text) = serde_json::to_string(&State { last_sequence, events }) {
            let new = path.with_extension("new");
            let _ = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
        }
    }
}

/// The session is of no use any more; the node needs a new boot.
#[derive(Debug, thiserror::Error)]
#[error("the server no longer knows this session")]
pub(crate) struct SessionLost;

/// Sends reports for ever; ends only when the server no longer knows the session.
pub(crate) async fn send(reporter: Reporter, session: Session, interval: Duration) -> SessionLost {
    let interval = interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
    // Some while the server is away.
    let mut away: Option<BackOff> = None;
    let mut refusals = 0;
    let mut last_sent: Option<Instant> = None;
    loop {
        let (request, in_flight) = reporter.queue().batch();
        let due = last_sent.is_none_or(|sent| sent.elapsed() >= HEARTBEAT);
        if !due && !reporter.queue().has_news() {
            wait_for_more(&reporter, interval).await;
            continue;
        }
        match session.report(&request).await {
            Ok(reply) => {
                if away.take().is_some() {
                    tracing::info!("the server takes reports again");
                }
                refusals = 0;
                last_sent = Some(Instant::now());
                reporter.acknowledge(in_flight, &reply);
                wait_for_more(&reporter, interval).await;
            }
            Err(error) => {
                refusals = if matches!(error, ApiError::Unauthorised) { refusals + 1 } else { 0 };
                if refusals >= UNAUTHORISED_MAX {
                    return SessionLost;
                }
                if away.is_none() {
                    tracing::warn!("reports wait: {}", crate::console::chain(&error));
                }
                let pause = away.get_or_insert(BackOff::new(interval, PAUSE_LIMIT)).pause();
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Waits out the interval, less when something urgent comes; a little always, so that batches form.
async fn wait_for_more(reporter: &Reporter, interval: Duration) {
    let _ = timeout(interval, reporter.shared.urgent.notified()).await;
    tokio::time::sleep(INTERVAL_MIN / 4).await;
}

fn read_state(path: &Path) -> Option<State> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn now() -> Moment {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { unix_ms: u64::try_from(unix.as_millis()).unwrap_or_default(), uptime_ms: uptime_ms() }
}

/// Milliseconds since the kernel started.
pub(crate) fn uptime_ms() -> u64 {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(since_boot.tv_sec).unwrap_or_default();
    let milliseconds = u64::try_from(since_boot.tv_nsec / 1_000_000).unwrap_or_default();
    seconds.saturating_mul(1000).saturating_add(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn agent_that_died_leaves_its_events_to_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let first = Reporter::new(Some(directory.path()));
        first.entered(Stage::Start);
        first.entered(Stage::Probe);
        drop(first);
        let next = Reporter::new(Some(directory.path()));
        next.entered(Stage::Start);
        let (request, in_flight) = next.queue().batch();
        assert_eq!(request.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        next.acknowledge(
            in_flight,
            &ReportReply { stored_sequence: 3, directive: Some(Directive::EndLinger) },
        );
        next.stored(3).await;
        assert_eq!(*next.directives().borrow(), Some(Directive::EndLinger));
        drop(next);
        let last = Reporter::new(Some(directory.path()));
        assert_eq!(last.installed("ab", TrafficCounts::default(), Vec::new(), Vec::new()), 4);
    }
}
