//! Announces to the tracker.

use crate::http::{Get, HttpError, Url};
use std::net::IpAddr;
use swarm::tracker::{AnnounceReply, AnnounceRequest};

/// Longest reply taken: 50 compact peers are 300 bytes; a thousand in BEP 3's long form some 80 KiB.
const REPLY_BYTES_MAX: usize = 128 * 1024;

/// Why an announce failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    #[error("asking the tracker")]
    Http(#[from] HttpError),
    #[error("reading the tracker's reply")]
    Reply(#[from] swarm::tracker::MalformedReply),
}

/// Announces once; the tracker takes the address that the connection comes from for the peer's.
pub(crate) async fn announce(
    url: &Url,
    local: IpAddr,
    request: &AnnounceRequest,
) -> Result<AnnounceReply, AnnounceError> {
    let separator = if url.path.contains('?') { '&' } else { '?' };
    let path = format!("{}{separator}{}", url.path, request.to_query());
    let url = Url { address: url.address, path };
    let get = Get { url, range: None, body_bytes_max: REPLY_BYTES_MAX, local: Some(local) };
    Ok(AnnounceReply::parse(&get.run().await?)?)
}
