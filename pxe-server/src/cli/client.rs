//! Talks to the admin API.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Connect and answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Reports of a hundred deployments of a thousand nodes.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// One server-sent event; a snapshot of 20,000 nodes.
const EVENT_BYTES_MAX: usize = 256 << 20;

/// One server's admin API.
pub(super) struct AdminClient {
    url: String,
    authority: String,
}

/// Server-sent events, as they come.
pub(super) struct EventStream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl AdminClient {
    pub(super) fn new(url: &str) -> Result<Self> {
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let authority = authority.filter(|authority| !authority.is_empty() && !authority.contains('/'));
        let authority = authority
            .ok_or_else(|| anyhow!("--admin {url} cannot be used; write http://ADDRESS:PORT"))?
            .to_owned();
        let authority = if authority.contains(':') { authority } else { format!("{authority}:80") };
        Ok(Self { url: url.to_owned(), authority })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.json(Method::POST, path, serde_json::to_vec(body)?.into()).await
    }

    /// Opens the stream of events.
    pub(super) async fn events(&self) -> Result<EventStream> {
        let response = self.send(Method::GET, "/v1/events", Bytes::new()).await?;
        Ok(EventStream { body: response.into_body(), buffer: Vec::new() })
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let response = self.send(method, path, body).await?;
        let body =
            read_all(response).await.with_context(|| format!("reading the answer of {}{path}", self.url))?;
        serde_json::from_slice(&body).with_context(|| {
            format!("{}{path} answers otherwise than this program expects; use the same version", self.url)
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let not_there = || {
            format!(
                "no pxe-server answers at {}; start `pxe-server serve` or name it by --admin http://ADDRESS:PORT",
                self.url
            )
        };
        let exchange = async {
            let stream = TcpStream::connect(&self.authority).await.with_context(not_there)?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(not_there)?;
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, &self.authority)
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body))?;
            sender.send_request(request).await.with_context(not_there)
        };
        let response = timeout(ANSWER_TIMEOUT, exchange).await.with_context(not_there)??;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = read_all(response).await.unwrap_or_default();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        match body.get("error").and_then(|error| error.as_str()) {
            Some(sentence) => bail!("{sentence}"),
            None => bail!("{} answers {status}", self.url),
        }
    }
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
    let body = timeout(ANSWER_TIMEOUT, body).await?.map_err(|error| anyhow!("{error}"))?;
    Ok(body.to_bytes())
}

impl EventStream {
    /// Name and data of the next event; `None` when the server closes the stream.
    pub(super) async fn next(&mut self) -> Result<Option<(String, String)>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(Some(parse_event(&String::from_utf8_lossy(&event))));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Some(data) = frame.context("reading events")?.data_ref() {
                self.buffer.extend_from_slice(data);
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                bail!("the server sends an event without an end");
            }
        }
    }
}

fn parse_event(text: &str) -> (String, String) {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    (field("event:").to_owned(), field("data:").to_owned())
}
