//! The two tasks of one connection: one reads and cuts messages, one writes messages and blocks.

use crate::driver::Input;
use crate::store::PieceStore;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use swarm::wire::{Decoder, HANDSHAKE_BYTES, Handshake, Message, RawBlock};
use swarm::{Block, PeerKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};

/// Bytes read at once: 16 blocks. Pages that are never filled cost nothing.
const READ_BYTES: usize = 256 * 1024;

/// Messages given to the loop at once. A keep-alive has 4 bytes on the wire and a dozen times that in memory:
/// without this bound a stranger fills the queue of inputs with hundreds of MiB.
const READ_MESSAGES: usize = 256;

/// Blocks read from the store and written at once.
const WRITE_BLOCKS: usize = 16;

/// Parcels for a writer that wait. The engine's bound on unsent bytes (4 MiB) is the real one.
const WRITER_QUEUE: usize = 1024;

/// Unsent bytes above which the kernel reports the socket as full: queues belong where cancels can reach them.
const UNSENT_KERNEL_BYTES: u32 = 256 * 1024;

/// What a writer has to send.
pub(crate) enum Outgoing {
    Handshake(Handshake),
    Message(Message),
    Block(Block),
}

/// What a reader got.
pub(crate) enum Incoming {
    Message(Message),
    Block { raw: RawBlock, data: Vec<u8> },
}

/// What both tasks need.
pub(crate) struct Context {
    pub(crate) decoder: Decoder,
    pub(crate) store: Arc<dyn PieceStore>,
    pub(crate) inputs: mpsc::Sender<Input>,
}

/// The handles of a running connection. Dropping it leaves the tasks alone; see [`Connection::abort`].
pub(crate) struct Connection {
    to_writer: mpsc::Sender<Vec<Outgoing>>,
    tasks: [AbortHandle; 2],
}

