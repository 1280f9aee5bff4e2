//! The agent API as the agent sees it: typed calls over TLS to the pinned server.
//!
//! Never retries on its own except over a connection that the server had closed; callers know what is worth
//! how many tries.

mod client;
mod pin;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use node_api::{EnrolReply, EnrolRequest, ReportReply, ReportRequest, SignedTask, paths};
use serde::de::DeserializeOwned;

pub(crate) use client::ApiError;
pub(crate) use pin::KeyPin;

use client::{Answer, Call, Client};

/// Answers that are a few values.
const SMALL_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A task holds metainfo with 20 bytes for each piece, in base64, twice quoted.
const TASK_BYTES_MAX: usize = 8 << 20;
/// The largest module or firmware file met is below 40 MiB; the store manifest has some MiB.
const OBJECT_BYTES_MAX: usize = 128 << 20;
/// 32 bytes for each piece of the largest image that the format allows.
const PIECE_HASHES_BYTES_MAX: usize = 64 << 20;
/// A web-seed range is a few pieces.
const RANGE_BYTES_MAX: u64 = 64 << 20;
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// How long the server may hold a task request open.
const LONG_POLL: Duration = Duration::from_secs(25);
/// Objects and ranges over a slow or shared link.
const TRANSFER_LIMIT: Duration = Duration::from_mins(5);

/// The server before the node is enrolled.
#[derive(Clone)]
pub(crate) struct Server {
    client: Arc<Client>,
}

/// The server as an enrolled node sees it; cheap to clone.
#[derive(Clone)]
pub(crate) struct Session {
    client: Arc<Client>,
    secret: Arc<str>,
}

impl Server {
    pub(crate) fn new(address: SocketAddr, pin: KeyPin) -> Result<Self, rustls::Error> {
        Ok(Self { client: Arc::new(Client::new(address, pin)?) })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.client.address()
    }

    /// Trades the token for a session.
    pub(crate) async fn enrol(&self, request: &EnrolRequest) -> Result<(EnrolReply, Session), ApiError> {
        let json = to_json(paths::ENROL, request)?;
        let call = Call { json: Some(json), ..plain(Method::POST, paths::ENROL.to_owned()) };
        let reply: EnrolReply = read_json(paths::ENROL, &self.client.call(&call).await?)?;
        let session = Session { client: Arc::clone(&self.client), secret: reply.session.as_str().into() };
        Ok((reply, session))
    }
}

impl Session {
    /// A session with nobody.
    #[cfg(test)]
    pub(crate) fn with_nobody() -> Self {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let pin = KeyPin::parse(&"00".repeat(32)).unwrap();
        Self { client: Arc::new(Client::new(nobody, pin).unwrap()), secret: "none".into() }
    }

    /// Waits up to about 25 s for a task; `None` while there is none.
    pub(crate) async fn task(&self) -> Result<Option<SignedTask>, ApiError> {
        let path = format!("{}?wait_s={}", paths::TASK, LONG_POLL.as_secs());
        let call = Call { limit: LONG_POLL + CALL_LIMIT, answer_bytes_max: TASK_BYTES_MAX, ..self.get(path) };
        let answer = self.client.call(&call).await?;
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        read_json(paths::TASK, &answer).map(Some)
    }

    /// Sends one batch of news.
    pub(crate) async fn report(&self, request: &ReportRequest) -> Result<ReportReply, ApiError> {
        let call = Call {
            session: Some(self.secret.to_string()),
            json: Some(to_json(paths::REPORT, request)?),
            ..plain(Method::POST, paths::REPORT.to_owned())
        };
        read_json(paths::REPORT, &self.client.call(&call).await?)
    }

    /// One object of the boot bundle's store; the caller checks its hash.
    pub(crate) async fn object(&self, hash: &str) -> Result<Vec<u8>, ApiError> {
        let path = format!("{}/{hash}", paths::OBJECTS);
        let call = Call { answer_bytes_max: OBJECT_BYTES_MAX, limit: TRANSFER_LIMIT, ..self.get(path) };
        Ok(self.client.call(&call).await?.body.to_vec())
    }

    /// The concatenated piece hashes of an image; the caller checks them against the manifest.
    pub(crate) async fn piece_hashes(&self, image_id: &str) -> Result<Vec<u8>, ApiError> {
        let path = format!("{}/{image_id}/pieces", paths::IMAGES);
        let call = Call { answer_bytes_max: PIECE_HASHES_BYTES_MAX, limit: TRANSFER_LIMIT, ..self.get(path) };
        Ok(self.client.call(&call).await?.body.to_vec())
    }

    /// A range of an image's bytes.
    async fn image_range(&self, image_id: &str, offset: u64, len: u64) -> Result<Vec<u8>, ApiError> {
        let path = format!("{}/{image_id}/data", paths::IMAGES);
        let bad = || ApiError::Request { path: path.clone() };
        let last = offset.checked_add(len).and_then(|end| end.checked_sub(1)).ok_or_else(bad)?;
        let bytes_max = usize::try_from(len).ok().filter(|_| len <= RANGE_BYTES_MAX).ok_or_else(bad)?;
        let call = Call {
            range: Some((offset, last)),
            answer_bytes_max: bytes_max,
            limit: TRANSFER_LIMIT,
            ..self.get(path.clone())
        };
        let answer = self.client.call(&call).await?;
        // A server that ignored the range would send the beginning of the file.
        if answer.status != StatusCode::PARTIAL_CONTENT || answer.body.len() != bytes_max {
            return Err(ApiError::Body { path, limit: bytes_max });
        }
        Ok(answer.body.to_vec())
    }

    fn get(&self, path: String) -> Call {
        Call { session: Some(self.secret.to_string()), ..plain(Method::GET, path) }
    }
}

/// An image's bytes over HTTPS, for when no peer has a piece.
pub(crate) struct ImageRanges {
    session: Session,
    image_id: String,
}

impl ImageRanges {
    pub(crate) const fn new(session: Session, image_id: String) -> Self {
        Self { session, image_id }
    }

    /// Reads `len` bytes at `offset`.
    pub(crate) fn read(
        &self,
        offset: u64,
        len: u64,
    ) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<u8>>> + Send>> {
        let (session, image_id) = (self.session.clone(), self.image_id.clone());
        Box::pin(
            async move { session.image_range(&image_id, offset, len).await.map_err(std::io::Error::other) },
        )
    }
}

const fn plain(method: Method, path: String) -> Call {
    Call {
        method,
        path,
        session: None,
        json: None,
        range: None,
        limit: CALL_LIMIT,
        answer_bytes_max: SMALL_ANSWER_BYTES_MAX,
    }
}

fn to_json(path: &str, value: &impl serde::Serialize) -> Result<String, ApiError> {
    serde_json::to_string(value).map_err(|_| ApiError::Request { path: path.to_owned() })
}

fn read_json<T: DeserializeOwned>(path: &str, answer: &Answer) -> Result<T, ApiError> {
    serde_json::from_slice(&answer.body)
        .map_err(|source| ApiError::Malformed { path: path.to_owned(), source })
}
