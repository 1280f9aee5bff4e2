//! The task of one connection: it cuts what comes into messages, and writes messages and blocks.
//!
//! Bounds of one connection, beside the kernel's own buffers: 128 KiB for a read while bytes come, one open message
//! (64 KiB at most), [`BURST_BYTES`] while blocks go out, [`WRITER_QUEUE`] parcels. The engine bounds what is
//! given for sending and not sent (4 MiB).

use crate::buffers::{Buffer, Pool};
use crate::driver::Input;
use crate::intake::Intake;
use crate::low_water::LowWater;
use crate::outlet::{BURST_BYTES, Burst, load, load_cached, write_all};
use crate::store::PieceStore;
use crate::sys;
use std::collections::VecDeque;
use std::io;
use std::net;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use swarm::wire::{Decoder, HANDSHAKE_BYTES, Handshake, Message};
use swarm::{BLOCK_BYTES, Block, PeerKey};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};

/// Idle buffers for bursts that are kept: more than four writers are rarely busy at a time.
const IDLE_BURSTS_MAX: usize = 4;

/// Parcels for a writer that wait. A peer that lets more pile up doesn't read, and is dropped as such.
const WRITER_QUEUE: usize = 1024;

/// How long sent bytes may stay without an acknowledgement, or the peer's window closed: then its power is cut
/// or it hangs, and the kernel gives the connection up. Above the engine's bound on silence, which is the rule.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// How often the kernel is asked for a connection's round trip: queues in links fill and drain in tens of milliseconds.
const ROUND_TRIP_INTERVAL: Duration = Duration::from_millis(50);

/// What a connection has to send.
pub(crate) enum Outgoing {
    Handshake(Handshake),
    Message(Message),
    Block(Block),
}

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) decoder: Decoder,
    pub(crate) store: Arc<dyn PieceStore>,
    /// For blocks that come.
    pub(crate) blocks: Arc<Pool>,
    /// For bursts that go.
    pub(crate) bursts: Arc<Pool>,
    pub(crate) inputs: mpsc::Sender<Input>,
}

/// The handles of a running connection. Dropping it leaves the task alone; see [`Connection::abort`].
pub(crate) struct Connection {
    to_writer: mpsc::Sender<Vec<Outgoing>>,
    task: AbortHandle,
}

impl Connection {
    /// Runs the connection on `shard`.
    pub(crate) fn spawn(
        tasks: &mut JoinSet<()>,
        shard: &Handle,
        stream: TcpStream,
        peer: PeerKey,
        context: &Context,
    ) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        let stream = stream.into_std()?;
        let (to_writer, parcels) = mpsc::channel(WRITER_QUEUE);
        let task = tasks.spawn_on(run(stream, peer, context.clone(), parcels), shard);
        Ok(Connection { to_writer, task })
    }

    /// Hands a parcel to the writer; false if it is overrun or gone.
    pub(crate) fn send(&self, parcel: Vec<Outgoing>) -> bool {
        self.to_writer.try_send(parcel).is_ok()
    }

    /// Ends the task, and with it the connection.
    pub(crate) fn abort(&self) {
        self.task.abort();
    }
}

async fn run(
    stream: net::TcpStream,
    peer: PeerKey,
    context: Context,
    parcels: mpsc::Receiver<Vec<Outgoing>>,
) {
    let inputs = context.inputs.clone();
    let end = match both_ways(stream, peer, context, parcels).await {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Input::Malformed { peer },
        Ok(()) | Err(_) => Input::Gone { peer },
    };
    // A closed channel means that the driver is gone, and this task with it.
    let _ = inputs.send(end).await;
}

/// Until one direction ends.
async fn both_ways(
    stream: net::TcpStream,
    peer: PeerKey,
    context: Context,
    parcels: mpsc::Receiver<Vec<Outgoing>>,
) -> io::Result<()> {
    // Here, because a socket belongs to the shard on which this is done.
    let stream = TcpStream::from_std(stream)?;
    let reader = Reader { stream: &stream, peer, context: &context };
    let mut writer = Writer {
        stream: &stream,
        peer,
        context: &context,
        parcels,
        messages: Vec::new(),
        blocks: VecDeque::new(),
        low_water: LowWater::set_on(&stream)?,
        looked_at: None,
    };
    tokio::select! {
        end = reader.read() => end,
        end = writer.write() => end,
    }
}

impl Context {
    /// `buffer_bytes_max` is the engine's bound on arriving pieces: that many bytes are kept in idle buffers until
    /// the download is over.
    pub(crate) fn new(
        decoder: Decoder,
        store: Arc<dyn PieceStore>,
        buffer_bytes_max: u64,
        inputs: mpsc::Sender<Input>,
    ) -> Context {
        let idle_blocks = usize::try_from(buffer_bytes_max).unwrap_or(usize::MAX) / BLOCK_BYTES as usize;
        let blocks = Pool::new(BLOCK_BYTES as usize, idle_blocks);
        Context { decoder, store, blocks, bursts: Pool::new(BURST_BYTES, IDLE_BURSTS_MAX), inputs }
    }

