//! `await`: waits until somebody approves, takes the signed task, and proves its image before anything else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use node_api::{Recovery, ReuseTask, SwarmTask, Task, TaskError};
use tokio::time::Instant;

use super::Done;
use super::start::Started;
use crate::api::{ApiError, Session};
use crate::console::chain;
use crate::failure::{BackOff, StageError};
use crate::image::{self, ImageError, Offer, SignedImage};

const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LIMIT: Duration = Duration::from_secs(15);
/// How often the wait says that it goes on.
const MESSAGE_EVERY: Duration = Duration::from_mins(1);

/// A task for this boot of this node, with an image that the site trusts.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) task: Task,
    /// The image.
    pub(crate) full: Offer,
    /// A delta image that leads to it.
    pub(crate) delta: Option<Offer>,
}

/// Why a task is not begun. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AwaitError {
    /// The task itself.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Its image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The list of piece hashes does not come.
    #[error("fetching the list of piece hashes")]
    PieceList(#[source] ApiError),
}

impl StageError for AwaitError {
    fn code(&self) -> &'static str {
        match self {
            Self::Task(TaskError::Signature) => "task-signature",
            Self::Task(_) => "task",
            Self::Image(error) => error.code(),
            Self::PieceList(_) => "image-pieces",
        }
    }

    fn recovery(&self) -> Recovery {
        match self {
            Self::Task(_) | Self::PieceList(_) => Recovery::Retry,
            Self::Image(error) => error.recovery(),
        }
    }
}

/// Waits for a task. Endless, with messages.
pub(crate) async fn run(session: &Session, started: &Started) -> Result<Done<Accepted>, AwaitError> {
    let mut said: Option<Instant> = None;
    let mut say = |text: &str| {
        if said.is_none_or(|said| said.elapsed() >= MESSAGE_EVERY) {
            said = Some(Instant::now());
            tracing::info!("{text}");
        }
    };
    let mut back_off = BackOff::new(PAUSE_FIRST, PAUSE_LIMIT);
    loop {
        let signed = match session.task().await {
            Ok(Some(signed)) => signed,
            Ok(None) => {
                back_off = BackOff::new(PAUSE_FIRST, PAUSE_LIMIT);
                say("waiting for approval; on the server: `pxe-server approve` and `deploy`");
                continue;
            }
            Err(error) => {
                say(&format!("asking for a task: {}", chain(&error)));
                tokio::time::sleep(back_off.pause()).await;
                continue;
            }
        };
        let task = match signed.open(&started.task_key, &started.secrets.nonce, now_unix_s()) {
            // The next one is younger.
            Err(TaskError::Expired(late_s)) => {
                say(&format!("a task came {late_s} s too late"));
                tokio::time::sleep(back_off.pause()).await;
                continue;
            }
            task => task?,
        };
        return accept(session, started, task).await;
    }
}

async fn accept(session: &Session, started: &Started, task: Task) -> Result<Done<Accepted>, AwaitError> {
    let image = image::check(&task.image, &started.image_keys)?;
    let full = offer(session, image, &task.swarm).await?;
    let delta = match &task.reuse {
        // It saves bytes and nothing else, so a problem with it costs no more than those.
        Some(reuse) => delta_offer(session, reuse, &full)
            .await
            .inspect_err(|error| tracing::warn!("the delta image is left alone: {}", chain(error)))
            .ok(),
        None => None,
    };
    let detail = format!(
        "{}: image {} ({}), {} pieces",
        task.identity.hostname,
        task.image.name,
        full.image.manifest.image_id,
        full.piece_hashes.len()
    );
    Ok(Done { value: Accepted { task, full, delta }, detail })
}

async fn delta_offer(session: &Session, reuse: &ReuseTask, full: &Offer) -> Result<Offer, AwaitError> {
    let image = image::check_delta(&reuse.image, &full.image.manifest)?;
    offer(session, image, &reuse.swarm).await
}

async fn offer(session: &Session, image: SignedImage, swarm: &SwarmTask) -> Result<Offer, AwaitError> {
    let list = session.piece_hashes(&image.manifest.image_id.to_string()).await;
    let piece_hashes = image::check_piece_list(&image, &list.map_err(AwaitError::PieceList)?)?;
    Ok(Offer { image, piece_hashes, swarm: swarm.clone() })
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
