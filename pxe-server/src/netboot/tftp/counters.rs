//! What the server counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the server has done so far.
#[derive(Debug, Default)]
pub(in crate::netboot) struct TftpCounters {
    /// Transfers begun.
    pub(in crate::netboot) started: AtomicU64,
    /// Transfers whose last block was acknowledged.
    pub(in crate::netboot) complete: AtomicU64,
    /// Transfers that ended when the node knew the size.
    pub(in crate::netboot) probed: AtomicU64,
    /// Transfers that the node ended otherwise: by ERROR, or its port was closed.
    pub(in crate::netboot) aborted: AtomicU64,
    /// Transfers whose node fell silent.
    pub(in crate::netboot) timed_out: AtomicU64,
    /// Transfers given up for another: the node asked for something else from the same port, or it had never answered
    /// and its place was needed.
    pub(in crate::netboot) replaced: AtomicU64,
    /// Requests for what there is not.
    pub(in crate::netboot) refused: AtomicU64,
    /// Requests left unanswered because too many transfers were under way.
    pub(in crate::netboot) overloaded: AtomicU64,
    /// Bytes of files that nodes have acknowledged.
    pub(in crate::netboot) bytes: AtomicU64,
    /// Blocks sent again.
    pub(in crate::netboot) resent_blocks: AtomicU64,
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