impl Connection {
    pub(crate) fn spawn(
        tasks: &mut JoinSet<()>,
        stream: TcpStream,
        peer: PeerKey,
        context: &Context,
    ) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_KERNEL_BYTES)?;
        let (reading, writing) = stream.into_split();
        let (to_writer, parcels) = mpsc::channel(WRITER_QUEUE);
        let reader = Reader { half: reading, peer, decoder: context.decoder, inputs: context.inputs.clone() };
        let writer = Writer {
            half: writing,
            peer,
            parcels,
            store: context.store.clone(),
            inputs: context.inputs.clone(),
            buffer: Vec::new(),
            blocks: VecDeque::new(),
        };
        Ok(Connection { to_writer, tasks: [tasks.spawn(reader.run()), tasks.spawn(writer.run())] })
    }

    /// Hands a parcel to the writer; false if it is overrun or gone.
    pub(crate) fn send(&self, parcel: Vec<Outgoing>) -> bool {
        self.to_writer.try_send(parcel).is_ok()
    }

    /// Ends both tasks, and with them the connection.
    pub(crate) fn abort(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

struct Reader {
    half: OwnedReadHalf,
    peer: PeerKey,
    decoder: Decoder,
    inputs: mpsc::Sender<Input>,
}

impl Reader {
    async fn run(mut self) {
        let peer = self.peer;
        let end = match self.read().await {
            Ok(()) => Input::Gone { peer },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Input::Malformed { peer },
            Err(_) => Input::Gone { peer },
        };
        // A closed channel means that the driver is gone, and this task with it.
        let _ = self.inputs.send(end).await;
    }

    async fn read(&mut self) -> io::Result<()> {
        let peer = self.peer;
        let mut handshake = [0; HANDSHAKE_BYTES];
        self.half.read_exact(&mut handshake).await?;
        let handshake = Handshake::parse(&handshake).ok_or(io::ErrorKind::InvalidData)?;
        self.give(Input::Greeted { peer, handshake }).await?;
        let mut buffer = vec![0; READ_BYTES.max(2 * self.decoder.message_bytes_max())];
        let mut filled = 0;
        loop {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            let read = self.half.read(room).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            let mut start = 0;
            loop {
                let (used, messages) = cut(&self.decoder, buffer.get(start..filled).unwrap_or_default())?;
                if messages.is_empty() {
                    break;
                }
                start += used;
                self.give(Input::Received { peer, messages }).await?;
            }
            buffer.copy_within(start..filled, 0);
            filled -= start;
        }
    }

    async fn give(&self, input: Input) -> io::Result<()> {
        self.inputs.send(input).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The whole messages of `bytes`, at most [`READ_MESSAGES`], and how many bytes they took.
fn cut(decoder: &Decoder, bytes: &[u8]) -> io::Result<(usize, Vec<Incoming>)> {
    let mut messages = Vec::new();
    let mut used = 0;
    while messages.len() < READ_MESSAGES
        && let Some(decoded) = decoder.decode(bytes.get(used..).unwrap_or_default()).map_err(invalid)?
    {
        used += decoded.used;
        messages.push(match decoded.message {
            Message::Piece(raw) => Incoming::Block { raw, data: decoded.data.to_vec() },
            message => Incoming::Message(message),
        });
    }
    Ok((used, messages))
}

fn invalid(error: swarm::wire::WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

struct Writer {
    half: OwnedWriteHalf,
    peer: PeerKey,
    parcels: mpsc::Receiver<Vec<Outgoing>>,
    store: Arc<dyn PieceStore>,
    inputs: mpsc::Sender<Input>,
    /// Encoded messages, then blocks: what is written next.
    buffer: Vec<u8>,
    /// Blocks that are still to be read. Messages overtake them.
    blocks: VecDeque<Block>,
}

impl Writer {
    async fn run(mut self) {
        if self.write().await.is_err() {
            let _ = self.inputs.send(Input::Gone { peer: self.peer }).await;
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        loop {
            if self.blocks.is_empty() {
                let Some(parcel) = self.parcels.recv().await else { return Ok(()) };
                self.sort(parcel);
            }
            while let Ok(parcel) = self.parcels.try_recv() {
                self.sort(parcel);
            }
            self.load().await?;
            self.half.write_all(&self.buffer).await?;
            let bytes = self.buffer.len() as u64;
            self.buffer.clear();
            let sent = self.inputs.send(Input::Sent { peer: self.peer, bytes }).await;
            sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
    }

    fn sort(&mut self, parcel: Vec<Outgoing>) {
        for outgoing in parcel {
            match outgoing {
                Outgoing::Handshake(handshake) => self.buffer.extend(handshake.encode()),
                Outgoing::Message(message) => message.encode(&mut self.buffer),
                Outgoing::Block(block) => self.blocks.push_back(block),
            }
        }
    }

    /// Reads the next blocks behind the messages, on a thread that may block.
    async fn load(&mut self) -> io::Result<()> {
        let count = self.blocks.len().min(WRITE_BLOCKS);
        if count == 0 {
            return Ok(());
        }
        let blocks: Vec<Block> = self.blocks.drain(..count).collect();
        let (store, mut buffer) = (self.store.clone(), std::mem::take(&mut self.buffer));
        let loaded = spawn_blocking(move || {
            let unreadable: Vec<_> = blocks
                .into_iter()
                .filter_map(|block| append(store.as_ref(), block, &mut buffer).err())
                .collect();
            (buffer, unreadable)
        });
        let (buffer, unreadable) = loaded.await.map_err(io::Error::other)?;
        self.buffer = buffer;
        for (block, error) in unreadable {
            tracing::warn!(piece = block.piece().get(), %error, "a verified block can not be read");
            let unreadable = Input::Unreadable { peer: self.peer, block };
            self.inputs.send(unreadable).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        Ok(())
    }
}

/// Appends a whole `Piece` message; on an error the buffer is as before.
fn append(store: &dyn PieceStore, block: Block, buffer: &mut Vec<u8>) -> Result<(), (Block, io::Error)> {
    let before = buffer.len();
    Message::Piece(block.into()).encode(buffer);
    let head = buffer.len();
    buffer.resize(head + block.bytes() as usize, 0);
    let room = buffer.get_mut(head..).unwrap_or_default();
    store.read_block(block.piece().get(), block.begin(), room).map_err(|error| {
        buffer.truncate(before);
        (block, error)
    })
}
