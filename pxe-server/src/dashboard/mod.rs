//! The dashboard: one page with everything in it.

use axum::response::{Html, IntoResponse as _, Response};

/// The page.
pub(crate) fn page() -> Response {
    Html("<!doctype html>").into_response()
}
