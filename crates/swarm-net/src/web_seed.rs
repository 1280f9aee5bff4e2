//! Pieces over HTTP, for when no peer gives them (BEP 19's idea, by ranges).

use crate::http::{Get, HttpError, Url};
use std::future::Future;
use std::io;
use std::pin::Pin;

/// Fetches ranges of the torrent's file.
pub trait WebSeed: Send + Sync {
    /// The `len` bytes from `offset` on; fewer or more are an error.
    fn fetch(&self, offset: u64, len: u64) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send>>;
}

/// A web seed over plain HTTP range requests.
#[derive(Clone, Debug)]
pub struct HttpWebSeed {
    url: Url,
}

impl HttpWebSeed {
    /// The file at `url`: `http://IP:PORT/PATH`.
    pub fn new(url: &str) -> Result<HttpWebSeed, HttpError> {
        Ok(HttpWebSeed { url: Url::parse(url)? })
    }
}

impl WebSeed for HttpWebSeed {
    fn fetch(&self, offset: u64, len: u64) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send>> {
        let url = self.url.clone();
        Box::pin(async move {
            let body_bytes_max = usize::try_from(len).map_err(io::Error::other)?;
            let get = Get { url, range: Some((offset, len)), body_bytes_max, local: None };
            get.run().await.map_err(io::Error::other)
        })
    }
}
