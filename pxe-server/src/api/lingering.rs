//! Reads on after an answer that came before the request's end, so that the client hears the answer.
//!
//! A client that is still sending when the server closes sees a broken pipe and never the refusal
//! (RFC 9112 section 9.6). Never keeps what it reads, and reads neither much nor for long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

/// Twice the largest request that is taken.
const LINGER_BYTES_MAX: usize = 8 << 20;
/// A gigabit link carries as much in a tenth of it.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Middleware: what a handler left of a request's body is read and dropped behind its answer.
pub(crate) async fn with_lingering(request: Request, next: Next) -> Response {
    next.run(request.map(|body| Body::new(Lingering(body)))).await
}

struct Lingering(Body);

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.0.is_end_stream() {
            return;
        }
        let rest = std::mem::take(&mut self.0);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(timeout(LINGER_TIME, read_away(rest)));
        }
    }
}

async fn read_away(mut body: Body) {
    let mut left = LINGER_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
