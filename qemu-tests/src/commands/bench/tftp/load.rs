//! Many nodes that fetch one file by TFTP, as firmware does: size first, then the file.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use tftp::{Fetch, FetchOptions, FetchOutcome, ReadRequest};
use tokio::net::UdpSocket;

/// Longer than the largest block that is asked for.
const PACKET_BYTES_MAX: usize = 2048;
/// The first node's address; see `boot_bed`.
const FIRST: u32 = u32::from_be_bytes([10, 79, 1, 1]);
/// Whoever is not done by then never will be.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often nodes look whether they have waited for too long.
const SWEEP: Duration = Duration::from_millis(100);
const SWEEP_TIMEOUT: u8 = 100;
const EVENTS_MAX: usize = 128;

/// What is fetched, and how.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) server: SocketAddrV4,
    pub(crate) request: ReadRequest,
    pub(crate) bytes: u64,
    pub(crate) nodes: u32,
}

/// From the first request to the last block of the last node.
///
/// One thread with an `epoll` set and connected sockets: a load client that costs more than its servers measures itself.
pub(crate) fn load(order: &Order) -> Result<Duration> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut nodes = Vec::new();
    for number in 0..order.nodes {
        let local = SocketAddrV4::new(Ipv4Addr::from(FIRST + number), 0);
        let socket =
            std::net::UdpSocket::bind(local).with_context(|| format!("opening a socket of {local}"))?;
        socket.set_nonblocking(true)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(number)))?;
        nodes.push(Node { socket, answered: false, fetch: None });
    }
    let began = Instant::now();
    for node in &mut nodes {
        let options = FetchOptions { request: order.request.clone(), size_only: false };
        node.fetch = Some(Fetch::start(options, began));
        node.send(order)?;
    }
    let (mut events, mut buffer) = ([EpollEvent::empty(); EVENTS_MAX], vec![0; PACKET_BYTES_MAX]);
    let (mut loading, mut swept) = (nodes.len(), began);
    while loading > 0 {
        let now = Instant::now();
        ensure!(now < began + DEADLINE, "{loading} nodes are not done in time");
        if now >= swept + SWEEP {
            swept = now;
            for node in nodes.iter_mut().filter(|node| node.is_late(now)) {
                node.fetch.iter_mut().for_each(|fetch| fetch.handle_timeout(now));
                node.send(order)?;
                loading -= usize::from(node.has_ended(order)?);
            }
        }
        let ready = epoll.wait(&mut events, SWEEP_TIMEOUT)?;
        for event in events.iter().take(ready) {
            let node = usize::try_from(event.data()).ok().and_then(|number| nodes.get_mut(number));
            let node = node.context("the event of a node")?;
            node.receive(order, &mut buffer)?;
            loading -= usize::from(node.has_ended(order)?);
        }
    }
    Ok(began.elapsed())
}

struct Node {
    socket: std::net::UdpSocket,
    /// From then on the socket is connected to the server's port of this transfer (RFC 1350 section 4).
    answered: bool,
    /// `None` when it is over.
    fetch: Option<Fetch>,
}

impl Node {
    fn is_late(&self, now: Instant) -> bool {
        self.fetch.as_ref().and_then(Fetch::poll_timeout).is_some_and(|deadline| deadline <= now)
    }

    /// What has come, up to a window of it.
    fn receive(&mut self, order: &Order, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..order.request.windowsize.unwrap_or(1) {
            let received = if self.answered {
                self.socket.recv(buffer)
            } else {
                self.socket.recv_from(buffer).and_then(|(len, from)| {
                    self.answered = true;
                    self.socket.connect(from).map(|()| len)
                })
            };
            let len = match received {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            let Some(fetch) = &mut self.fetch else { return Ok(()) };
            fetch.handle_packet(Instant::now(), buffer.get(..len).unwrap_or_default(), &mut |_| {});
            self.send(order)?;
        }
        Ok(())
    }

    fn send(&mut self, order: &Order) -> Result<()> {
        if let Some(out) = self.fetch.as_mut().and_then(Fetch::poll_send) {
            if self.answered {
                self.socket.send(&out)?;
            } else {
                self.socket.send_to(&out, order.server)?;
            }
        }
        Ok(())
    }

    /// Whether it has ended just now.
    fn has_ended(&mut self, order: &Order) -> Result<bool> {
        let Some(fetch) = &self.fetch else { return Ok(false) };
        match (fetch.outcome(), fetch.bytes()) {
            (None, _) => return Ok(false),
            (Some(FetchOutcome::Complete), bytes) if bytes == order.bytes => self.fetch = None,
            (Some(outcome), bytes) => bail!("a node got {bytes} of {} bytes: {outcome:?}", order.bytes),
        }
        Ok(true)
    }
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