    async fn give(&self, input: Input) -> io::Result<()> {
        self.inputs.send(input).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct Reader<'a> {
    stream: &'a TcpStream,
    peer: PeerKey,
    context: &'a Context,
}

impl Reader<'_> {
    async fn read(&self) -> io::Result<()> {
        let peer = self.peer;
        let handshake = Handshake::parse(&self.greeting().await?).ok_or(io::ErrorKind::InvalidData)?;
        self.context.give(Input::Greeted { peer, handshake }).await?;
        let mut intake = Intake::new(self.context.decoder, self.context.blocks.clone());
        loop {
            let messages =
                intake.take().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if !messages.is_empty() {
                self.context.give(Input::Received { peer, messages }).await?;
                continue;
            }
            match self.stream.try_read_vectored(&mut intake.room()) {
                Ok(0) => return Ok(()),
                Ok(read) => intake.filled(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    intake.rest();
                    self.stream.readable().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn greeting(&self) -> io::Result<[u8; HANDSHAKE_BYTES]> {
        let mut greeting = [0; HANDSHAKE_BYTES];
        let mut filled = 0;
        while filled < HANDSHAKE_BYTES {
            self.stream.readable().await?;
            match self.stream.try_read(greeting.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(greeting)
    }
}

struct Writer<'a> {
    stream: &'a TcpStream,
    peer: PeerKey,
    context: &'a Context,
    parcels: mpsc::Receiver<Vec<Outgoing>>,
    /// Encoded messages: they are written next.
    messages: Vec<u8>,
    /// Blocks that are still to be sent. Messages overtake them.
    blocks: VecDeque<Block>,
    low_water: LowWater,
    looked_at: Option<Instant>,
}

impl Writer<'_> {
    async fn write(&mut self) -> io::Result<()> {
        loop {
            if self.blocks.is_empty() {
                let Some(parcel) = self.parcels.recv().await else { return Ok(()) };
                self.sort(parcel);
            }
            while let Ok(parcel) = self.parcels.try_recv() {
                self.sort(parcel);
            }
            let begun = Instant::now();
            let bytes = self.messages.len();
            let bytes = if self.blocks.is_empty() {
                write_all(self.stream, &self.messages, &[]).await?;
                bytes
            } else {
                let (buffer, burst) = self.load().await?;
                let blocks = buffer.bytes().get(..burst.bytes).unwrap_or_default();
                write_all(self.stream, &self.messages, blocks).await?;
                bytes + burst.bytes
            };
            self.messages.clear();
            self.low_water.note(self.stream, bytes, begun.elapsed())?;
            let round_trip = self.round_trip()?;
            self.context.give(Input::Sent { peer: self.peer, bytes: bytes as u64, round_trip }).await?;
        }
    }

    /// The connection's round trip, if it is time to look at it and there is one.
    fn round_trip(&mut self) -> io::Result<Option<Duration>> {
        if self.looked_at.is_some_and(|at| at.elapsed() < ROUND_TRIP_INTERVAL) {
            return Ok(None);
        }
        self.looked_at = Some(Instant::now());
        Ok(Some(sys::round_trip(self.stream.as_fd())?).filter(|time| !time.is_zero()))
    }

    fn sort(&mut self, parcel: Vec<Outgoing>) {
        for outgoing in parcel {
            match outgoing {
                Outgoing::Handshake(handshake) => self.messages.extend(handshake.encode()),
                Outgoing::Message(message) => message.encode(&mut self.messages),
                Outgoing::Block(block) => self.blocks.push_back(block),
            }
        }
    }

    /// The next blocks as they go on the wire. What is not in the page cache is read on a thread that may block.
    async fn load(&mut self) -> io::Result<(Buffer, Burst)> {
        let mut buffer = self.context.bursts.take();
        let burst = load_cached(self.context.store.as_ref(), &self.blocks, buffer.bytes_mut());
        if burst.blocks > 0 {
            self.blocks.drain(..burst.blocks);
            return Ok((buffer, burst));
        }
        let (store, blocks) = (self.context.store.clone(), std::mem::take(&mut self.blocks));
        let loaded = spawn_blocking(move || {
            let burst = load(store.as_ref(), &blocks, buffer.bytes_mut());
            (buffer, blocks, burst)
        });
        let (buffer, blocks, burst) = loaded.await.map_err(io::Error::other)?;
        self.blocks = blocks;
        let burst = match burst {
            Ok(burst) => burst,
            Err(error) => {
                self.unreadable(error).await?;
                Burst::default()
            }
        };
        self.blocks.drain(..burst.blocks);
        Ok((buffer, burst))
    }

    /// The first block is given up.
    async fn unreadable(&mut self, error: io::Error) -> io::Result<()> {
        let Some(block) = self.blocks.pop_front() else { return Ok(()) };
        tracing::warn!(piece = block.piece().get(), %error, "a verified block can not be read");
        self.context.give(Input::Unreadable { peer: self.peer, block }).await
    }
}
