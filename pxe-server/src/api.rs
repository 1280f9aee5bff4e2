//! What both APIs share: refusals as JSON, files and work off the async threads.

mod lingering;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::channel::Channel;
use tokio::time::timeout;

pub(crate) use lingering::with_lingering;

/// The longest long poll and a margin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// Of a file that is sent; one read and one write of the socket each.
const SEND_BYTES: usize = 256 << 10;
/// Pieces of a body that are read ahead of the socket.
const SEND_AHEAD: usize = 2;
/// A reader that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// A refusal: a status and one sentence, `{"error": "..."}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    sentence: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }

    /// The session is of no node, or of an earlier boot.
    pub(crate) fn unknown_session() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "the session is unknown; enrol again")
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }

    /// Something of the server failed; the chain goes to the log, not to the caller.
    pub(crate) fn internal(error: &anyhow::Error) -> Self {
        tracing::error!("{error:#}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed; its log says why")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(serde_json::json!({ "error": self.sentence }))).into_response()
    }
}

/// Runs what blocks for milliseconds, such as a commit, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("running blocking work")
}

/// Middleware: a request that is not read and answered in time is dropped.
pub(crate) async fn with_deadline(request: Request, next: Next) -> Response {
    match timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
    }
}

/// Sends a file, or the one range of it that the headers ask for (RFC 9110 section 14).
pub(crate) async fn send_file(path: &Path, headers: &HeaderMap) -> Result<Response> {
    let reading = path.to_owned();
    let (file, length) = blocking(move || -> Result<(File, u64)> {
        let file = File::open(&reading).with_context(|| format!("opening {}", reading.display()))?;
        let length = file.metadata()?.len();
        Ok((file, length))
    })
    .await??;
    let range =
        headers.get(header::RANGE).map(|range| parse_range(range.to_str().unwrap_or_default(), length));
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes");
    let range = match range {
        None | Some(RangeAnswer::Ignore) => 0..length,
        Some(RangeAnswer::Part(range)) => {
            let shown = format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1));
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, shown);
            range
        }
        Some(RangeAnswer::Outside) => {
            let response = response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            return Ok(response
                .header(header::CONTENT_RANGE, format!("bytes */{length}"))
                .body(Body::empty())?);
        }
    };
    let response = response.header(header::CONTENT_LENGTH, range.end - range.start);
    Ok(response.body(file_body(file, range))?)
}

fn file_body(file: File, mut range: Range<u64>) -> Body {
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(SEND_AHEAD);
    tokio::spawn(async move {
        let file = Arc::new(file);
        while range.start < range.end {
            let want = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(SEND_BYTES);
            let (reading, offset) = (Arc::clone(&file), range.start);
            let read = blocking(move || {
                let mut bytes = vec![0; want];
                reading.read_exact_at(&mut bytes, offset).map(|()| bytes)
            });
            let bytes = match read.await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => return sender.abort(error),
                Err(error) => return sender.abort(std::io::Error::other(error)),
            };
            if !matches!(timeout(SEND_TIMEOUT, sender.send_data(bytes.into())).await, Ok(Ok(()))) {
                return;
            }
            range.start += want as u64;
        }
    });
    Body::new(body)
}

#[derive(Debug, PartialEq, Eq)]
enum RangeAnswer {
    /// Not a range that we serve: the whole file is a right answer.
    Ignore,
    Part(Range<u64>),
    Outside,
}

fn parse_range(text: &str, length: u64) -> RangeAnswer {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return RangeAnswer::Ignore;
    };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..length,
        (Err(_), Ok(last)) if first.trim().is_empty() => length.saturating_sub(last)..length,
        _ => return RangeAnswer::Ignore,
    };
    if range.start >= range.end { RangeAnswer::Outside } else { RangeAnswer::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_web_seeds_are_read_and_nonsense_is_ignored() {
        let check =
            |text: &str, expected: RangeAnswer| assert_eq!(parse_range(text, 100), expected, "{text}");
        check("bytes=0-9", RangeAnswer::Part(0..10));
        check("bytes=90-200", RangeAnswer::Part(90..100));
        check("bytes=90-", RangeAnswer::Part(90..100));
        check("bytes=-5", RangeAnswer::Part(95..100));
        check("bytes=-500", RangeAnswer::Part(0..100));
        check("bytes=100-", RangeAnswer::Outside);
        check("bytes=5-18446744073709551615", RangeAnswer::Part(5..100));
        check("bytes=9-5", RangeAnswer::Ignore);
        check("bytes=0-1,5-6", RangeAnswer::Ignore);
        check("pieces=1-2", RangeAnswer::Ignore);
    }
}
