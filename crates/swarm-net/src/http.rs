//! A small HTTP/1.1 GET for announces and web seeds: plain, literal IP addresses only, everything bounded.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Longest response head taken.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Longest time for a whole exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a GET failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not `http://IP:PORT/...`.
    #[error("{0:?} is not a plain http URL with a literal address")]
    Url(String),
    /// No connection, or it broke.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no complete answer within {} s", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
    /// Not HTTP, or larger than allowed.
    #[error("the answer is malformed or too long")]
    Malformed,
    /// Not a success.
    #[error("the answer is status {0}")]
    Status(u16),
}

/// The body of `http://IP:PORT/PATH`, if the answer is a success and the body not longer than `body_bytes_max`.
pub async fn http_get(url: &str, body_bytes_max: usize) -> Result<Vec<u8>, HttpError> {
    Get { url: Url::parse(url)?, range: None, body_bytes_max, local: None }.run().await
}

/// A URL taken apart: no names are resolved, so nothing but the given address is ever contacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Url, HttpError> {
        let bad = || HttpError::Url(text.chars().take(200).collect());
        let rest = text.strip_prefix("http://").ok_or_else(bad)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let address = authority
            .parse()
            .or_else(|_| authority.trim_matches(['[', ']']).parse().map(|ip| SocketAddr::new(ip, 80)))
            .map_err(|_| bad())?;
        if path.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
            return Err(bad());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { address, path })
    }
}

/// One GET.
#[derive(Clone, Debug)]
pub(crate) struct Get {
    pub(crate) url: Url,
    /// First byte and length: the success is then status 206, else 200.
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) body_bytes_max: usize,
    /// Where to connect from, if that matters.
    pub(crate) local: Option<IpAddr>,
}

impl Get {
    pub(crate) async fn run(&self) -> Result<Vec<u8>, HttpError> {
        timeout(EXCHANGE_TIMEOUT, exchange(self)).await.unwrap_or(Err(HttpError::Timeout))
    }
}

/// Connects to `address`, from `local` if it is a particular address of the same family.
pub(crate) async fn connect(address: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local.filter(|local| !local.is_unspecified() && local.is_ipv4() == address.is_ipv4())
    {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(address).await
}

async fn exchange(get: &Get) -> Result<Vec<u8>, HttpError> {
    let Get { url, range, body_bytes_max, local } = get;
    let body_bytes_max = *body_bytes_max;
    let mut stream = connect(url.address, *local).await?;
    let range = match range {
        Some((first, length)) => format!("Range: bytes={first}-{}\r\n", first + (*length).max(1) - 1),
        None => String::new(),
    };
    let Url { address, path } = url;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{range}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // Chunked framing adds less than this to a body.
    let bytes_max = HEAD_BYTES_MAX + body_bytes_max + body_bytes_max / 4 + 1024;
    let mut answer = Vec::new();
    stream.take(bytes_max as u64).read_to_end(&mut answer).await?;
    let (status, body) = parse_answer(&answer)?;
    let wanted = if range.is_empty() { 200 } else { 206 };
    if status != wanted {
        return Err(HttpError::Status(status));
    }
    if body.len() > body_bytes_max { Err(HttpError::Malformed) } else { Ok(body) }
}

/// Status and body of a complete answer.
fn parse_answer(answer: &[u8]) -> Result<(u16, Vec<u8>), HttpError> {
    let head_length = answer.windows(4).take(HEAD_BYTES_MAX).position(|four| four == b"\r\n\r\n");
    let (head, body) =
        answer.split_at_checked(head_length.ok_or(HttpError::Malformed)?).ok_or(HttpError::Malformed)?;
    let body = body.get(4..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| HttpError::Malformed)?;
    let mut lines = head.split("\r\n");
    let mut status_line = lines.next().unwrap_or_default().split(' ');
    let version = status_line.next().unwrap_or_default();
    let status = status_line.next().and_then(|code| code.parse().ok());
    let status = status.filter(|_| version.starts_with("HTTP/1.")).ok_or(HttpError::Malformed)?;
    let header = |name: &str| {
        lines.clone().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Ok((status, unchunk(body).ok_or(HttpError::Malformed)?));
    }
    let Some(length) = header("content-length") else { return Ok((status, body.to_vec())) };
    let length: usize = length.parse().map_err(|_| HttpError::Malformed)?;
    Ok((status, body.get(..length).ok_or(HttpError::Malformed)?.to_vec()))
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = rest.windows(2).take(64).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(rest.get(..line_end)?).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        let chunk = rest.get(line_end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunk.get(..size)?);
        rest = chunk.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_name_an_address_or_are_refused() {
        let url = |text: &str| Url::parse(text).map(|url| (url.address.to_string(), url.path)).ok();
        let some = |address: &str, path: &str| Some((address.to_owned(), path.to_owned()));
        assert_eq!(url("http://10.0.0.1:81/announce"), some("10.0.0.1:81", "/announce"));
        assert_eq!(url("http://10.0.0.1"), some("10.0.0.1:80", "/"));
        assert_eq!(url("http://10.0.0.1?a"), some("10.0.0.1:80", "/?a"));
        assert_eq!(url("http://[::1]:81/x"), some("[::1]:81", "/x"));
        assert_eq!(url("http://[::1]/x"), some("[::1]:80", "/x"));
        for bad in [
            "https://10.0.0.1/",
            "http://server/",
            "ftp://10.0.0.1",
            "http://10.0.0.1/a b",
            "http://10.0.0.1/\r\n",
        ] {
            assert_eq!(url(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_body_comes_by_length_by_chunks_or_to_the_end() {
        let body = |answer: &[u8]| parse_answer(answer).map(|(_, body)| body).ok();
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd").unwrap(), b"abc");
        assert_eq!(
            body(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n")
                .unwrap(),
            b"abcd"
        );
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nabc").unwrap(), b"abc");
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), None, "cut short");
        assert_eq!(body(b"SSH-2.0\r\n\r\n"), None);
        assert_eq!(parse_answer(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap().0, 404);
    }

    proptest! {
        #[test]
        fn any_answer_is_parsed_or_refused(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_answer(&answer);
            let _ = unchunk(&answer);
        }
    }
}
