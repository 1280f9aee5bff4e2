//! The dashboard: one page with its style and script inside, nothing from elsewhere.
//!
//! Never puts a node's text into markup: the script sets text only, and the page allows no script but its own.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

static DASHBOARD: LazyLock<(String, String)> = LazyLock::new(|| {
    let html = PAGE.replace("/* style.css */", STYLE).replace("/* script.js */", SCRIPT);
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(Sha256::digest(text.as_bytes())));
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src data:; script-src {}; style-src {}; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    (html, policy)
});

/// The page, with a policy that lets only its own script run (W3C Content Security Policy Level 3).
pub(crate) fn page() -> Response {
    let (html, policy) = &*DASHBOARD;
    ([(header::CONTENT_SECURITY_POLICY, policy.as_str())], Html(html.as_str())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_whole_and_asks_nothing_of_others() {
        let (html, _) = &*DASHBOARD;
        assert!(html.contains(STYLE) && html.contains(SCRIPT));
        assert!(!html.contains("/* script.js */") && !html.contains("/* style.css */"));
        for outside in ["https://", "//cdn", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!SCRIPT.contains(markup), "{markup} would let a node's text become markup");
        }
    }
}
