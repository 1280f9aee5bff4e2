//! The TFTP server's sockets: one that listens, and one for each transfer (RFC 1350 section 4).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info, warn};

use super::FileSource;
use super::request::{Packet, ReadRequest, error, error_code, parse};
use super::transfer::{BLOCK_BYTES_MAX, Outcome, Transfer};
use crate::netboot::net;

/// Transfers at a time: with the files in memory each costs a socket and a few hundred bytes.
const TRANSFERS_MAX: usize = 512;
/// Transfers of one node at a time; firmware needs one, and one more that it has left behind.
const TRANSFERS_PER_NODE_MAX: usize = 8;
/// Requests and acknowledgements are far smaller.
const PACKET_BYTES_MAX: usize = 2048;

/// The running TFTP server. Dropping it stops it and all transfers.
pub(in crate::netboot) struct Tftp {
    task: JoinHandle<()>,
    counters: Arc<TftpCounters>,
}

/// What the server has done so far.
#[derive(Debug, Default)]
pub(in crate::netboot) struct TftpCounters {
    /// Transfers begun.
    pub(in crate::netboot) started: AtomicU64,
    /// Transfers whose last block was acknowledged.
    pub(in crate::netboot) complete: AtomicU64,
    /// Transfers that the node ended, such as size probes.
    pub(in crate::netboot) aborted: AtomicU64,
    /// Transfers whose node fell silent.
    pub(in crate::netboot) timed_out: AtomicU64,
    /// Requests for what there is not.
    pub(in crate::netboot) refused: AtomicU64,
    /// Requests left unanswered because too many transfers were under way.
    pub(in crate::netboot) overloaded: AtomicU64,
    /// Bytes of files that nodes have acknowledged.
    pub(in crate::netboot) bytes: AtomicU64,
}

impl Tftp {
    /// Binds `address` on `interface` and begins to answer.
    pub(in crate::netboot) fn start(
        interface: &str,
        address: SocketAddrV4,
        files: Arc<dyn FileSource>,
    ) -> anyhow::Result<Self> {
        let socket = net::bind_udp(interface, address)?;
        let counters = Arc::new(TftpCounters::default());
        let listener = Listener {
            interface: interface.to_owned(),
            local: *address.ip(),
            socket,
            files,
            counters: Arc::clone(&counters),
            active: HashMap::new(),
            transfers: JoinSet::new(),
        };
        Ok(Self { task: tokio::spawn(listener.run()), counters })
    }

    /// What the server has done so far.
    pub(in crate::netboot) fn counters(&self) -> &Arc<TftpCounters> {
        &self.counters
    }

    /// Stops and waits until the sockets are closed.
    pub(in crate::netboot) async fn shutdown(mut self) {
        self.task.abort();
        // Aborted is what we asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Tftp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Listener {
    interface: String,
    local: Ipv4Addr,
    socket: UdpSocket,
    files: Arc<dyn FileSource>,
    counters: Arc<TftpCounters>,
    /// What each node's port reads; a second request from it is either an echo or a change of mind.
    active: HashMap<SocketAddrV4, Active>,
    transfers: JoinSet<SocketAddrV4>,
}

struct Active {
    request: ReadRequest,
    task: tokio::task::AbortHandle,
}

impl Listener {
    async fn run(mut self) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        loop {
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((len, SocketAddr::V4(node))) => {
                        self.handle(node, buffer.get(..len).unwrap_or_default()).await;
                    }
                    Ok((_, SocketAddr::V6(_))) => {}
                    Err(error) => {
                        debug!(%error, "receiving TFTP failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(ended) = self.transfers.join_next() => {
                    if let Ok(node) = ended && self.active.get(&node).is_some_and(|active| active.task.is_finished()) {
                        self.active.remove(&node);
                    }
                }
            }
        }
    }

