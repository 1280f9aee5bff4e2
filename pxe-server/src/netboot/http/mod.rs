//! Boot scripts and boot files over plain HTTP.
//!
//! Never decides what a node boots, never sends a body in chunks (UEFI and GRUB want its length first).

mod connections;
mod digest;
mod listener;
mod objects;
mod peers;
mod places;
mod ranges;
mod script;
mod scripts;
mod shares;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::clock::now_unix_ms;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use dhcp_wire::MacAddr;
use node_api::FirmwareKind;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use self::digest::{Asked, Logins};
use self::listener::BootListener;
use self::objects::{ObjectError, TransferBody};
use self::peers::Choice;
use self::places::{Asker, Place, Places};
use self::ranges::{Content, answer, wanted_range};
use self::script::SCRIPT_PATH;
use self::scripts::Told;
use super::boot_files::{BootPrograms, first_loader};
use super::menu_files::MenuFiles;
use super::node_files::NodeFiles;
use super::policy::{Asks, BootPolicy, BootRequest, FirstLoader, Loader};

pub(crate) use self::digest::{REALM, md5_hex};
pub(super) use self::objects::{BootObject, Objects};
pub(crate) use self::peers::BootPeers;
pub(super) use self::script::file_url;
pub(crate) use self::script::script_url;
pub(super) use self::scripts::Scripts;
pub(crate) use self::scripts::told;

/// Kernels and initrds on their way at a time. Sharing a link among more makes the first no later and all slower.
const LARGE_TRANSFERS_MAX: usize = 64;
/// Nodes that must wait ask again after 3 to 8 s, spread so that they don't come back together.
const RETRY_AFTER_MIN_S: u8 = 3;
const RETRY_AFTER_SPREAD_S: u8 = 6;
/// Longest serial number that is kept.
const SERIAL_CHARS_MAX: usize = 128;

/// The running HTTP server. Dropping it stops it.
pub(super) struct Http {
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

/// What the server has done so far.
#[derive(Debug, Default)]
pub(super) struct HttpCounters {
    /// Boot scripts sent.
    pub(super) scripts: AtomicU64,
    /// Kernels, initrds and boot programs begun to send.
    pub(super) files: AtomicU64,
    /// Large transfers put off with 503.
    pub(super) put_off: AtomicU64,
    /// Large transfers sent to peers with 302.
    pub(super) sent_to_peers: AtomicU64,
}

struct Shared {
    policy: Arc<dyn BootPolicy>,
    scripts: Arc<Scripts>,
    logins: Option<Logins>,
    programs: BootPrograms,
    objects: Arc<Objects>,
    files: Arc<MenuFiles>,
    large: Places,
    /// `None` where every node is served here.
    peers: Option<SharedPeers>,
    counters: Arc<HttpCounters>,
}

/// The peers that kernel and initrd come from, shared with the agent API.
pub(crate) type SharedPeers = Arc<Mutex<BootPeers>>;

impl Http {
    /// Serves on `listener`; `http` is its address as nodes reach it, `agent` that of the agent API.
    /// `extra` must not have routes of ours: `/boot.ipxe`, `/boot/...`, `/files/...`, `/grub/...`, `/pxelinux...` and the
    /// names of the boot programs.
    pub(super) fn start(
        listener: TcpListener,
        (http, agent): (SocketAddrV4, SocketAddrV4),
        programs: BootPrograms,
        policy: Arc<dyn BootPolicy>,
        (extra, peers): (Router, Option<SharedPeers>),
    ) -> Self {
        Self::start_with(listener, (http, agent), programs, policy, (extra, peers, LARGE_TRANSFERS_MAX))
    }

