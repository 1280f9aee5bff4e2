//! The server's admin API, as a person with a browser on the server sees it.
//!
//! Never keeps an answer: each question is asked anew, so that a story sees what the server knows now.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admin::node::NodeView;

pub mod node;

/// One question and its answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// All nodes of a lab with their logs.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Asks one server.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    pub(crate) const fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Where the API is, from outside the namespace.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every node that the server knows.
    ///
    /// # Errors
    /// No server, or an answer that is not a list of nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>> {
        self.get("/v1/nodes").await
    }

    /// One node with its history.
    ///
    /// # Errors
    /// No server, or no such node.
    pub async fn node(&self, name: &str) -> Result<NodeView> {
        self.get(&format!("/v1/nodes/{name}")).await
    }

    /// The JSON at a path as a value.
    ///
    /// # Errors
    /// No answer in time, a status that is not 200, or other JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let asking = || format!("asking http://{}{path}", self.address);
        let answer = timeout(ANSWER_MAX, self.ask(path)).await.with_context(asking)?.with_context(asking)?;
        serde_json::from_slice(&answer).with_context(asking)
    }

    async fn ask(&self, path: &str) -> Result<Bytes> {
        let stream = TokioIo::new(TcpStream::connect(self.address).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let driver = tokio::spawn(connection);
        let request = hyper::Request::get(path).header(HOST, self.address.to_string());
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        driver.abort();
        let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?.to_bytes();
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&body).trim());
        }
        Ok(body)
    }
}
