//! Whole or in part: ranges, their conditions and the headers of the answer (RFC 9110 sections 13 and 14).
//!
//! Never sends a body without its length.

use std::ops::Range;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};

/// Bytes that can be had, under the name that says how they are to be taken.
pub(super) struct Content<'a> {
    pub(super) name: &'a str,
    pub(super) bytes: &'a Bytes,
    /// Strong entity tag without its quotes: other bytes, other tag.
    pub(super) tag: String,
}

/// The one range that is asked for: `None` for the whole, `Err` for one beyond the end. Several ranges are answered
/// with the whole, as RFC 9110 section 14.2 allows; so is a range of what has changed since (If-Range).
pub(super) fn wanted_range(
    method: &Method,
    headers: &HeaderMap,
    tag: &str,
    len: u64,
) -> Option<Result<Range<u64>, ()>> {
    let text = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    // Ranges are defined for GET alone.
    if method != Method::GET || headers.get(IF_RANGE).is_some_and(|wanted| !is_tag(wanted, tag)) {
        return None;
    }
    let (first, last) = text.split_once('-')?;
    let digits = |text: &str| {
        let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| all)
    };
    let range = match (first, last) {
        ("", suffix) => len.saturating_sub(digits(suffix)?)..len,
        (first, "") => digits(first)?..len,
        (first, last) => {
            let (first, last) = (digits(first)?, digits(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(len)
        }
    };
    Some(if range.start < range.end { Ok(range) } else { Err(()) })
}

/// Dates and weak tags never match: what we send has neither (RFC 9110 section 13.1.5).
fn is_tag(wanted: &HeaderValue, tag: &str) -> bool {
    wanted.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"')) == Some(tag)
}

/// 200, 206 or 416 with the exact length; `make` turns the wanted bytes into a body.
pub(super) fn answer(
    method: &Method,
    headers: &HeaderMap,
    content: &Content<'_>,
    make: impl FnOnce(Bytes) -> Body,
) -> Response {
    let len = content.bytes.len() as u64;
    let (status, range) = match wanted_range(method, headers, &content.tag, len) {
        None => (StatusCode::OK, 0..len),
        Some(Ok(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(Err(())) => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            let unsatisfied = HeaderValue::try_from(format!("bytes */{len}"));
            response.headers_mut().extend(unsatisfied.ok().map(|value| (CONTENT_RANGE, value)));
            return response;
        }
    };
    let (begin, end) = (
        usize::try_from(range.start).unwrap_or(0),
        usize::try_from(range.end).unwrap_or(content.bytes.len()),
    );
    let mut response = Response::new(make(content.bytes.slice(begin..end.max(begin))));
    *response.status_mut() = status;
    // QUIRK(edk2): what is no `.efi` by name or type is not started; HttpBootDxe, HttpBootImageType.
    let kind = if content.name.ends_with(".efi") { "application/efi" } else { "application/octet-stream" };
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    out.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    out.extend(HeaderValue::try_from(format!("\"{}\"", content.tag)).ok().map(|tag| (ETAG, tag)));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = HeaderValue::try_from(format!("bytes {}-{}/{len}", range.start, range.end - 1))
    {
        out.insert(CONTENT_RANGE, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read_and_everything_else_is_the_whole() {
        let check = |range: &'static str,
                     if_range: &'static str,
                     expected: Option<Result<Range<u64>, ()>>| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_static(range));
            if !if_range.is_empty() {
                headers.insert(IF_RANGE, HeaderValue::from_static(if_range));
            }
            assert_eq!(wanted_range(&Method::GET, &headers, "t1", 100), expected, "{range} if {if_range}");
            assert_eq!(wanted_range(&Method::HEAD, &headers, "t1", 100), None, "HEAD has no ranges");
        };
        check("bytes=0-9", "", Some(Ok(0..10)));
        check("bytes=90-200", "", Some(Ok(90..100)));
        check("bytes=90-", "", Some(Ok(90..100)));
        check("bytes=-5", "", Some(Ok(95..100)));
        check("bytes=-500", "", Some(Ok(0..100)));
        check("bytes=5-18446744073709551615", "", Some(Ok(5..100)));
        check("bytes=100-", "", Some(Err(())));
        check("bytes=-0", "", Some(Err(())));
        for whole in
            ["bytes=9-5", "bytes=0-1,5-6", "bytes=+1-5", "bytes=1- 5", "pieces=1-2", "bytes=", "bytes=-"]
        {
            check(whole, "", None);
        }
        check("bytes=0-9", "\"t1\"", Some(Ok(0..10)));
        for changed in ["\"t2\"", "W/\"t1\"", "t1", "Sat, 21 Nov 2026 06:00:00 GMT"] {
            check("bytes=0-9", changed, None);
        }
    }
}
