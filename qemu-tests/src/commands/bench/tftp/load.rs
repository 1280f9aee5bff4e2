//! Many nodes that fetch one file by TFTP, as firmware does: size first, then the file.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tftp::{Fetch, FetchOptions, FetchOutcome, ReadRequest};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Longer than the largest block that is asked for.
const PACKET_BYTES_MAX: usize = 2048;
/// The first node's address; see `boot_bed`.
const FIRST: u32 = u32::from_be_bytes([10, 79, 1, 1]);
/// Whoever is not done by then never will be.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is fetched, and how.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) server: SocketAddrV4,
    pub(crate) request: ReadRequest,
    pub(crate) bytes: u64,
    pub(crate) nodes: u32,
}

/// From the first request to the last block of the last node.
pub(crate) async fn load(order: Order) -> Result<Duration> {
    let mut nodes = JoinSet::new();
    let mut sockets = Vec::new();
    for number in 0..order.nodes {
        let local = SocketAddrV4::new(Ipv4Addr::from(FIRST + number), 0);
        sockets.push(UdpSocket::bind(local).await.with_context(|| format!("opening a socket of {local}"))?);
    }
    let began = Instant::now();
    for socket in sockets {
        let order = order.clone();
        nodes.spawn(async move {
            let options = FetchOptions { request: order.request, size_only: false };
            let fetched =
                tokio::time::timeout(DEADLINE, fetch(&socket, order.server, options, &mut |_| {})).await;
            match fetched.context("a node is not done in time")?? {
                (FetchOutcome::Complete, bytes) if bytes == order.bytes => Ok(()),
                (outcome, bytes) => bail!("a node got {bytes} of {} bytes: {outcome:?}", order.bytes),
            }
        });
    }
    while let Some(node) = nodes.join_next().await {
        node.context("a node panicked")??;
    }
    Ok(began.elapsed())
}

/// One file over `socket`; how it ended, and its bytes.
pub(crate) async fn fetch(
    socket: &UdpSocket,
    server: SocketAddrV4,
    options: FetchOptions,
    keep: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<(FetchOutcome, u64)> {
    let mut fetch = Fetch::start(options, Instant::now());
    let (mut to, mut buffer) = (SocketAddr::V4(server), vec![0; PACKET_BYTES_MAX]);
    loop {
        if let Some(out) = fetch.poll_send() {
            socket.send_to(&out, to).await?;
        }
        let (None, Some(deadline)) = (fetch.outcome(), fetch.poll_timeout()) else {
            return Ok((fetch.outcome().unwrap_or(FetchOutcome::Broken), fetch.bytes()));
        };
        match tokio::time::timeout_at(deadline.into(), socket.recv_from(&mut buffer)).await {
            Ok(received) => {
                let (len, from) = received?;
                // The server's port for this transfer is that of its first answer (RFC 1350 section 4).
                if to == SocketAddr::V4(server) {
                    to = from;
                }
                if from == to {
                    let packet = buffer.get(..len).unwrap_or_default();
                    fetch.handle_packet(Instant::now(), packet, &mut |block| keep(block));
                }
            }
            Err(_) => fetch.handle_timeout(Instant::now()),
        }
    }
}
