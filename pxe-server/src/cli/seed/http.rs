//! The seed over HTTP: `/NAME.torrent`, `/announce`, and `/NAME` by ranges (BEP 19).
//!
//! Tells nothing to whoever does not know the key that follows from the secret, unless the swarm is open.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use axum::Router;
use axum::extract::{ConnectInfo, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use node_api::paths;
use swarm_net::{Admission, Clock, Metainfo, Secret, Tracker, TrackerConfig};

use super::offer::Offer;
use crate::api::{ApiError, send_file};
use crate::keys::random;
use crate::swarm_service::seed_announcement;

/// The HTTP side of one seed.
pub(super) struct Side {
    pub(super) offer: Offer,
    http: SocketAddr,
    peers: SocketAddr,
    /// The name in a path.
    name: String,
    torrent: Vec<u8>,
    /// By the name that is asked for.
    files: BTreeMap<String, PathBuf>,
    /// BLAKE3 of the key, because comparing hashes takes the same time whatever they are.
    key: Option<blake3::Hash>,
    clock: Clock,
    tracker: Mutex<Tracker>,
}

impl Side {
    /// Serves `offer` at `http`; its seed accepts peers at `peers`.
    pub(super) fn new(
        offer: Offer,
        http: SocketAddr,
        peers: SocketAddr,
        secret: Option<&Secret>,
    ) -> Result<Self> {
        let plain = &offer.metainfo.name;
        ensure!(format!("/{plain}") != paths::ANNOUNCE, "rename the file: {plain} is the tracker's own name");
        let name = escape(plain);
        let announce = format!("http://{http}{}", paths::ANNOUNCE);
        let web_seed = format!("http://{http}/{name}");
        let torrent = Metainfo::with_sources(&offer.torrent, Some(&announce), &[&web_seed])?;
        let beside = offer.companions().map(|(suffix, path)| (format!("{plain}.{suffix}"), path));
        let files = beside.chain([(plain.clone(), offer.path.clone())]).collect();
        let mut tracker = Tracker::new(TrackerConfig::new(Admission::Open, random()?));
        tracker.add_torrent(offer.metainfo.info_hash);
        let side = Self {
            http,
            peers,
            name,
            torrent,
            files,
            key: secret.map(|secret| blake3::hash(secret.http_key().as_bytes())),
            clock: Clock::start(),
            tracker: Mutex::new(tracker),
            offer,
        };
        side.announce_seed();
        Ok(side)
    }

    pub(super) fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route(paths::ANNOUNCE, get(announce))
            .route("/{name}", get(file))
            .layer(middleware::from_fn_with_state(Arc::clone(self), check_key))
            .with_state(Arc::clone(self))
    }

    /// Where others get the torrent.
    pub(super) fn torrent_url(&self) -> String {
        format!("http://{}/{}.torrent", self.http, self.name)
    }

    /// Complete and incomplete members of the swarm.
    pub(super) fn members(&self) -> (usize, usize) {
        self.lock_tracker().members(self.offer.metainfo.info_hash)
    }

    /// Keeps the seed among the members.
    pub(super) fn announce_seed(&self) {
        let request = seed_announcement(self.offer.metainfo.info_hash, self.peers);
        self.lock_tracker().announce(self.clock.now(), &request);
    }

    /// A panic elsewhere leaves the tracker with a member too many or too few, which the next announce mends.
    fn lock_tracker(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Middleware: without the key, nothing is told.
async fn check_key(State(side): State<Arc<Side>>, request: Request, next: Next) -> Response {
    let given = request.uri().query().and_then(|query| {
        query.split('&').find_map(|pair| pair.strip_prefix("key=")).map(|key| blake3::hash(key.as_bytes()))
    });
    if side.key.is_some() && side.key != given {
        let sentence = "the swarm secret is missing or wrong; use the whole line that the seed printed";
        return ApiError::new(StatusCode::FORBIDDEN, sentence).into_response();
    }
    next.run(request).await
}

async fn announce(
    State(side): State<Arc<Side>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
) -> Response {
    let body =
        side.lock_tracker().handle_query(side.clock.now(), from.ip(), query.as_deref().unwrap_or_default());
    ([(header::CONTENT_TYPE, "text/plain")], body).into_response()
}

async fn file(State(side): State<Arc<Side>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    if name.strip_suffix(".torrent") == Some(&side.offer.metainfo.name) {
        return ([(header::CONTENT_TYPE, "application/x-bittorrent")], side.torrent.clone()).into_response();
    }
    let Some(path) = side.files.get(&name) else { return ApiError::not_found("such file").into_response() };
    match send_file(path, &headers).await {
        Ok(response) => response,
        Err(error) => ApiError::internal(&error).into_response(),
    }
}

/// Percent-encodes what a path can't hold as it is (RFC 3986).
fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
