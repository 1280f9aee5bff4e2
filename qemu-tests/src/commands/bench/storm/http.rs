//! HTTP as iPXE and agents speak it, one request per connection, and the serving side of nodes that came up.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::faults::Faults;

/// Read at a time; iPXE's window in the build that Debian has.
const READ_BYTES: usize = 256 << 10;
/// A head that is longer is no answer.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Nothing comes for so long: the node gives up and begins again.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Scripts are far smaller.
const SCRIPT_BYTES_MAX: u64 = 64 << 10;
/// How long a node stalls, and leaves a connection half open.
const STALL: Duration = Duration::from_secs(3);

/// What the server said.
#[derive(Debug)]
pub(super) enum Got {
    /// The whole body went to `keep`.
    Done,
    /// 302 to this address, with the path there.
    SentTo(SocketAddrV4, String),
    /// 503: ask again after so long.
    Later(Duration),
}

/// One GET from `from`; `keep` gets the body and says whether it is what it should be.
pub(super) async fn get(
    from: Ipv4Addr,
    to: SocketAddrV4,
    (path, agent): (&str, &str),
    faults: &mut Faults,
    keep: &mut (dyn FnMut(&[u8]) -> bool + Send),
) -> Result<Got> {
    if faults.strikes() {
        leave_half_open(from, to);
    }
    let mut stream = connect(from, to).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; READ_BYTES];
    let (head, mut body) = read_head(&mut stream, &mut buffer).await?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    match head.split(' ').nth(1) {
        Some("200") => {}
        Some("302") => {
            let location = header("location").context("302 without location")?;
            let (address, path) =
                location.trim_start_matches("http://").split_once('/').context("no path")?;
            return Ok(Got::SentTo(
                address.parse().context("no address in the location")?,
                format!("/{path}"),
            ));
        }
        Some("503") => {
            let seconds = header("retry-after").and_then(|text| text.parse().ok()).unwrap_or(5);
            return Ok(Got::Later(Duration::from_secs(seconds)));
        }
        _ => bail!("{to}{path}: {}", head.lines().next().unwrap_or_default()),
    }
    let length: u64 = header("content-length").and_then(|text| text.parse().ok()).context("no length")?;
    let breaks_off = faults.strikes().then(|| u64::from(faults.below(100)) * length / 100);
    let stalls = faults.strikes().then(|| u64::from(faults.below(100)) * length / 100);
    let (mut got, mut stalled) = (0, false);
    while got < length {
        if body.is_empty() {
            let len = timeout(SILENCE_MAX, stream.read(&mut buffer)).await.context("silence")??;
            ensure!(len > 0, "{to} closed after {got} of {length} bytes");
            body = 0..len;
        }
        let bytes = buffer.get(body.clone()).unwrap_or_default();
        ensure!(keep(bytes), "{to} sent other bytes");
        got += bytes.len() as u64;
        body = 0..0;
        ensure!(breaks_off.is_none_or(|at| got < at), "the node broke off, as it was told to");
        if !stalled && stalls.is_some_and(|at| got >= at) {
            stalled = true;
            sleep(STALL).await;
        }
    }
    ensure!(got == length, "{to} sent more than it said");
    Ok(Got::Done)
}

/// A small answer as text.
pub(super) async fn get_text(
    from: Ipv4Addr,
    to: SocketAddrV4,
    path: &str,
    faults: &mut Faults,
) -> Result<String> {
    let mut text = Vec::new();
    let mut keep = |bytes: &[u8]| {
        text.extend_from_slice(bytes);
        text.len() as u64 <= SCRIPT_BYTES_MAX
    };
    match get(from, to, (path, "iPXE/1.0.0+"), faults, &mut keep).await? {
        Got::Done => Ok(String::from_utf8(text)?),
        other => bail!("{path}: {other:?}"),
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddrV4) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    timeout(SILENCE_MAX, socket.connect(to.into())).await.context("no answer")?.context("connecting")
}

/// Begins a request on a connection that is then forgotten for a while.
fn leave_half_open(from: Ipv4Addr, to: SocketAddrV4) {
    tokio::spawn(async move {
        if let Ok(mut stream) = connect(from, to).await {
            let _ = stream.write_all(b"GET /boot/x HTTP/1.1\r\nHost:").await;
            sleep(STALL * 10).await;
        }
    });
}

/// The head, and where in `buffer` the body has begun.
async fn read_head(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(String, std::ops::Range<usize>)> {
    let mut len = 0;
    loop {
        let space =
            buffer.get_mut(len..HEAD_BYTES_MAX).filter(|space| !space.is_empty()).context("a long head")?;
        let more = timeout(SILENCE_MAX, stream.read(space)).await.context("silence")??;
        ensure!(more > 0, "closed before the answer");
        len += more;
        let read = buffer.get(..len).unwrap_or_default();
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default()).into_owned();
            return Ok((head, end + 4..len));
        }
    }
}

/// Nodes that serve, by address; one listener answers for all of them.
#[derive(Clone, Default)]
pub(super) struct Peers {
    up: Arc<Mutex<HashSet<Ipv4Addr>>>,
}

impl Peers {
    /// The node at this address serves from now on.
    pub(super) fn add(&self, node: Ipv4Addr) {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
    }

    /// Serves kernel and initrd on every node's address; who is not up hangs up.
    pub(super) async fn serve(&self, port: u16, kernel: Arc<[u8]>, initrd: Arc<[u8]>) -> Result<()> {
        let listener =
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.context("opening the peers' port")?;
        let peers = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let up = match stream.local_addr().map(|local| SocketAddr::ip(&local)) {
                    Ok(IpAddr::V4(local)) => {
                        peers.up.lock().unwrap_or_else(PoisonError::into_inner).contains(&local)
                    }
                    Ok(IpAddr::V6(_)) | Err(_) => false,
                };
                if up {
                    let files = (Arc::clone(&kernel), Arc::clone(&initrd));
                    tokio::spawn(async move {
                        // Who breaks off loses only its own file.
                        let _ = answer(stream, files).await;
                    });
                }
            }
        });
        Ok(())
    }
}

async fn answer(mut stream: TcpStream, (kernel, initrd): (Arc<[u8]>, Arc<[u8]>)) -> Result<()> {
    let mut buffer = vec![0; HEAD_BYTES_MAX];
    let (head, _) = read_head(&mut stream, &mut buffer).await?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let file = if path.ends_with("/vmlinuz") { kernel } else { initrd };
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len()).as_bytes()).await?;
    stream.write_all(&file).await?;
    Ok(())
}