    async fn handle(&mut self, node: SocketAddrV4, bytes: &[u8]) {
        let request = match parse(bytes) {
            Some(Packet::Read(request)) => request,
            Some(Packet::Write) => {
                return self.refuse(node, error_code::ACCESS, "this server only reads").await;
            }
            // A transfer's own socket gets these; here they are strays.
            Some(Packet::Ack(_) | Packet::Error(_)) => return,
            None => return self.refuse(node, error_code::ILLEGAL, "not a TFTP request").await,
        };
        if let Some(active) = self.active.get(&node) {
            if active.request == request && !active.task.is_finished() {
                return;
            }
            active.task.abort();
            self.active.remove(&node);
        }
        let of_node = self.active.keys().filter(|active| active.ip() == node.ip()).count();
        if self.active.len() >= TRANSFERS_MAX || of_node >= TRANSFERS_PER_NODE_MAX {
            // No answer: firmware asks again in a second, but gives up on an error.
            self.counters.overloaded.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(file) = self.files.open(&request.name, *node.ip()) else {
            debug!(%node, file = %request.name.escape_debug(), "TFTP file not found");
            return self.refuse(node, error_code::NOT_FOUND, "no such file").await;
        };
        let socket = match self.transfer_socket(node).await {
            Ok(socket) => socket,
            Err(error) => return warn!(%node, %error, "no socket for a TFTP transfer"),
        };
        self.counters.started.fetch_add(1, Ordering::Relaxed);
        let counters = Arc::clone(&self.counters);
        let work = transfer(socket, node, request.clone(), file, counters);
        let task = self.transfers.spawn(async move {
            work.await;
            node
        });
        self.active.insert(node, Active { request, task });
    }

    async fn refuse(&self, node: SocketAddrV4, code: u16, text: &str) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.socket.send_to(&error(code, text), node).await {
            debug!(%node, %error, "sending a TFTP error failed");
        }
    }

    async fn transfer_socket(&self, node: SocketAddrV4) -> anyhow::Result<UdpSocket> {
        let socket = net::bind_udp(&self.interface, SocketAddrV4::new(self.local, 0))?;
        socket.connect(SocketAddr::new(IpAddr::V4(*node.ip()), node.port())).await?;
        Ok(socket)
    }
}

/// Runs one transfer to its end.
async fn transfer(
    socket: UdpSocket,
    node: SocketAddrV4,
    request: ReadRequest,
    file: Bytes,
    counters: Arc<TftpCounters>,
) {
    let mut transfer = Transfer::start(&request, file, Instant::now());
    let (mut out, mut input) =
        (Vec::with_capacity(usize::from(BLOCK_BYTES_MAX) + 4), vec![0; PACKET_BYTES_MAX]);
    let outcome = loop {
        while transfer.poll_send(Instant::now(), &mut out) {
            // A failed send is a lost packet: the timer deals with it.
            let _ = socket.send(&out).await;
        }
        let (None, Some(deadline)) = (transfer.outcome(), transfer.poll_timeout()) else {
            break transfer.outcome();
        };
        match tokio::time::timeout_at(deadline.into(), socket.recv(&mut input)).await {
            Ok(Ok(len)) => transfer.handle_packet(Instant::now(), input.get(..len).unwrap_or_default()),
            // The node's port is closed (ICMP): it has gone on without us.
            Ok(Err(_)) => break Some(Outcome::Aborted(0)),
            Err(_) => transfer.handle_timeout(Instant::now()),
        }
    };
    let bytes = transfer.acknowledged_bytes();
    counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    let file = request.name;
    match outcome {
        Some(Outcome::Complete) => {
            counters.complete.fetch_add(1, Ordering::Relaxed);
            info!(node = %node.ip(), file, bytes, "TFTP complete");
        }
        Some(Outcome::Aborted(code)) => {
            counters.aborted.fetch_add(1, Ordering::Relaxed);
            debug!(node = %node.ip(), file, code, "TFTP ended by the node, such as after asking for the size");
        }
        Some(Outcome::TimedOut) | None => {
            counters.timed_out.fetch_add(1, Ordering::Relaxed);
            warn!(node = %node.ip(), file, bytes, "TFTP stopped: the node fell silent");
        }
    }
}
