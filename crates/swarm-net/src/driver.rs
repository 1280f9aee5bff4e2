//! The one loop that owns the engine: every happening is an [`Input`], every wish of the engine an
//! [`Action`]. Nothing here is shared with another task, so nothing is locked.

use crate::announce::announce;
use crate::buffers::Buffer;
use crate::checker::{Checker, Job};
use crate::clock::Clock;
use crate::config::{PeerEvent, PeerStats};
use crate::connection::{Connection, Context, Outgoing};
use crate::http::{self, Url};
use crate::intake::Incoming;
use crate::shards::Shards;
use crate::web_seed::WebSeed;
use std::collections::BTreeMap;
use std::io;
use std::net::{self, IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use swarm::tracker::{AnnounceReply, AnnounceRequest};
use swarm::wire::{Handshake, PeerId};
use swarm::{
    Action, AnnounceEvent, BLOCK_BYTES, BlockVerdict, CheckOutcome, Event, Geometry, InfoHash, Moment,
    PeerKey, PieceIndex, Side, Swarm,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

/// Inputs that wait for the loop; each may carry up to nine blocks, so all of them 9 MiB.
pub(crate) const INPUTS: usize = 64;

/// Inputs handled before the engine's wishes are fulfilled, so that those for one peer leave together.
const INPUTS_AT_ONCE: usize = 32;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the statistics are renewed.
const STATS_INTERVAL: Duration = Duration::from_millis(200);

/// How long leaving may take to be told to the tracker.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Peers asked for at an announce; the tracker names 8 to 12.
const PEERS_WANTED: usize = 30;

/// Wait after the system refused an accept (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything that can happen to a peer.
pub(crate) enum Input {
    Accepted { stream: TcpStream, address: SocketAddr },
    Dialled { address: SocketAddr, result: io::Result<TcpStream> },
    Greeted { peer: PeerKey, handshake: Handshake },
    Received { peer: PeerKey, messages: Vec<Incoming> },
    Sent { peer: PeerKey, bytes: u64, round_trip: Option<Duration> },
    Unreadable { peer: PeerKey, block: swarm::Block },
    Malformed { peer: PeerKey },
    Gone { peer: PeerKey },
    Checked { piece: PieceIndex, outcome: CheckOutcome, error: Option<io::Error> },
    Fetched { piece: PieceIndex, result: Result<Vec<u8>, String> },
    Announced { event: AnnounceEvent, result: Result<(Duration, Vec<SocketAddr>), String> },
}

/// What the loop runs on.
pub(crate) struct Parts {
    pub(crate) engine: Swarm,
    pub(crate) clock: Clock,
    pub(crate) geometry: Geometry,
    pub(crate) info_hash: InfoHash,
    pub(crate) peer_id: PeerId,
    pub(crate) local: SocketAddr,
    pub(crate) context: Context,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) checker: Checker,
    pub(crate) shards: Shards,
    /// Where the web seed's fetches run: they are others' code.
    pub(crate) outside: Handle,
    pub(crate) announce_url: Option<Url>,
    pub(crate) web_seed: Option<Arc<dyn WebSeed>>,
    pub(crate) events: mpsc::Sender<PeerEvent>,
    pub(crate) stats: watch::Sender<PeerStats>,
}

pub(crate) struct Driver {
    parts: Parts,
    tasks: JoinSet<()>,
    connections: BTreeMap<PeerKey, Connection>,
    outbox: BTreeMap<PeerKey, Vec<Outgoing>>,
    /// Blocks of arriving pieces and their lengths, by number.
    blocks: BTreeMap<PieceIndex, BTreeMap<u32, (Buffer, usize)>>,
    store_error: Option<io::Error>,
    /// Why the last announce and the last fetch failed.
    tracker_error: Option<String>,
    web_seed_error: Option<String>,
    stats_due: Moment,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Driver {
        Driver {
            parts,
            tasks: JoinSet::new(),
            connections: BTreeMap::new(),
            outbox: BTreeMap::new(),
            blocks: BTreeMap::new(),
            store_error: None,
            tracker_error: None,
            web_seed_error: None,
            stats_due: Moment::ZERO,
        }
    }

    /// Runs until `stop` is sent to or dropped. Then all connections end.
    pub(crate) async fn run(mut self, mut stop: oneshot::Receiver<()>, listener: net::TcpListener) {
        let inputs = self.parts.context.inputs.clone();
        self.tasks.spawn(accept(listener, inputs));
        loop {
            let now = self.parts.clock.now();
            let due = self.parts.engine.poll_timeout().unwrap_or_else(|| now.plus(STATS_INTERVAL));
            tokio::select! {
                input = self.parts.inputs.recv() => {
                    let Some(input) = input else { return };
                    self.handle(input);
                    for _ in 1..INPUTS_AT_ONCE {
                        let Ok(input) = self.parts.inputs.try_recv() else { break };
                        self.handle(input);
                    }
                }
                () = sleep_until(self.parts.clock.at(due)) => {}
                stopped = &mut stop => {
                    if stopped.is_ok() {
                        self.stats_due = Moment::ZERO;
                        self.publish(self.parts.clock.now());
                        self.say_goodbye().await;
                    }
                    return;
                }
            }
            let now = self.parts.clock.now();
            if self.parts.engine.poll_timeout().is_some_and(|due| due <= now) {
                self.parts.engine.handle_timeout(now);
            }
            self.act();
            self.publish(now);
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn handle(&mut self, input: Input) {
        self.fulfil_all();
        let now = self.parts.clock.now();
        match input {
            Input::Accepted { stream, address } => self.connected(now, stream, address, Side::Inbound),
            Input::Dialled { address, result: Ok(stream) } => {
                self.connected(now, stream, address, Side::Outbound)
            }
            Input::Dialled { address, result: Err(error) } => {
                tracing::debug!(peer = %address, %error, "connecting failed");
                self.parts.engine.handle_connect_failed(now, address);
            }
            Input::Greeted { peer, handshake } => self.parts.engine.handle_handshake(now, peer, handshake),
            Input::Received { peer, messages } => self.received(now, peer, messages),
            Input::Sent { peer, bytes, round_trip } => {
                if let Some(time) = round_trip {
                    self.parts.engine.handle_round_trip(now, peer, time);
                }
                self.parts.engine.handle_sent(now, peer, bytes);
            }
            Input::Unreadable { peer, block } => self.parts.engine.handle_unreadable(now, peer, block),
            Input::Malformed { peer } => self.parts.engine.handle_malformed(now, peer),
            Input::Gone { peer } => {
                self.hang_up(peer);
                self.parts.engine.handle_disconnected(now, peer);
            }
            Input::Checked { piece, outcome, error } => {
                if error.is_some() {
                    self.store_error = error;
                }
                self.parts.engine.handle_checked(now, piece, outcome);
            }
            Input::Fetched { piece, result } => {
                let arrived = result.is_ok();
                self.web_seed_error = result.as_ref().err().cloned();
                if let Ok(bytes) = result {
                    let length = bytes.len();
                    self.blocks.insert(piece, BTreeMap::from([(0, (bytes.into(), length))]));
                }
                self.parts.engine.handle_fetched(now, piece, arrived);
            }
            Input::Announced { event, result } => {
                self.tracker_error = result.as_ref().err().cloned();
                let (interval, peers) = result.ok().unzip();
                self.parts.engine.handle_announced(now, event, interval);
                self.parts.engine.handle_addresses(now, &peers.unwrap_or_default());
            }
        }
    }

    fn connected(&mut self, now: Moment, stream: TcpStream, address: SocketAddr, side: Side) {
        let peer = match self.parts.engine.handle_connected(now, address, side) {
            Ok(peer) => peer,
            Err(reason) => {
                tracing::debug!(peer = %address, %reason, "connection refused");
                return;
            }
        };
        let shard = self.parts.shards.pick();
        match Connection::spawn(&mut self.tasks, &shard, stream, peer, &self.parts.context) {
            Ok(connection) => {
                self.connections.insert(peer, connection);
            }
            Err(error) => {
                tracing::debug!(peer = %address, %error, "connection lost at once");
                self.parts.engine.handle_disconnected(now, peer);
            }
        }
    }

    fn received(&mut self, now: Moment, peer: PeerKey, messages: Vec<Incoming>) {
        for incoming in messages {
            self.fulfil_all();
            match incoming {
                Incoming::Message(message) => self.parts.engine.handle_message(now, peer, message),
                Incoming::Block(arrived) => {
                    if let BlockVerdict::Keep(block) = self.parts.engine.handle_block(now, peer, arrived.raw)
                    {
                        let number = block.begin() / BLOCK_BYTES;
                        let kept = (arrived.into_buffer(), block.bytes() as usize);
                        self.blocks.entry(block.piece()).or_default().insert(number, kept);
                    }
                    // The block that completes its piece must be at hand before the engine's wish is read,
                    // and it is: wishes are read after this.
                }
            }
        }
    }

    /// Fulfils all wishes of the engine, then hands each writer its parcel.
    fn act(&mut self) {
        self.fulfil_all();
        for (peer, parcel) in std::mem::take(&mut self.outbox) {
            let Some(connection) = self.connections.get(&peer) else { continue };
            if !connection.send(parcel) {
                self.hang_up(peer);
                self.parts.engine.handle_overrun(self.parts.clock.now(), peer);
            }
        }
    }

    /// Before each input, so that a piece that is discarded doesn't take along blocks of it that come later.
    fn fulfil_all(&mut self) {
        while let Some(action) = self.parts.engine.poll_action() {
            self.fulfil(action);
        }
    }

    fn fulfil(&mut self, action: Action) {
        match action {
            Action::Connect { address } => {
                let (inputs, local) = (self.parts.context.inputs.clone(), self.parts.local.ip());
                self.tasks.spawn(dial(inputs, address, local));
            }
            Action::Handshake { to, handshake } => self.post(to, Outgoing::Handshake(handshake)),
            Action::Send { to, message } => self.post(to, Outgoing::Message(message)),
            Action::SendBlock { to, block } => self.post(to, Outgoing::Block(block)),
            Action::Close { peer, reason } => {
                tracing::debug!(?peer, %reason, "closing a connection");
                self.hang_up(peer);
            }
            Action::Check { piece } => {
                let parts = self.blocks.remove(&piece).unwrap_or_default().into_values().collect();
                if self.parts.checker.submit(Job { piece, parts }).is_err() {
                    let now = self.parts.clock.now();
                    self.parts.engine.handle_checked(now, piece, CheckOutcome::NotStored);
                }
            }
            Action::Discard { piece } => {
                self.blocks.remove(&piece);
            }
            Action::FetchWeb { piece } => self.fetch(piece),
            Action::Announce { event, left } => self.announce(event, left),
            Action::Tell(event) => self.tell(event),
        }
    }

    fn post(&mut self, to: PeerKey, outgoing: Outgoing) {
        self.outbox.entry(to).or_default().push(outgoing);
    }

    fn hang_up(&mut self, peer: PeerKey) {
        self.outbox.remove(&peer);
        if let Some(connection) = self.connections.remove(&peer) {
            connection.abort();
        }
    }

    fn fetch(&mut self, piece: PieceIndex) {
        let Some(web_seed) = &self.parts.web_seed else { return };
        let bytes = u64::from(self.parts.geometry.bytes_of(piece));
        let fetch = web_seed.fetch(self.parts.geometry.offset(piece), bytes);
        let inputs = self.parts.context.inputs.clone();
        let fetching = async move {
            let result = match fetch.await {
                Ok(fetched) if fetched.len() as u64 == bytes => Ok(fetched),
                Ok(fetched) => Err(format!("{} bytes came instead of {bytes}", fetched.len())),
                Err(error) => {
                    tracing::debug!(piece = piece.get(), %error, "the web seed failed");
                    Err(report(&error))
                }
            };
            let _ = inputs.send(Input::Fetched { piece, result }).await;
        };
        self.tasks.spawn_on(fetching, &self.parts.outside);
    }

    fn request(&self, event: AnnounceEvent, left: u64) -> AnnounceRequest {
        let counts = self.parts.engine.counts();
        AnnounceRequest {
            info_hash: self.parts.info_hash,
            peer_id: self.parts.peer_id,
            address: self.parts.local,
            left,
            downloaded: counts.downloaded_bytes + counts.web_seed_bytes,
            uploaded: counts.uploaded_bytes,
            event,
            wanted: PEERS_WANTED,
        }
    }

    fn announce(&mut self, event: AnnounceEvent, left: u64) {
        let Some(url) = self.parts.announce_url.clone() else { return };
        let request = self.request(event, left);
        let (inputs, local) = (self.parts.context.inputs.clone(), self.parts.local.ip());
        self.tasks.spawn(async move {
            let result = match announce(&url, local, &request).await {
                Ok(AnnounceReply::Peers { interval, peers }) => Ok((interval, peers)),
                Ok(AnnounceReply::Refused(reason)) => {
                    tracing::warn!(reason, "the tracker refuses us");
                    Err(format!("it refuses us: {reason}"))
                }
                Err(error) => {
                    let error = report(&error);
                    tracing::debug!(error, "announcing failed");
                    Err(error)
                }
            };
            let _ = inputs.send(Input::Announced { event, result }).await;
        });
    }

    async fn say_goodbye(&mut self) {
        let Some(url) = self.parts.announce_url.clone() else { return };
        let request = self.request(AnnounceEvent::Stopped, self.parts.engine.bytes_left());
        // Best effort: the tracker forgets the silent anyway.
        let _ = timeout(GOODBYE_TIMEOUT, announce(&url, self.parts.local.ip(), &request)).await;
    }

    fn tell(&mut self, event: Event) {
        let event = match event {
            Event::PieceVerified(piece) => PeerEvent::PieceVerified(piece.get()),
            Event::Complete => {
                self.parts.context.blocks.release();
                self.stats_due = Moment::ZERO;
                self.publish(self.parts.clock.now());
                PeerEvent::Complete
            }
            Event::Corrupt { piece, from } => PeerEvent::Corrupt { piece: piece.get(), from },
            Event::Banned { address } => {
                tracing::warn!(peer = %address, "banned for corrupt pieces: memory or disk of that node is broken");
                PeerEvent::Banned { addr: address }
            }
            Event::NotStored(piece) => {
                let error = self.store_error.take().map_or_else(String::new, |error| error.to_string());
                tracing::warn!(piece = piece.get(), error, "a piece could not be stored");
                PeerEvent::NotStored { piece: piece.get(), error }
            }
        };
        // The channel has room for every piece once; if nobody listens, nothing is owed.
        let _ = self.parts.events.try_send(event);
    }

    fn publish(&mut self, now: Moment) {
        if now < self.stats_due {
            return;
        }
        self.stats_due = now.plus(STATS_INTERVAL);
        let engine = &self.parts.engine;
        let counts = engine.counts().clone();
        let stats = PeerStats {
            pieces: self.parts.geometry.pieces(),
            verified: engine.verified().count(),
            left: engine.bytes_left(),
            downloaded_by_peer: engine.downloaded_by_peer().into_iter().collect(),
            downloaded: counts.downloaded_bytes,
            uploaded: counts.uploaded_bytes,
            web_seed_bytes: counts.web_seed_bytes,
            peers: engine.peers().filter(|peer| peer.active).count(),
            have_messages: counts.have_messages,
            counts,
            revealing: engine.is_revealing(),
            tracker_error: self.tracker_error.clone(),
            web_seed_error: self.web_seed_error.clone(),
        };
        self.parts.stats.send_replace(stats);
    }
}

async fn accept(listener: net::TcpListener, inputs: mpsc::Sender<Input>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no peer can be accepted"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if inputs.send(Input::Accepted { stream, address }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a peer failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn dial(inputs: mpsc::Sender<Input>, address: SocketAddr, local: IpAddr) {
    let attempt = timeout(CONNECT_TIMEOUT, http::connect(address, Some(local))).await;
    let result = attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let _ = inputs.send(Input::Dialled { address, result }).await;
}

/// An error and its causes in one line.
fn report(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
