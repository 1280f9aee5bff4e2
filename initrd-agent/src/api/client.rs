//! One HTTP/1.1 client for one server: few connections, used again, everything with a limit.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RANGE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use node_api::paths;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::pin::{KeyPin, client_config};

/// A server on the same network answers in milliseconds; one that starts again takes a few seconds.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Report, task, objects and ranges run at once; more idle connections are closed.
const IDLE_CONNECTIONS_MAX: usize = 6;

/// A request that got no usable answer. The server may or may not have acted on it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No connection.
    #[error("the server {address} cannot be reached")]
    Connect {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// Someone else answers at that address.
    #[error("{address} has another TLS key than the one in this initrd; it was not trusted")]
    WrongKey { address: SocketAddr },
    /// It took too long.
    #[error("the server did not answer {path} within {limit_s} s")]
    Timeout { path: String, limit_s: u64 },
    /// The connection broke or spoke no HTTP.
    #[error("the connection to the server broke during {path}")]
    Broken {
        path: String,
        #[source]
        source: hyper::Error,
    },
    /// An answer beyond its limit, or cut off.
    #[error("the answer to {path} is cut off or longer than {limit} bytes")]
    Body { path: String, limit: usize },
    /// The session is unknown to the server.
    #[error("the server does not know this session")]
    Unauthorised,
    /// Any other refusal.
    #[error("the server answered {status} to {path}: {text}")]
    Status { path: String, status: StatusCode, text: String },
    /// An answer that is not what it should be.
    #[error("the answer to {path} cannot be read; agent and server are of different versions")]
    Malformed {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    /// A request that cannot be made.
    #[error("the request {path} cannot be made")]
    Request { path: String },
}

/// What a call sends and how much it accepts.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) session: Option<String>,
    pub(crate) json: Option<String>,
    /// First and last byte, inclusive (RFC 9110 section 14.1.2).
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) limit: Duration,
    pub(crate) answer_bytes_max: usize,
}

/// An answer with a good status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

type Sender = SendRequest<Full<Bytes>>;

/// Speaks to one server whose key is pinned.
pub(crate) struct Client {
    address: SocketAddr,
    tls: TlsConnector,
    idle: Mutex<Vec<Sender>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, pin: KeyPin) -> Result<Self, rustls::Error> {
        let tls = TlsConnector::from(Arc::new(client_config(pin)?));
        Ok(Self { address, tls, idle: Mutex::new(Vec::new()) })
    }

    /// The server's address.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes one call. A connection that turns out to be closed by the server is replaced once.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, ApiError> {
        match timeout(call.limit, self.call_unlimited(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(ApiError::Timeout { path: call.path.clone(), limit_s: call.limit.as_secs() }),
        }
    }

    async fn call_unlimited(&self, call: &Call) -> Result<Answer, ApiError> {
        while let Some(sender) = self.take_idle() {
            if let Ok(answer) = self.send(sender, call).await {
                return check_status(call, answer);
            }
        }
        let sender = self.connect().await?;
        let answer = self.send(sender, call).await?;
        check_status(call, answer)
    }

    async fn send(&self, mut sender: Sender, call: &Call) -> Result<Answer, ApiError> {
        let request = self.request(call)?;
        let broken = |source| ApiError::Broken { path: call.path.clone(), source };
        sender.ready().await.map_err(broken)?;
        let response: Response<Incoming> = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let cut = || ApiError::Body { path: call.path.clone(), limit: call.answer_bytes_max };
        if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > call.answer_bytes_max {
            return Err(cut());
        }
        let body = Limited::new(body, call.answer_bytes_max);
        let body = body.collect().await.map_err(|_| cut())?.to_bytes();
        self.give_back(sender);
        Ok(Answer { status: head.status, body })
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, ApiError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(HOST, self.address.to_string());
        if let Some(session) = &call.session {
            request = request.header(AUTHORIZATION, format!("{} {session}", paths::SESSION_SCHEME));
        }
        if let Some((first, last)) = call.range {
            request = request.header(RANGE, format!("bytes={first}-{last}"));
        }
        if call.json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::from(call.json.clone().unwrap_or_default());
        request.body(body).map_err(|_| ApiError::Request { path: call.path.clone() })
    }

    async fn connect(&self) -> Result<Sender, ApiError> {
        let address = self.address;
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
        let failed = |source| ApiError::Connect { address, source };
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address))
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let name = ServerName::from(address.ip());
        let stream = timeout(CONNECT_LIMIT, self.tls.connect(name, stream))
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(
                |source| if is_wrong_key(&source) { ApiError::WrongKey { address } } else { failed(source) },
            )?;
        let broken = |source| ApiError::Broken { path: "the handshake".to_owned(), source };
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends when the sender is dropped or the server closes; its error reaches us through the sender.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().ok()?;
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    fn give_back(&self, sender: Sender) {
        if let Ok(mut idle) = self.idle.lock()
            && idle.len() < IDLE_CONNECTIONS_MAX
        {
            idle.push(sender);
        }
    }
}

fn is_wrong_key(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// How much of a refusal's text is shown.
const REFUSAL_CHARACTERS_MAX: usize = 300;

fn check_status(call: &Call, answer: Answer) -> Result<Answer, ApiError> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    if answer.status == StatusCode::UNAUTHORIZED {
        return Err(ApiError::Unauthorised);
    }
    let text = String::from_utf8_lossy(&answer.body).trim().chars().take(REFUSAL_CHARACTERS_MAX).collect();
    Err(ApiError::Status { path: call.path.clone(), status: answer.status, text })
}
