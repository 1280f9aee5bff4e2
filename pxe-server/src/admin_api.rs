//! The API of people and their programs, with the dashboard: plain HTTP on loopback.
//!
//! Never answers a page of another site: names in `Host` are refused (DNS rebinding) and orders must be JSON, which
//! a browser sends to another origin only after asking.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dhcp_wire::MacAddr;
use http_body_util::channel::Channel;
use node_api::DiskKey;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use crate::api::{ApiError, blocking, with_deadline, with_lingering};
use crate::app::App;
use crate::dashboard;
use crate::deployments::DeploymentReport;
use crate::events::Events;
use crate::images::ImageView;
use crate::nodes::Boot;
use crate::nodes::view::{NodeDetail, NodeView};
use crate::swarm_service::SeedView;

/// Orders name nodes; a few thousand names fit.
const ORDER_BYTES_MAX: usize = 256 << 10;
/// Messages that wait for one slow page.
const PAGE_AHEAD: usize = 4;
/// Who ordered, in the history.
const BY_API: &str = "the admin API";

/// What an order is about.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// Names of nodes.
    #[serde(default)]
    pub(crate) nodes: Vec<String>,
    /// Every node; `nodes` must be empty then.
    #[serde(default)]
    pub(crate) all: bool,
}

/// What an order changed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OrderReply {
    /// Names of the nodes that it changed; the others were so already.
    pub(crate) changed: Vec<String>,
}

/// The server in a few words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Name of the site.
    pub(crate) site: String,
    /// Of this program.
    pub(crate) version: String,
    /// The server, as nodes reach it.
    pub(crate) server: String,
    /// When it started.
    pub(crate) started_unix_ms: u64,
    /// The image that nodes get.
    pub(crate) image: String,
    /// Its bytes.
    pub(crate) image_bytes: u64,
    /// Whether every machine is let in.
    pub(crate) approve_all: bool,
    /// Kernel that nodes boot.
    pub(crate) kernel: String,
    /// The server's seeds.
    pub(crate) seeds: Vec<SeedView>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BootOrder {
    mac: String,
}

#[derive(Serialize)]
struct BootReply {
    boot: &'static str,
    token: Option<String>,
    arguments: Option<String>,
}

#[derive(Clone)]
struct Admin {
    app: Arc<App>,
    events: Arc<Events>,
}

/// The dashboard and `/v1`.
pub(crate) fn router(app: Arc<App>, events: Arc<Events>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/v1/status", get(status_view))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}", get(node))
        .route("/v1/nodes/{name}/disk-keys", get(disk_keys))
        .route("/v1/nodes/{name}/approve", post(approve_one))
        .route("/v1/nodes/{name}/deploy", post(deploy_one))
        .route("/v1/approve", post(approve))
        .route("/v1/deploy", post(deploy))
        .route("/v1/try-ipxe", post(try_ipxe))
        .route("/v1/images", get(images))
        .route("/v1/deployments", get(deployments))
        .route("/v1/boot", post(boot))
        .route("/v1/events", get(events_stream))
        .fallback(async || ApiError::not_found("such page"))
        .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX))
        .layer(middleware::from_fn(with_deadline))
        .layer(middleware::from_fn(with_lingering))
        .layer(middleware::from_fn(only_own_pages))
        .with_state(Admin { app, events })
}

