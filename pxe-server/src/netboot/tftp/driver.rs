//! The TFTP server's door: takes requests, gives places, and hands transfers to the shards.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tftp::{Packet, ReadRequest, Transfer, error_code, error_packet};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::FileSource;
use super::counters::{TftpCounters, count};
use super::places::{Flags, Places, Taken};
use super::shard::{Job, Shard};
use super::socket::TransferSocket;
use crate::netboot::net;

/// Threads that carry transfers: more than this never fill a link faster.
const SHARDS_MAX: usize = 8;
/// Files that are opened at a time; the others' turn comes within milliseconds.
const OPENINGS_MAX: usize = 16;
/// Requests are far smaller.
const PACKET_BYTES_MAX: usize = 2048;

/// The running TFTP server. Dropping it stops it and all transfers.
pub(in crate::netboot) struct Tftp {
    task: JoinHandle<()>,
    counters: Arc<TftpCounters>,
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
        // Half of the processors: the network's share of each packet and the rest of the server run on the others.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (processors / 2).clamp(1, SHARDS_MAX);
        let (ended, ends) = mpsc::unbounded_channel();
        let shard = |_| Shard::start(Arc::clone(&files), Arc::clone(&counters), ended.clone());
        let shards = (0..threads).map(shard).collect::<anyhow::Result<_>>()?;
        let opener = Opener {
            interface: interface.to_owned(),
            local: *address.ip(),
            files,
            shards,
            counters: Arc::clone(&counters),
            ended,
            turn: Arc::new(Semaphore::new(OPENINGS_MAX)),
        };
        let listener = Listener {
            socket: Arc::new(socket),
            opener: Arc::new(opener),
            counters: Arc::clone(&counters),
            places: Places::default(),
            ends,
        };
        Ok(Self { task: tokio::spawn(listener.run()), counters })
    }

    /// What the server has done so far.
    pub(in crate::netboot) fn counters(&self) -> &Arc<TftpCounters> {
        &self.counters
    }

    /// Stops and waits until the listening socket is closed.
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
    socket: Arc<UdpSocket>,
    opener: Arc<Opener>,
    counters: Arc<TftpCounters>,
    places: Places,
    /// Numbers of transfers that are over; there are never more of them than places.
    ends: mpsc::UnboundedReceiver<u64>,
}

impl Listener {
    async fn run(mut self) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        loop {
            tokio::select! {
                // Places are freed before the next request asks for one.
                biased;
                Some(number) = self.ends.recv() => self.places.free(number),
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
            }
        }
    }

    async fn handle(&mut self, node: SocketAddrV4, bytes: &[u8]) {
        let request = match Packet::parse(bytes) {
            Some(Packet::Read(request)) => request,
            Some(Packet::Write) => {
                count(&self.counters.refused);
                return refuse(&self.socket, node, error_code::ACCESS, "this server only reads").await;
            }
            // A transfer's own socket gets these; here they are strays.
            Some(Packet::Ack(_) | Packet::Error(_)) => return,
            None => {
                count(&self.counters.refused);
                return refuse(&self.socket, node, error_code::ILLEGAL, "not a request to read a file").await;
            }
        };
        let taken = self.places.take(node, &request);
        self.counters.replaced.fetch_add(self.places.take_replaced(), Ordering::Relaxed);
        match taken {
            Taken::Place(number, flags) => {
                let wish = Wish { number, node, request, flags };
                tokio::spawn(Arc::clone(&self.opener).open(Arc::clone(&self.socket), wish));
            }
            Taken::Echo => {}
            // No answer: firmware asks again in a second, but gives up on an error.
            Taken::Full => count(&self.counters.overloaded),
        }
    }
}

/// A request that has its place.
struct Wish {
    number: u64,
    node: SocketAddrV4,
    request: ReadRequest,
    flags: Arc<Flags>,
}

/// Opens files and sockets beside the listener, so that a slow one holds up nobody else.
struct Opener {
    interface: String,
    local: Ipv4Addr,
    files: Arc<dyn FileSource>,
    shards: Vec<Shard>,
    counters: Arc<TftpCounters>,
    ended: mpsc::UnboundedSender<u64>,
    turn: Arc<Semaphore>,
}

impl Opener {
    async fn open(self: Arc<Self>, socket: Arc<UdpSocket>, wish: Wish) {
        let Ok(_turn) = Arc::clone(&self.turn).acquire_owned().await else { return };
        // Its place went to another while it waited: a flood opens no files for nobody.
        if !wish.flags.wanted.load(Ordering::Relaxed) {
            return;
        }
        let (number, node, name) = (wish.number, wish.node, wish.request.name.clone());
        let opener = Arc::clone(&self);
        let begun = tokio::task::spawn_blocking(move || opener.begin(wish)).await.unwrap_or_default();
        if begun {
            return;
        }
        // Nobody listens any more only when the server stops.
        let _ = self.ended.send(number);
        count(&self.counters.refused);
        debug!(%node, file = name, "TFTP file not found");
        refuse(&socket, node, error_code::NOT_FOUND, "no such file").await;
    }

    /// `false` if there is no such file.
    fn begin(&self, wish: Wish) -> bool {
        let Wish { number, node, request, flags } = wish;
        let Some(file) = self.files.open(&request.name, *node.ip()) else { return false };
        let socket = match TransferSocket::open(&self.interface, self.local, node) {
            Ok(socket) => socket,
            Err(error) => {
                warn!(%node, %error, "no socket for a TFTP transfer");
                // The node asks again.
                let _ = self.ended.send(number);
                return true;
            }
        };
        count(&self.counters.started);
        let transfer = Transfer::start(&request, file, Instant::now());
        if let Some(shard) = self.shards.iter().min_by_key(|shard| shard.carried()) {
            shard.begin(Job { number, node, name: request.name, flags, socket, transfer });
        }
        true
    }
}

async fn refuse(socket: &UdpSocket, node: SocketAddrV4, code: u16, text: &str) {
    if let Err(error) = socket.send_to(&error_packet(code, text), node).await {
        debug!(%node, %error, "sending a TFTP error failed");
    }
}
