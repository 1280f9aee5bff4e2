//! The API of agents, over TLS: enrol, take the task, report, fetch objects and images.
//!
//! Never trusts what an agent says about another node: a session is bound to one node and one boot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use node_api::{EnrolReply, EnrolRequest, ReportReply, ReportRequest, SignedTask, paths};
use serde::Deserialize;

use crate::api::{ApiError, blocking, send_file, with_deadline, with_lingering};
use crate::app::App;
use crate::clock::now_unix_ms;
use crate::deltas::DeltaAnswer;
use crate::images::Image;
use crate::nodes::machine::TaskAnswer;
use crate::nodes::{InvalidReport, Refusal, sha256_hex};
use crate::tasks::{Order, Seeded};

/// An enrolment is about 1 KB.
const ENROL_BYTES_MAX: usize = 16 << 10;
/// A report with the inventory of a large server and two thousand log lines.
const REPORT_BYTES_MAX: usize = 4 << 20;
/// Longest wait of one poll for a task.
const WAIT_S_MAX: u64 = 60;
/// How often a poll looks whether a delta image is made; making one takes seconds to minutes.
const DELTA_POLL: Duration = Duration::from_millis(500);
/// How often agents report: often enough for a progress bar, rare enough for thousands of nodes.
const REPORT_INTERVAL_MS: u64 = 1000;

/// The routes of [`node_api::paths`].
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(paths::ENROL, post(enrol).layer(DefaultBodyLimit::max(ENROL_BYTES_MAX)))
        .route(paths::TASK, get(task))
        .route(paths::REPORT, post(report).layer(DefaultBodyLimit::max(REPORT_BYTES_MAX)))
        .route(&format!("{}/{{hash}}", paths::OBJECTS), get(object))
        .route(&format!("{}/{{id}}/pieces", paths::IMAGES), get(image_pieces))
        .route(&format!("{}/{{id}}/data", paths::IMAGES), get(image_data))
        .layer(middleware::from_fn(with_deadline))
        .layer(middleware::from_fn(with_lingering))
        .with_state(app)
}

/// The node that a request's session belongs to.
struct Session {
    node: String,
    sha256: String,
}

impl FromRequestParts<Arc<App>> for Session {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, session) =
            value.and_then(|value| value.split_once(' ')).ok_or_else(ApiError::unknown_session)?;
        if !scheme.eq_ignore_ascii_case(paths::SESSION_SCHEME) {
            return Err(ApiError::unknown_session());
        }
        let node = app.nodes.by_session(session.trim()).ok_or_else(ApiError::unknown_session)?;
        Ok(Self { node, sha256: sha256_hex(session.trim()) })
    }
}

async fn enrol(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(request): Json<EnrolRequest>,
) -> Result<Json<EnrolReply>, ApiError> {
    let nodes = Arc::clone(&app.nodes);
    let enrolled = blocking(move || nodes.enrol(&request, peer.ip())).await;
    match enrolled.map_err(|error| ApiError::internal(&error))? {
        Ok(enrolled) => Ok(Json(EnrolReply {
            node: enrolled.node,
            session: enrolled.session,
            server_time_unix_ms: now_unix_ms(),
            report_interval_ms: REPORT_INTERVAL_MS,
            module_deny: app.site.module_deny.clone(),
            boot_share: app.boot_peers.as_ref().and_then(|sharing| sharing.invite(peer.ip())),
        })),
        Err(Refusal::Internal(error)) => Err(ApiError::internal(&error)),
        Err(refusal) => {
            tracing::warn!(%peer, "an enrolment is refused: {refusal}");
            Err(ApiError::new(StatusCode::FORBIDDEN, refusal.to_string()))
        }
    }
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default)]
    wait_s: u64,
}

async fn task(
    State(app): State<Arc<App>>,
    session: Session,
    Query(wait): Query<Wait>,
) -> Result<Response, ApiError> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait.wait_s.min(WAIT_S_MAX));
    loop {
        let wake = app.nodes.wake_of(&session.node).ok_or_else(ApiError::unknown_session)?;
        // Begun before the question, so that an order between question and wait is not missed.
        let woken = wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        if app.nodes.task_answer(&session.node) == TaskAnswer::Give {
            match delta_for(&app, &session) {
                DeltaAnswer::Making if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(DELTA_POLL).await;
                    continue;
                }
                DeltaAnswer::Making => return Ok(StatusCode::NO_CONTENT.into_response()),
                DeltaAnswer::Ready(delta) => return give_task(&app, &session, Some(delta)).await,
                DeltaAnswer::None => return give_task(&app, &session, None).await,
            }
        }
        if tokio::time::timeout_at(deadline, woken).await.is_err() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
}