    fn start_with(
        listener: TcpListener,
        (http, agent): (SocketAddrV4, SocketAddrV4),
        programs: BootPrograms,
        policy: Arc<dyn BootPolicy>,
        (extra, peers, large_transfers_max): (Router, Option<SharedPeers>, usize),
    ) -> Self {
        let shared = Arc::new(Shared {
            scripts: Arc::new(Scripts::new(Arc::clone(&policy), http, agent)),
            policy,
            logins: Logins::new().inspect_err(|error| warn!(%error, "no passwords can be checked")).ok(),
            programs,
            objects: Arc::default(),
            files: Arc::default(),
            large: Places::new(large_transfers_max),
            peers,
            counters: Arc::default(),
        });
        let ours = Router::new()
            .route(SCRIPT_PATH, get(boot_script))
            .route(&format!("{}/{{bundle}}/{{file}}", node_api::paths::BOOT), get(boot_object))
            .route("/files/{*name}", get(menu_file))
            .route("/grub/{*name}", get(grub_file))
            .route("/pxelinux.cfg/{name}", get(pxelinux_cfg))
            .route("/pxelinux/{*name}", get(pxelinux_file))
            .route("/{program}", get(boot_program))
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(BootListener::new(listener).serve(ours.merge(extra)));
        Self { task, shared }
    }

    /// What the server has done so far.
    pub(super) fn counters(&self) -> &Arc<HttpCounters> {
        &self.shared.counters
    }

    /// The same files for TFTP.
    pub(super) fn node_files(&self) -> NodeFiles {
        NodeFiles {
            programs: self.shared.programs.clone(),
            policy: Arc::clone(&self.shared.policy),
            scripts: Arc::clone(&self.shared.scripts),
            objects: Arc::clone(&self.shared.objects),
            files: Arc::clone(&self.shared.files),
        }
    }

