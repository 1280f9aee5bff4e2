//! Serves kernel and initrd to nodes that boot after this one, over plain HTTP, when the server asks for it.
//!
//! Never serves a byte whose hash is not the one that the server named over TLS; never holds up a deployment: what fails
//! here is a line in the log.
//!
//! The kernel has forgotten both files when the agent starts, so they are fetched again, from a peer if one is up, and
//! held in memory: about 20 MB, and only on the few nodes that are asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, HOST, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use node_api::{BOOT_SHARE_AGENT, BootFile, BootShare, paths};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::report::Reporter;

/// Memory that must be free for each byte that is served; the deployment needs the rest.
const FREE_FACTOR: u64 = 8;
/// Kernel and initrd above this are no boot files.
const BYTES_MAX: u64 = 512 << 20;
/// Nodes that fetch at a time; the server sends no more here.
const CONNECTIONS_MAX: usize = 16;
/// One request and its answer at the slowest rate that firmware is known for.
const CONNECTION_TIME: Duration = Duration::from_mins(5);
/// A peer on the same network answers in milliseconds.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// One file over a shared link.
const FETCH_TIME: Duration = Duration::from_mins(5);
/// A server in a boot storm puts us off some times.
const TRIES_MAX: u32 = 30;
/// Longest pause that the server can order.
const PAUSE_MAX_S: u64 = 30;
const PAUSE_S: u64 = 5;

/// What is served, by path.
type Files = BTreeMap<String, Bytes>;

/// Fetches what `share` names and serves it until the node leaves.
pub(crate) async fn run(share: BootShare, reporter: Reporter) {
    match serve(&share, &reporter).await {
        Ok(()) => {}
        Err(error) => tracing::warn!("serving boot files to other nodes: {error:#}"),
    }
}

async fn serve(share: &BootShare, reporter: &Reporter) -> Result<()> {
    let bytes = share.files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
    ensure!(bytes <= BYTES_MAX, "{bytes} bytes are no boot files");
    let memory = rustix::system::sysinfo();
    let free = memory.freeram.saturating_mul(u64::from(memory.mem_unit));
    if free < bytes.saturating_mul(FREE_FACTOR) {
        tracing::info!(
            "boot files are not served to other nodes: only {} MiB of memory are free",
            free >> 20
        );
        return Ok(());
    }
    let mut files = Files::new();
    for file in &share.files {
        let path = format!("{}/{}/{}", paths::BOOT, share.bundle, file.name);
        let bytes = fetch(SocketAddr::V4(share.server), &path, file).await?;
        files.insert(path, bytes);
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, paths::BOOT_SHARE_PORT))
        .await
        .with_context(|| format!("opening port {}", paths::BOOT_SHARE_PORT))?;
    reporter.serves_boot_files(paths::BOOT_SHARE_PORT);
    tracing::info!("serving boot files ({} MiB) to other nodes", bytes >> 20);
    accept(listener, files).await
}

/// One file, proved by its hash. The server may send us to a peer, and takes us back if that fails.
async fn fetch(server: SocketAddr, path: &str, file: &BootFile) -> Result<Bytes> {
    let (mut target, mut failed) = (None, false);
    let mut reason = anyhow::anyhow!("no try was made");
    for _ in 0..TRIES_MAX {
        let from = target.take().unwrap_or(server);
        let query = if failed && from == server { format!("{path}?failed=1") } else { path.to_owned() };
        match timeout(FETCH_TIME, get(from, &query, file.bytes)).await.context("too slow").and_then(|got| got)
        {
            Ok(Got::File(bytes)) if blake3::hash(&bytes).to_hex().as_str() == file.hash => return Ok(bytes),
            Ok(Got::File(_)) => {
                tracing::warn!("{from} sent another {} than the one that this bundle has", file.name);
                ensure!(from != server, "the server's {} is not the one that it named", file.name);
                failed = true;
            }
            Ok(Got::SentTo(peer)) => target = Some(peer),
            Ok(Got::Later(pause)) => sleep(pause).await,
            Err(error) => {
                failed = from != server;
                reason = error;
                sleep(Duration::from_secs(PAUSE_S)).await;
            }
        }
    }
    Err(reason.context(format!("fetching {} in {TRIES_MAX} tries", file.name)))
}

/// An answer that is of use.
#[derive(Debug)]
enum Got {
    File(Bytes),
    SentTo(SocketAddr),
    Later(Duration),
}