/// What leads to the default image from what the node has on its disk, as far as this server knows.
fn delta_for(app: &Arc<App>, session: &Session) -> DeltaAnswer {
    match app.nodes.reusable_image(&session.node).and_then(|id| app.images.get(&id)) {
        Some(base) => app.deltas.between(&base, &app.images.default_image()),
        None => DeltaAnswer::None,
    }
}

/// Joins the node to a deployment, starts the seeds that it needs, and signs.
async fn give_task(
    app: &Arc<App>,
    session: &Session,
    delta: Option<Arc<Image>>,
) -> Result<Response, ApiError> {
    let task = make_task(app, session, delta).await.map_err(|error| ApiError::internal(&error))?;
    Ok(Json(task).into_response())
}

async fn make_task(
    app: &Arc<App>,
    session: &Session,
    delta: Option<Arc<Image>>,
) -> anyhow::Result<SignedTask> {
    let (record, address) = app.nodes.at_work(&session.node).context("the node is gone")?;
    // Before anything is written down: what does not fit this node must not begin.
    let identity = app.tasks.identity(&record, address)?;
    let image = app.images.default_image();
    let joined = (Arc::clone(app), Arc::clone(&image));
    let deployment = blocking(move || joined.0.deployments.join(&joined.1)).await??;
    let port = app.swarm.seed(&image, &deployment, app.tasks.address).await?;
    let full = Seeded { image, port };
    let delta = match delta {
        Some(image) => {
            let port = app.swarm.seed(&image, &deployment, app.tasks.address).await?;
            Some(Seeded { image, port })
        }
        None => None,
    };
    let given = (Arc::clone(app), session.node.clone(), session.sha256.clone());
    let (id, name, run) = (full.image.id.clone(), full.image.name.clone(), deployment.name.clone());
    let node = blocking(move || given.0.nodes.task_given(&given.1, &given.2, &run, (&id, &name))).await??;
    let order = Order { node: &node, identity, deployment: &deployment, full: &full, delta: delta.as_ref() };
    app.tasks.sign(order, now_unix_ms())
}

async fn report(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    session: Session,
    Json(report): Json<ReportRequest>,
) -> Result<Json<ReportReply>, ApiError> {
    if let Some(sharing) = &app.boot_peers {
        sharing.reported(peer.ip(), report.boot_share_port);
    }
    let writes = !report.events.is_empty() || report.inventory.is_some();
    let nodes = Arc::clone(&app.nodes);
    let take = move || nodes.report(&session.node, &session.sha256, report, peer.ip());
    // Progress alone touches memory only; a thread for it would cost more than the work.
    let reply = if writes { blocking(take).await.and_then(|reply| reply) } else { take() };
    match reply {
        Ok(reply) => Ok(Json(reply)),
        Err(error) => match error.downcast_ref::<InvalidReport>() {
            Some(invalid) => Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, invalid.to_string())),
            None => Err(ApiError::internal(&error)),
        },
    }
}

async fn object(
    State(app): State<Arc<App>>,
    _session: Session,
    Path(hash): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let path =
        app.bundle.object(&hash).ok_or_else(|| ApiError::not_found("such object in the boot bundle"))?;
    send_file(&path, &headers).await.map_err(|error| ApiError::internal(&error))
}

async fn image_pieces(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let image = readable_image(&app, &session, &id)?;
    send_file(&image.pieces_path, &headers).await.map_err(|error| ApiError::internal(&error))
}

async fn image_data(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let image = readable_image(&app, &session, &id)?;
    send_file(&image.path, &headers).await.map_err(|error| ApiError::internal(&error))
}

fn readable_image(app: &App, session: &Session, id: &str) -> Result<Arc<Image>, ApiError> {
    if !app.nodes.is_approved(&session.node) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "the node is not approved"));
    }
    app.images.get(id).or_else(|| app.deltas.get(id)).ok_or_else(|| ApiError::not_found("such image"))
}
