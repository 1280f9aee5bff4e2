//! Connections from nodes: so many at a time, and none that stands still.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tower_service::Service as _;
use tracing::debug;

use super::connections::{Connection, Connections};
use super::shares::{Share, Shares};

/// Connections at a time; beyond it each new one ends the one that has stood still longest.
const CONNECTIONS_MAX: usize = 4096;
/// Connections of one address at a time; a node needs one or two, a whole rack may sit behind one.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 512;
/// A connection over which no byte moves for this long is dead: a node was reset or its link is gone.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// When accepting fails, such as without free file descriptors, the next try is after this time.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Bytes of a request's head, and of an answer that waits for its connection. Firmware needs a few hundred, and a flood of
/// connections must fit into memory.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Accepts connections within the bounds above.
pub(super) struct BootListener {
    tcp: TcpListener,
    connections: Connections,
    shares: Shares,
}

impl BootListener {
    pub(super) fn new(tcp: TcpListener) -> Self {
        Self::with_bounds(tcp, CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX)
    }

    pub(super) fn with_bounds(tcp: TcpListener, max: usize, per_address_max: usize) -> Self {
        Self { tcp, connections: Connections::new(max), shares: Shares::new(per_address_max) }
    }

    /// Has `router` answer for as long as this is polled, and those who are connected then to their end.
    pub(super) async fn serve(self, router: Router) {
        loop {
            let (stream, peer) = self.accept().await;
            tokio::spawn(answer(stream, peer, router.clone()));
        }
    }

    async fn accept(&self) -> (BootStream, SocketAddr) {
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    // Answers are small or end in a full buffer; waiting for more only delays them.
                    let _ = stream.set_nodelay(true);
                    if let Some(share) = self.shares.take(peer.ip()) {
                        return (BootStream::new(stream, self.connections.open(Instant::now()), share), peer);
                    }
                    debug!(%peer, "too many connections of one address");
                }
                Err(error) => {
                    debug!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

async fn answer(stream: BootStream, peer: SocketAddr, router: Router) {
    let ended = stream.connection.ended();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    });
    let serving = http1::Builder::new()
        // QUIRK(GRUB): finds `Content-Length` in this spelling only, and takes a file without it for empty, up to 2.06
        // in its own HTTP and to this day in Red Hat's over the firmware's; RFC 9110 section 5.1 allows any.
        .title_case_headers(true)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        answered = serving => if let Err(error) = answered {
            debug!(%peer, %error, "a connection ended early");
        },
        () = ended.notified() => debug!(%peer, "a connection that stood still made room for another"),
    }
}

/// A connection that fails when nothing is sent for [`IDLE_MAX`] and no request comes to its end in that time. Bytes of
/// a request that trickle in don't count: else one machine could hold all connections open for ever.
pub(super) struct BootStream {
    tcp: TcpStream,
    idle: Pin<Box<Sleep>>,
    /// A request has begun to come and nothing was sent since.
    hearing: bool,
    connection: Connection,
    _share: Share,
}

impl BootStream {
    fn new(tcp: TcpStream, connection: Connection, share: Share) -> Self {
        let idle = Box::pin(tokio::time::sleep(IDLE_MAX));
        Self { tcp, idle, hearing: false, connection, _share: share }
    }

    /// Pushes the end away when something moved that counts, and looks whether it has come when nothing did.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
        counts: bool,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            if counts {
                let now = Instant::now();
                self.idle.as_mut().reset(now + IDLE_MAX);
                self.connection.moved(now);
            }
            return moved;
        }
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection stands still")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for BootStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.tcp).poll_read(cx, buf);
        let first = !self.hearing;
        self.hearing |= moved.is_ready();
        self.watch(cx, moved, first)
    }
}

impl AsyncWrite for BootStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.hearing &= !moved.is_ready();
        self.watch(cx, moved, true)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.hearing &= !moved.is_ready();
        self.watch(cx, moved, true)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
