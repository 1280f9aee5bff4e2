//! News for open pages: made once, sent to all.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use crate::admin_api::status;
use crate::app::App;
use crate::clock::now_unix_ms;
use crate::tls::Stop;

/// Pages and watching commands at a time.
const PAGES_MAX: usize = 256;
/// Messages that a page may lag behind before it gets everything anew.
const LAG_MAX: usize = 16;
/// Changes are gathered for so long: fast enough for the eye.
const PERIOD: Duration = Duration::from_millis(250);
/// So often something is sent even if nothing changed, so that a page knows that the server lives.
const HEARTBEAT_PERIODS: u32 = 20;

/// Sends news to every open page.
pub(crate) struct Events {
    sender: broadcast::Sender<Bytes>,
    room: Arc<Semaphore>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(LAG_MAX), room: Arc::new(Semaphore::new(PAGES_MAX)) }
    }

    /// A place for one page; `None` when all are taken.
    pub(crate) fn subscribe(&self) -> Option<(broadcast::Receiver<Bytes>, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.room).try_acquire_owned().ok()?;
        Some((self.sender.subscribe(), permit))
    }

    /// Everything that a page shows.
    pub(crate) async fn snapshot(app: &App) -> Bytes {
        message(
            "snapshot",
            &json!({ "status": status(app).await, "nodes": app.nodes.views(), "now_unix_ms": now_unix_ms() }),
        )
    }

    /// Gathers changes and sends them until `stop`.
    pub(crate) async fn run(self: Arc<Self>, app: Arc<App>, mut stop: Stop) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut quiet_periods, mut periods) = (0, 0_u32);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.stopped() => return,
            }
            let changed = app.nodes.take_changed();
            (quiet_periods, periods) = (quiet_periods + 1, periods.wrapping_add(1));
            // Pages that show nodes which are gone get everything anew, but not with every stranger of a flood.
            if periods.is_multiple_of(HEARTBEAT_PERIODS)
                && self.sender.receiver_count() > 0
                && app.nodes.take_forgotten()
            {
                let _ = self.sender.send(Self::snapshot(&app).await);
                continue;
            }
            if self.sender.receiver_count() == 0 || (changed.is_empty() && quiet_periods < HEARTBEAT_PERIODS)
            {
                continue;
            }
            quiet_periods = 0;
            let nodes: Vec<_> = changed.iter().filter_map(|name| app.nodes.view(name)).collect();
            // Nobody listening any more is no error.
            let _ =
                self.sender.send(message("nodes", &json!({ "nodes": nodes, "now_unix_ms": now_unix_ms() })));
        }
    }
}

/// JSON text has no line ends, so it is one `data` line.
fn message(event: &str, data: &serde_json::Value) -> Bytes {
    format!("event: {event}\ndata: {data}\n\n").into()
}
