//! `linger`: goes on seeding until the server says that the group is done or the limit ends it.

use std::time::Duration;

use disk_apply::Mounted;
use node_api::{Directive, LingerRule, Progress, Stage};
use tokio::time::{Instant, timeout};

use super::Done;
use crate::peer::SwarmPeer;
use crate::report::Reporter;

const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Peers get so long to hear a goodbye.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// Seeds, then leaves the swarm and unmounts. The system is installed already: nothing here can undo that, so
/// problems are messages.
pub(crate) async fn run(
    peer: SwarmPeer,
    mounted: Mounted,
    rule: LingerRule,
    reporter: &Reporter,
) -> Done<()> {
    let begun = Instant::now();
    let reason = seed(&peer, rule, reporter).await;
    let (traffic, _) = peer.traffic();
    if timeout(LEAVE_LIMIT, peer.leave()).await.is_err() {
        tracing::warn!("leaving the swarm takes too long; going on without a goodbye");
    }
    // The cached pieces went with the peer, so nothing of ours is open on the new root.
    let unmounted = tokio::task::spawn_blocking(move || mounted.unmount()).await;
    match unmounted {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("{}", crate::console::chain(&error)),
        Err(error) => tracing::warn!("unmounting: {error}"),
    }
    let sent_mib = traffic.sent_bytes >> 20;
    let detail =
        format!("seeded for {} s, {sent_mib} MiB sent, ended by {reason}", begun.elapsed().as_secs());
    Done { value: (), detail }
}

async fn seed(peer: &SwarmPeer, rule: LingerRule, reporter: &Reporter) -> &'static str {
    let mut directives = reporter.directives();
    let deadline = Instant::now() + Duration::from_secs(rule.max_s);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            _ = directives.wait_for(|directive| *directive == Some(Directive::EndLinger)) => return "the server",
            () = tokio::time::sleep_until(deadline) => return "the time limit",
            _ = tick.tick() => {
                let (traffic, peers) = peer.traffic();
                let progress = Progress { stage: Stage::Linger, done_bytes: 0, total_bytes: 0, traffic, peers };
                reporter.progress(progress);
            }
        }
    }
}