    /// Stops and waits until the listening socket is closed.
    pub(super) async fn shutdown(mut self) {
        self.task.abort();
        // Aborted is what we asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What iPXE says of the node, as text from the wire.
#[derive(Debug, Deserialize)]
struct ScriptQuery {
    mac: Option<String>,
    uuid: Option<String>,
    platform: Option<String>,
    serial: Option<String>,
    item: Option<String>,
}

#[derive(Deserialize)]
struct ObjectQuery {
    mac: Option<String>,
    /// The node was sent to a peer and comes back without the file.
    failed: Option<u8>,
}

async fn boot_script(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(query): Query<ScriptQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some(mut request) = boot_request(&query, ipv4(peer)) else {
        debug!(%peer, ?query, "a boot script was asked for without a hardware address");
        return text(script::ask_again(&shared.scripts.place));
    };
    let answering = Arc::clone(&shared);
    let told = tokio::task::spawn_blocking(move || {
        request.user = proved_user(&answering, &uri, &headers);
        answering.scripts.ipxe(&request)
    });
    match told.await {
        Ok(Told::Script(script)) => {
            shared.counters.scripts.fetch_add(1, Ordering::Relaxed);
            text(script)
        }
        Ok(Told::Login) => login(&shared),
        Err(error) => {
            warn!(%error, "deciding about a node's boot failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Who proved a password with this request.
fn proved_user(shared: &Shared, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let authorization = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let target = uri.path_and_query()?.as_str();
    let asked = Asked { method: "GET", target, authorization };
    let user =
        shared.logins.as_ref()?.user(now_unix_ms() / 1000, asked, |user| shared.policy.password_digest(user));
    if user.is_none() {
        warn!(target, "a password was wrong");
    }
    user
}

fn login(shared: &Shared) -> Response {
    let challenge = shared.logins.as_ref().map(|logins| logins.challenge(now_unix_ms() / 1000));
    let challenge = challenge.and_then(|challenge| HeaderValue::try_from(challenge).ok());
    let Some(challenge) = challenge else { return StatusCode::FORBIDDEN.into_response() };
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response()
}

type Peer = ConnectInfo<SocketAddr>;

async fn grub_file(State(shared): State<Arc<Shared>>, peer: Peer, Path(name): Path<String>) -> Response {
    named_config(shared, peer, format!("grub/{name}")).await
}

async fn pxelinux_cfg(State(shared): State<Arc<Shared>>, peer: Peer, Path(name): Path<String>) -> Response {
    named_config(shared, peer, format!("pxelinux.cfg/{name}")).await
}

async fn pxelinux_file(State(shared): State<Arc<Shared>>, peer: Peer, Path(name): Path<String>) -> Response {
    named_config(shared, peer, format!("pxelinux/{name}")).await
}

/// A loader's configuration by its name.
async fn named_config(shared: Arc<Shared>, ConnectInfo(peer): Peer, name: String) -> Response {
    let config = tokio::task::spawn_blocking(move || shared.scripts.named(&name, ipv4(peer))).await;
    config.ok().flatten().map_or_else(|| StatusCode::NOT_FOUND.into_response(), text)
}

async fn menu_file(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): Peer,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(directory) = shared.policy.menu_files() else { return StatusCode::NOT_FOUND.into_response() };
    // Before the file is read, so that no more of them are in memory than are on their way.
    let Some(place) = shared.place(peer).await else { return put_off() };
    let (reading, wanted) = (Arc::clone(&shared), name.clone());
    let read = tokio::task::spawn_blocking(move || reading.files.open(&directory, &wanted)).await;
    let (bytes, tag) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(_)) if name.starts_with("pxelinux.cfg/") => {
            return named_config(shared, ConnectInfo(peer), name).await;
        }
        Ok(Err(error)) => {
            info!(name, %error, "a file of the menus is asked for and cannot be served");
            return StatusCode::NOT_FOUND.into_response();
        }
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let content = Content { name: &name, bytes: &bytes, tag };
    if method == Method::HEAD {
        return answer(&method, &headers, &content, |_| Body::empty());
    }
    shared.counters.files.fetch_add(1, Ordering::Relaxed);
    answer(&method, &headers, &content, |part| Body::new(TransferBody::new(part, place)))
}

async fn boot_object(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((bundle, file)): Path<(String, String)>,
    Query(query): Query<ObjectQuery>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(object) = BootObject::from_name(&file) else { return StatusCode::NOT_FOUND.into_response() };
    let (loading, wanted) = (Arc::clone(&shared), bundle.clone());
    let loaded =
        tokio::task::spawn_blocking(move || loading.objects.get(&*loading.policy, &wanted, object)).await;
    let bytes = match loaded {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(ObjectError::OtherBundle)) => return StatusCode::NOT_FOUND.into_response(),
        Ok(Err(error @ (ObjectError::Read { .. } | ObjectError::Large { .. }))) => {
            warn!(error = &error as &dyn std::error::Error, "a boot file cannot be served");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        Err(error) => {
            warn!(%error, "loading the boot files failed");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let tag = format!("{bundle}-{file}");
    let content = Content { name: &file, bytes: &bytes, tag };
    if method == Method::HEAD {
        return answer(&method, &headers, &content, |_| Body::empty());
    }
    let node = ipv4(peer);
    match shared.choose(node, &headers, query.failed.is_some()) {
        Choice::Here => {}
        Choice::Wait => {
            shared.counters.put_off.fetch_add(1, Ordering::Relaxed);
            return put_off();
        }
        Choice::Peer(at) => {
            shared.counters.sent_to_peers.fetch_add(1, Ordering::Relaxed);
            debug!(%node, peer = %at, file, "sent to a peer");
            let location = format!("http://{at}{}/{bundle}/{file}", node_api::paths::BOOT);
            if let Some(mac) = query.node() {
                tokio::task::spawn_blocking(move || shared.policy.saw_load(mac, object.name()));
            }
            return (StatusCode::FOUND, [(LOCATION, location)]).into_response();
        }
    }
    let Some(place) = shared.place(peer).await else { return put_off() };
    shared.counters.files.fetch_add(1, Ordering::Relaxed);
    let begins = wanted_range(&method, &headers, &content.tag, bytes.len() as u64)
        .is_none_or(|range| range.is_ok_and(|range| range.start == 0));
    if begins && let Some(mac) = query.node() {
        info!(node = %mac, address = %peer.ip(), file, "boot file");
        tokio::task::spawn_blocking(move || shared.policy.saw_load(mac, object.name()));
    }
    answer(&method, &headers, &content, |part| Body::new(TransferBody::new(part, place)))
}

impl ObjectQuery {
    fn node(&self) -> Option<MacAddr> {
        self.mac.as_deref()?.parse().ok()
    }
}

impl Shared {
    /// A place for a large transfer; without one the node is to be put off.
    async fn place(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let asking = Arc::clone(self);
        let asker = tokio::task::spawn_blocking(move || match asking.policy.node_at(ipv4(peer)) {
            Some(node) => Asker::Node(node),
            None => Asker::Stranger(peer.ip()),
        });
        let place = self.large.take(Instant::now(), asker.await.ok()?);
        if place.is_none() {
            self.counters.put_off.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    /// Where this node gets its file. Only iPXE and our agent follow redirects: UEFI HTTP boot and GRUB do not.
    fn choose(&self, node: Ipv4Addr, headers: &HeaderMap, failed: bool) -> Choice {
        let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let follows = agent.starts_with("iPXE/") || agent.starts_with(node_api::BOOT_SHARE_AGENT);
        match &self.peers {
            Some(peers) if follows => {
                let mut peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
                peers.choose(Instant::now(), node, failed)
            }
            Some(_) | None => Choice::Here,
        }
    }
}

async fn boot_program(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(bytes) = shared.programs.get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    // At most a few MB, and hashed in less time than they take to send.
    let content =
        Content { name: &name, bytes: &bytes, tag: blake3::hash(&bytes).to_hex().as_str().to_owned() };
    if method == Method::HEAD {
        return answer(&method, &headers, &content, |_| Body::empty());
    }
    shared.counters.files.fetch_add(1, Ordering::Relaxed);
    // Shim is offered to nobody over HTTP.
    if let Some(what @ FirstLoader::Ipxe) = first_loader(&name) {
        shared.policy.saw_fetched(ipv4(peer), what);
    }
    answer(&method, &headers, &content, Body::from)
}

/// What the query says, if it names a NIC.
fn boot_request(query: &ScriptQuery, address: Ipv4Addr) -> Option<BootRequest> {
    let mac = query.mac.as_deref()?.parse().ok().filter(|mac: &MacAddr| mac.is_unicast())?;
    let printable = |text: &str| text.chars().filter(|symbol| !symbol.is_control()).collect::<String>();
    let uuid = query.uuid.as_deref().map(str::to_ascii_lowercase).filter(|uuid| is_useful_uuid(uuid));
    let serial = query
        .serial
        .as_deref()
        .map(|serial| printable(serial.trim()).chars().take(SERIAL_CHARS_MAX).collect());
    let platform = match query.platform.as_deref() {
        Some("efi") => FirmwareKind::Uefi,
        _ => FirmwareKind::Bios,
    };
    Some(BootRequest {
        mac,
        uuid,
        serial: serial.filter(|serial: &String| !serial.is_empty()),
        platform,
        loader: Loader::Ipxe,
        address,
        asks: query.item.clone().map_or(Asks::Start, Asks::Item),
        user: None,
    })
}

/// QUIRK(SMBIOS): boards without one say all zeros or all ones.
fn is_useful_uuid(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|symbol| *symbol != '-').collect();
    text.len() == 36
        && digits.len() == 32
        && digits.iter().all(char::is_ascii_hexdigit)
        && digits.iter().any(|digit| *digit != '0')
        && digits.iter().any(|digit| *digit != 'f')
}

fn ipv4(peer: SocketAddr) -> Ipv4Addr {
    match peer.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => address.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED),
    }
}

fn text(script: String) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], script).into_response()
}

fn put_off() -> Response {
    let mut random = [0];
    // Without randomness every node waits the same time, which is only less good.
    let _ = getrandom::fill(&mut random);
    let [random] = random;
    let seconds = RETRY_AFTER_MIN_S + random % RETRY_AFTER_SPREAD_S;
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, HeaderValue::from(u16::from(seconds)))]).into_response()
}
