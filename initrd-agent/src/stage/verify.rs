//! `verify`: caches dropped, everything read back from the disk and compared with the signed table of contents.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use disk_apply::{Formatted, GivenRootError, Mounted};
use image_apply::{VerifyError, VerifyReport, verify_partition, verify_tree};
use image_format::Toc;
use node_api::{Progress, Recovery, Stage, TrafficCounts};

use super::Done;
use crate::failure::StageError;
use crate::report::Reporter;

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Why the written tree is not trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyStageError {
    /// Something is not what was written.
    #[error("the disk does not give back what was written to it")]
    Tree(#[from] VerifyError),
    /// The partition that was written cannot be the root.
    #[error(transparent)]
    GivenRoot(#[from] GivenRootError),
    /// The root's device.
    #[error("opening {device}")]
    Open {
        device: String,
        #[source]
        source: std::io::Error,
    },
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
            Self::Sync(_) | Self::Open { .. } => "disk-sync",
            Self::GivenRoot(_) => "mount",
            Self::Stopped(_) => "verify-internal",
        }
    }

    fn recovery(&self) -> Recovery {
        match self {
            // A disk that lies once lies again, and the image stays what it is.
            Self::Tree(_) | Self::Sync(_) | Self::GivenRoot(GivenRootError::Unsound { .. }) => Recovery::Wait,
            Self::GivenRoot(_) | Self::Open { .. } | Self::Stopped(_) => Recovery::Retry,
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
    let root = mounted.root().to_owned();
    let read = move |toc: &Toc, progress: &(dyn Fn(u64) + Sync)| {
        disk_apply::flush_and_forget(&root).map_err(VerifyStageError::Sync)?;
        verify_tree(&root, toc, progress).map_err(VerifyStageError::Tree)
    };
    let report = watched(toc, traffic, reporter, read).await?;
    Ok(Done { value: report, detail: detail(&report) })
}

/// Reads back a root that came block by block, and mounts it.
pub(crate) async fn run_on_blocks(
    formatted: Formatted,
    toc: Arc<Toc>,
    traffic: TrafficCounts,
    reporter: &Reporter,
) -> Result<Done<Mounted>, VerifyStageError> {
    let device = formatted.root_device();
    let read = move |toc: &Toc, progress: &(dyn Fn(u64) + Sync)| {
        let failed = |source| VerifyStageError::Open { device: device.display().to_string(), source };
        let opened = std::fs::File::open(&device).map_err(failed)?;
        verify_partition(&opened, toc, progress).map_err(VerifyStageError::Tree)
    };
    let report = watched(toc, traffic, reporter, read).await?;
    let mounted = tokio::task::spawn_blocking(move || formatted.mount_given()).await??;
    Ok(Done { value: mounted, detail: detail(&report) })
}

fn detail(report: &VerifyReport) -> String {
    format!("{} bytes read back and right", report.bytes)
}

/// Reads on a thread of its own and tells how far it is.
async fn watched(
    toc: Arc<Toc>,
    traffic: TrafficCounts,
    reporter: &Reporter,
    read: impl FnOnce(&Toc, &(dyn Fn(u64) + Sync)) -> Result<VerifyReport, VerifyStageError> + Send + 'static,
) -> Result<VerifyReport, VerifyStageError> {
    let total_bytes = toc.frames().iter().map(|frame| u64::from(frame.raw_len)).sum();
    let done = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&done);
    let mut reading = tokio::task::spawn_blocking(move || {
        let progress = |bytes: u64| {
            count.fetch_add(bytes, Ordering::Relaxed);
        };
        read(&toc, &progress)
    });
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            ended = &mut reading => return ended?,
            _ = tick.tick() => reporter.progress(Progress {
                stage: Stage::Verify,
                done_bytes: done.load(Ordering::Relaxed),
                total_bytes,
                traffic,
                peers: 0,
            }),
        }
    }
}
