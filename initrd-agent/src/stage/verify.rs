//! `verify`: caches dropped, everything read back from the disk and compared with the signed table of contents.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use image_apply::{VerifyError, VerifyReport, verify_tree};
use image_format::Toc;
use node_api::{Progress, Recovery, Stage, TrafficCounts};

use super::Done;
use crate::disk::{self, Mounted};
use crate::failure::StageError;
use crate::report::Reporter;

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Why the written tree is not trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyStageError {
    /// Something is not what was written.
    #[error("the disk does not give back what was written to it")]
    Tree(#[from] VerifyError),
    /// The disk did not take its last writes.
    #[error("flushing the new file systems")]
    Sync(#[source] std::io::Error),
    /// The reading thread died, which only a bug does.
    #[error("reading back stopped in the middle")]
    Stopped(#[from] tokio::task::JoinError),
}

impl StageError for VerifyStageError {
    fn code(&self) -> &'static str {
        match self {
            Self::Tree(_) => "read-back",
            Self::Sync(_) => "disk-sync",
            Self::Stopped(_) => "verify-internal",
        }
    }

    fn recovery(&self) -> Recovery {
        match self {
            // A disk that lies once lies again.
            Self::Tree(_) | Self::Sync(_) => Recovery::Wait,
            Self::Stopped(_) => Recovery::Retry,
        }
    }
}

/// Reads everything back.
pub(crate) async fn run(
    mounted: &Mounted,
    toc: Arc<Toc>,
    traffic: TrafficCounts,
    reporter: &Reporter,
) -> Result<Done<VerifyReport>, VerifyStageError> {
    let total_bytes = toc.frames().iter().map(|frame| u64::from(frame.raw_len)).sum();
    let done = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&done);
    let root = mounted.root().to_owned();
    let mut reading = tokio::task::spawn_blocking(move || {
        disk::flush_and_forget(&root).map_err(VerifyStageError::Sync)?;
        let progress = |bytes: u64| {
            count.fetch_add(bytes, Ordering::Relaxed);
        };
        verify_tree(&root, &toc, &progress).map_err(VerifyStageError::Tree)
    });
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let report = loop {
        tokio::select! {
            ended = &mut reading => break ended??,
            _ = tick.tick() => reporter.progress(Progress {
                stage: Stage::Verify,
                done_bytes: done.load(Ordering::Relaxed),
                total_bytes,
                traffic,
                peers: 0,
            }),
        }
    };
    Ok(Done { value: report, detail: format!("{} bytes read back and right", done.load(Ordering::Relaxed)) })
}