async fn only_own_pages(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_own_host(host) {
        let sentence = "open this page by its address, such as http://127.0.0.1:8080/, or as localhost";
        return ApiError::new(StatusCode::FORBIDDEN, sentence).into_response();
    }
    if request.method() == Method::POST {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.unwrap_or_default().starts_with("application/json") {
            let sentence = "an order must be sent as application/json";
            return ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence).into_response();
        }
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

/// An address or `localhost`: no name that somebody else's DNS could answer.
fn is_own_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

async fn page() -> Response {
    dashboard::page()
}

async fn status_view(State(admin): State<Admin>) -> Json<Status> {
    Json(status(&admin.app).await)
}

/// The server in a few words.
pub(crate) async fn status(app: &App) -> Status {
    let image = app.images.default_image();
    Status {
        site: app.site.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server: app.tasks.address.to_string(),
        started_unix_ms: app.started_unix_ms,
        image: image.name.clone(),
        image_bytes: image.manifest.file_size,
        approve_all: app.site.approve.all,
        kernel: app.bundle.kernel_release().to_owned(),
        seeds: app.swarm.views().await,
    }
}

async fn nodes(State(admin): State<Admin>) -> Json<Vec<NodeView>> {
    Json(admin.app.nodes.views())
}

async fn node(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<NodeDetail>, ApiError> {
    let detail = blocking(move || admin.app.nodes.detail(&name)).await.and_then(|detail| detail);
    let detail = detail.map_err(|error| ApiError::internal(&error))?;
    detail.map(Json).ok_or_else(|| ApiError::not_found("such node"))
}

/// What opens the node's LUKS containers. Whoever asks is on this machine; that somebody asked is written down.
async fn disk_keys(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<Vec<DiskKey>>, ApiError> {
    let machine_id = admin.app.nodes.machine_id(&name).ok_or_else(|| ApiError::not_found("such node"))?;
    tracing::info!("told the disk keys of {name}");
    Ok(Json(admin.app.tasks.disk_keys(&machine_id)))
}

async fn approve_one(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<OrderReply>, ApiError> {
    approve(State(admin), Json(Order { nodes: vec![name], all: false })).await
}

async fn deploy_one(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<OrderReply>, ApiError> {
    deploy(State(admin), Json(Order { nodes: vec![name], all: false })).await
}

async fn approve(State(admin): State<Admin>, Json(order): Json<Order>) -> Result<Json<OrderReply>, ApiError> {
    give_order(admin, order, |app, names| app.nodes.approve(names, BY_API)).await
}

async fn deploy(State(admin): State<Admin>, Json(order): Json<Order>) -> Result<Json<OrderReply>, ApiError> {
    give_order(admin, order, |app, names| app.nodes.deploy(names, BY_API)).await
}

async fn try_ipxe(
    State(admin): State<Admin>,
    Json(order): Json<Order>,
) -> Result<Json<OrderReply>, ApiError> {
    give_order(admin, order, |app, names| app.nodes.try_ipxe(names, BY_API)).await
}

async fn give_order(
    admin: Admin,
    order: Order,
    give: impl FnOnce(&App, &[String]) -> anyhow::Result<Vec<String>> + Send + 'static,
) -> Result<Json<OrderReply>, ApiError> {
    if order.all != order.nodes.is_empty() {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "name the nodes, or say all, not both and not neither",
        ));
    }
    let known = admin.app.nodes.names();
    if let Some(unknown) = order.nodes.iter().find(|name| !known.contains(name)) {
        let sentence = format!("no node is called `{unknown}`; `pxe-server nodes` lists them");
        return Err(ApiError::new(StatusCode::NOT_FOUND, sentence));
    }
    let names = if order.all { known } else { order.nodes };
    let changed = blocking(move || give(&admin.app, &names)).await.and_then(|changed| changed);
    changed.map(|changed| Json(OrderReply { changed })).map_err(|error| ApiError::internal(&error))
}

async fn images(State(admin): State<Admin>) -> Json<Vec<ImageView>> {
    Json(admin.app.images.views())
}

async fn deployments(State(admin): State<Admin>) -> Result<Json<Vec<DeploymentReport>>, ApiError> {
    let reports = blocking(move || admin.app.deployments.reports()).await.and_then(|reports| reports);
    reports.map(Json).map_err(|error| ApiError::internal(&error))
}

/// A boot by other means than this server's DHCP: from a USB stick, or another boot server.
async fn boot(State(admin): State<Admin>, Json(order): Json<BootOrder>) -> Result<Json<BootReply>, ApiError> {
    let mac = order.mac.parse::<MacAddr>().ok().filter(|mac| mac.is_unicast());
    let mac = mac.ok_or_else(|| {
        ApiError::new(StatusCode::BAD_REQUEST, "`mac` is no hardware address; write 52:54:00:aa:bb:cc")
    })?;
    let app = Arc::clone(&admin.app);
    let boot = blocking(move || app.nodes.decide(mac)).await.and_then(|boot| boot);
    match boot.map_err(|error| ApiError::internal(&error))? {
        Boot::Local => Ok(Json(BootReply { boot: "local", token: None, arguments: None })),
        Boot::Agent { token } => {
            let server = (admin.app.tasks.address, admin.app.site.agent_port);
            let bootif = mac.hyphenated();
            let arguments =
                format!("esir.server={}:{} esir.token={token} BOOTIF=01-{bootif}", server.0, server.1);
            Ok(Json(BootReply { boot: "agent", token: Some(token), arguments: Some(arguments) }))
        }
    }
}

/// Server-sent events: `snapshot` with everything, then `nodes` with those that changed.
async fn events_stream(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let Some(subscription) = admin.events.subscribe() else {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open; close some"));
    };
    let (sender, body) = Channel::<Bytes, Infallible>::new(PAGE_AHEAD);
    tokio::spawn(feed_page(admin, subscription, sender));
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((headers, axum::body::Body::new(body)).into_response())
}

async fn feed_page(
    admin: Admin,
    (mut news, _room): (broadcast::Receiver<Bytes>, OwnedSemaphorePermit),
    mut page: http_body_util::channel::Sender<Bytes, Infallible>,
) {
    let mut next = Events::snapshot(&admin.app).await;
    loop {
        if page.send_data(next).await.is_err() {
            return;
        }
        next = match news.recv().await {
            Ok(message) => message,
            // A page that was too slow gets everything anew.
            Err(broadcast::error::RecvError::Lagged(_)) => Events::snapshot(&admin.app).await,
            Err(broadcast::error::RecvError::Closed) => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_our_own() {
        for own in ["127.0.0.1:8080", "127.0.0.1", "localhost", "LocalHost:80", "[::1]:8080", "10.0.0.1:1"] {
            assert!(is_own_host(own), "{own}");
        }
        for other in ["", "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil:1"] {
            assert!(!is_own_host(other), "{other}");
        }
    }
}
