//! `handover`: everything is on the disk and told; the node leaves this environment.

use std::time::Duration;

use node_api::Handover;

use super::Done;
use crate::life::End;
use crate::report::Reporter;

/// The server has what matters since `installed`; the rest is log.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// Tells the server and says how the node goes on.
pub(crate) async fn run(handover: Handover, reporter: &Reporter) -> Done<End> {
    let (value, detail) = match handover {
        Handover::Reboot => (End::Reboot, "rebooting into the installed system"),
        Handover::PowerOff => (End::PowerOff, "powering off"),
    };
    tracing::info!("{detail}");
    reporter.flush(FLUSH_LIMIT).await;
    Done { value, detail: detail.to_owned() }
}