async fn get(from: SocketAddr, path: &str, bytes: u64) -> Result<Got> {
    let stream = timeout(CONNECT_TIME, TcpStream::connect(from)).await.context("no answer")?;
    let stream = stream.with_context(|| format!("reaching {from}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped or the server closes; its error reaches us through the sender.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let agent = format!("{BOOT_SHARE_AGENT}{}", env!("CARGO_PKG_VERSION"));
    let request = Request::get(path).header(HOST, from.to_string()).header(USER_AGENT, agent);
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    match response.status() {
        StatusCode::OK => {
            let limit = usize::try_from(bytes).context("a file of this size")?;
            let body = Limited::new(response.into_body(), limit).collect().await;
            let body = body
                .map_err(|error| anyhow::anyhow!(error))
                .with_context(|| format!("reading from {from}"))?;
            Ok(Got::File(body.to_bytes()))
        }
        StatusCode::FOUND => Ok(Got::SentTo(location(header(LOCATION).unwrap_or_default())?)),
        StatusCode::SERVICE_UNAVAILABLE => {
            let seconds = header(RETRY_AFTER).and_then(|text| text.parse().ok()).unwrap_or(PAUSE_S);
            Ok(Got::Later(Duration::from_secs(seconds.clamp(1, PAUSE_MAX_S))))
        }
        status => bail!("{from} answered {status}"),
    }
}

/// The peer of a redirect; it serves the file at the same path.
fn location(text: &str) -> Result<SocketAddr> {
    let uri: Uri = text.parse().with_context(|| format!("reading the location {text:?}"))?;
    let authority = uri.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default();
    authority.parse().with_context(|| format!("the location {text:?} names no address and port"))
}

async fn accept(listener: TcpListener, files: Files) -> Result<()> {
    let (files, places) = (Arc::new(files), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let files = Arc::clone(&files);
        let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
            let response = respond(&files, request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // Whoever breaks off or stands still has lost only its own connection.
            let _ = timeout(CONNECTION_TIME, connection).await;
            drop(place);
        });
    }
}

fn respond(files: &Files, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let file = files.get(path);
    let (status, body, length) = match (file, method) {
        (Some(bytes), &Method::GET) => (StatusCode::OK, bytes.clone(), bytes.len()),
        (Some(bytes), &Method::HEAD) => (StatusCode::OK, Bytes::new(), bytes.len()),
        (Some(_), _) => (StatusCode::METHOD_NOT_ALLOWED, Bytes::new(), 0),
        (None, _) => (StatusCode::NOT_FOUND, Bytes::new(), 0),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/boot/b1/vmlinuz";

    /// Serves `content` at [`PATH`] and says where.
    async fn peer(content: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let files = Files::from([(PATH.to_owned(), Bytes::from_static(content))]);
        tokio::spawn(accept(listener, files));
        address
    }

    /// A server that sends the first time to `to` and then serves `content` to who says that this failed.
    async fn server(to: SocketAddr, content: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = hyper::service::service_fn(move |request: Request<Incoming>| async move {
                    let came_back = request.uri().query() == Some("failed=1");
                    let mut response = Response::new(Full::new(Bytes::from_static(content)));
                    if !came_back {
                        *response.status_mut() = StatusCode::FOUND;
                        let location = format!("http://{to}{PATH}").parse().unwrap();
                        response.headers_mut().insert(LOCATION, location);
                    }
                    Ok::<_, Infallible>(response)
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), answer);
                let _ = connection.await;
            }
        });
        address
    }

    fn file() -> BootFile {
        BootFile { name: "vmlinuz".into(), hash: blake3::hash(b"kernel").to_hex().to_string(), bytes: 6 }
    }

    #[tokio::test]
    async fn file_comes_from_the_peer_that_the_server_names() {
        let server = server(peer(b"kernel").await, b"not asked for").await;
        assert_eq!(fetch(server, PATH, &file()).await.unwrap(), b"kernel"[..]);
    }

    #[tokio::test]
    async fn peer_with_other_bytes_is_not_believed() {
        let server = server(peer(b"forged").await, b"kernel").await;
        assert_eq!(fetch(server, PATH, &file()).await.unwrap(), b"kernel"[..]);
    }

    #[tokio::test(start_paused = true)]
    async fn dead_peer_leads_back_to_the_server() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let server = server(closed, b"kernel").await;
        assert_eq!(fetch(server, PATH, &file()).await.unwrap(), b"kernel"[..]);
    }

    #[tokio::test]
    async fn only_the_named_files_are_served_and_nothing_is_taken() {
        let files = Files::from([(PATH.to_owned(), Bytes::from_static(b"kernel"))]);
        let status = |method: Method, path: &str| respond(&files, &method, path).status();
        assert_eq!(status(Method::GET, PATH), StatusCode::OK);
        assert_eq!(status(Method::GET, "/boot/b1/../vmlinuz"), StatusCode::NOT_FOUND);
        assert_eq!(status(Method::GET, "/"), StatusCode::NOT_FOUND);
        assert_eq!(status(Method::PUT, PATH), StatusCode::METHOD_NOT_ALLOWED);
        let head = respond(&files, &Method::HEAD, PATH);
        assert_eq!(head.headers().get(CONTENT_LENGTH).unwrap(), "6");
    }

    #[test]
    fn location_must_name_an_address() {
        assert_eq!(location("http://10.0.0.7:6980/boot/b/x").unwrap(), "10.0.0.7:6980".parse().unwrap());
        assert!(location("/boot/b/x").is_err() && location("http://name:80/").is_err());
    }
}
