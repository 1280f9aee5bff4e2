//! `image-tools fetch`: pulls one file out of a swarm into this machine, and may go on seeding it.
//!
//! Never gives a file its name before every piece of it is checked.

mod destination;
mod source;
mod stores;
mod teller;
mod trust;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use swarm_net::{
    HavePolicy, HttpWebSeed, Peer, PeerConfig, PeerEvent, PieceHashes, PieceSet, PieceStore, WebSeed,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use destination::Destination;
use source::{Membership, Origin, Source};
use stores::Corrupting;
use teller::Teller;
use trust::Companions;

/// How often progress is told to a program; a person sees it more often.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Longer than any time that can be waited for.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What to fetch, from whom, and where to.
#[derive(Debug, Args)]
pub(crate) struct FetchArguments {
    /// A torrent: a file, or the URL that `pxe-server seed` printed, in quotes, with the secret behind its #
    torrent: String,
    /// Where to write it [default: the name in the torrent, in this directory]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where to accept peers; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))]
    listen: SocketAddr,
    /// Exchange with peers that don't prove a secret, such as stock BitTorrent clients
    #[arg(long)]
    open: bool,
    /// File with the swarm secret, 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// A minisign public key that must have signed the image. May be repeated. The image is then checked against its
    /// signed manifest instead of the torrent, and gets its companions
    #[arg(long, value_name = "PUB", conflicts_with = "mirror")]
    trust: Vec<PathBuf>,
    /// When pieces are announced: bep3, suppress, fixed:MS or adaptive
    #[arg(long, value_name = "POLICY", default_value = "adaptive")]
    have: HavePolicy,
    /// Go on seeding afterwards, for so long
    #[arg(long, value_name = "SECONDS|forever", value_parser = seconds)]
    seed_for: Option<Duration>,
    /// Give up when nothing has come for so long
    #[arg(long, value_name = "SECONDS|forever", value_parser = seconds, default_value = "120")]
    give_up: Duration,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bed: BedArguments,
}

/// For test beds.
#[derive(Debug, Args)]
struct BedArguments {
    /// Check pieces and keep none; serve others from this file, which is the same
    #[arg(long, hide = true, value_name = "FILE", conflicts_with = "output")]
    mirror: Option<PathBuf>,
    /// Wait for a line on standard input before connecting to anybody
    #[arg(long, hide = true)]
    wait_for_go: bool,
    /// Another web seed than the torrent's, or none
    #[arg(long, hide = true, value_name = "URL|none")]
    web_seed: Option<String>,
    /// Another tracker than the torrent's, or none
    #[arg(long, hide = true, value_name = "URL|none")]
    tracker: Option<String>,
    /// A peer to connect to
    #[arg(long = "peer", hide = true, value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
    /// Serve every Nth block wrong
    #[arg(long, hide = true, value_name = "N")]
    corrupt_every: Option<u32>,
}

/// Everything that is loaded before anybody is connected to.
struct Loaded {
    source: Source,
    destination: Destination,
    /// Of an image that must be signed.
    companions: Option<Companions>,
    have: PieceSet,
    listen: SocketAddr,
}

/// How a wait ended.
enum Ended {
    Complete,
    Interrupted,
}

/// Fetches; with success the file is complete and checked.
pub(crate) fn run(arguments: &FetchArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting")?;
    let origin = Origin::parse(&arguments.torrent);
    let member = Membership::of(&origin, arguments.secret_file.as_deref(), arguments.open)?;
    let mut source = runtime.block_on(Source::read(&origin, &member))?;
    let (tracker, web_seed) = (arguments.bed.tracker.as_deref(), arguments.bed.web_seed.as_deref());
    source.choose(tracker, web_seed, !arguments.bed.peers.is_empty(), &member)?;
    let destination = match &arguments.bed.mirror {
        Some(path) => Destination::mirror(path, &source.metainfo)?,
        None => Destination::file(arguments.output.as_deref(), &source.metainfo)?,
    };
    let companions = if arguments.trust.is_empty() {
        None
    } else {
        Some(runtime.block_on(Companions::read(&origin, &member, &source, &arguments.trust))?)
    };
    let have = destination.check(&source.metainfo, companions.as_ref())?;
    let listen = if arguments.bed.wait_for_go { free_port(arguments.listen)? } else { arguments.listen };
    let loaded = Loaded { source, destination, companions, have, listen };
    let mut teller = Teller::new(arguments.json, &loaded.source);
    if arguments.bed.wait_for_go {
        teller.ready(listen)?;
        wait_for_go()?;
    }
    runtime.block_on(fetch(arguments, loaded, &member, &mut teller))
}

async fn fetch(
    arguments: &FetchArguments,
    loaded: Loaded,
    member: &Membership,
    teller: &mut Teller,
) -> Result<()> {
    let go = Instant::now();
    let was_complete = loaded.have.is_full();
    if was_complete && arguments.seed_for.is_none() {
        return teller.was_complete(&loaded.destination.finish(loaded.companions.as_ref())?);
    }
    let config = peer_config(arguments, &loaded, member)?;
    let Loaded { destination, companions, .. } = loaded;
    let mut peer = Peer::start(config).await.context("starting the peer; --listen sets another address")?;
    if !arguments.bed.wait_for_go {
        teller.ready(peer.local_addr())?;
    }
    if was_complete {
        teller.was_complete(&destination.finish(companions.as_ref())?)?;
    } else {
        let ended = download(arguments, &mut peer, teller).await;
        let took = go.elapsed();
        if !matches!(ended, Ok(Ended::Complete)) {
            teller.end(&peer.shutdown().await)?;
            ended?;
            bail!("interrupted; run the same command again to go on from there");
        }
        let path = tokio::task::spawn_blocking(move || destination.finish(companions.as_ref())).await??;
        teller.complete(took, &path, &peer.stats())?;
    }
    if let Some(time) = arguments.seed_for {
        seed(time, &peer, teller).await?;
    }
    teller.end(&peer.shutdown().await)
}

fn peer_config(arguments: &FetchArguments, loaded: &Loaded, member: &Membership) -> Result<PeerConfig> {
    let source = &loaded.source;
    let mut store: Arc<dyn PieceStore> = loaded.destination.store(source.metainfo.piece_length)?;
    if let Some(every) = arguments.bed.corrupt_every {
        store = Arc::new(Corrupting::new(store, every));
    }
    let web_seed = source.web_seed.as_deref().map(HttpWebSeed::new).transpose();
    let web_seed = web_seed.context("using the web seed")?;
    let hashes = loaded.companions.as_ref().map(|companions| companions.piece_hashes());
    Ok(PeerConfig {
        hashes: hashes.map_or(PieceHashes::Sha1, PieceHashes::Blake3),
        announce_url: source.announce.clone(),
        first_peers: arguments.bed.peers.clone(),
        secret: member.secret.as_ref().map(|secret| secret.0),
        open: member.open,
        web_seed: web_seed.map(|web_seed| Arc::new(web_seed) as Arc<dyn WebSeed>),
        have_policy: arguments.have,
        super_seed: false,
        ..PeerConfig::new(source.metainfo.clone(), store, loaded.have.clone(), loaded.listen)
    })
}

/// Until every piece is here, or nothing has come for too long, or a signal.
async fn download(arguments: &FetchArguments, peer: &mut Peer, teller: &mut Teller) -> Result<Ended> {
    let mut events = peer.events();
    let mut ticks = interval(if arguments.json { TELL_INTERVAL } else { DRAW_INTERVAL });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut came = (0, Instant::now());
    let interrupted = interrupted()?;
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            event = events.recv() => if handle(event, teller)? { return Ok(Ended::Complete) },
            () = &mut interrupted => return Ok(Ended::Interrupted),
            _ = ticks.tick() => {
                let stats = peer.stats();
                teller.progress(&stats)?;
                let bytes = stats.downloaded + stats.web_seed_bytes;
                if bytes != came.0 {
                    came = (bytes, Instant::now());
                }
                if came.1.elapsed() > arguments.give_up {
                    bail!("{}", teller::why_nothing_came(arguments.give_up, &stats));
                }
            }
        }
    }
}

/// Whether the file is complete.
fn handle(event: Option<PeerEvent>, teller: &Teller) -> Result<bool> {
    match event {
        Some(PeerEvent::Complete) => return Ok(true),
        Some(PeerEvent::NotStored { error, .. }) => bail!("a piece cannot be written: {error}"),
        Some(PeerEvent::Banned { addr }) => teller.banned(addr)?,
        Some(PeerEvent::PieceVerified(_) | PeerEvent::Corrupt { .. }) => {}
        None => bail!("the peer ended before the file was complete"),
    }
    Ok(false)
}

async fn seed(time: Duration, peer: &Peer, teller: &mut Teller) -> Result<()> {
    let mut ticks = interval(TELL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (end, interrupted) = (sleep(time), interrupted()?);
    tokio::pin!(end, interrupted);
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            () = &mut interrupted => return Ok(()),
            _ = ticks.tick() => teller.seeding(&peer.stats())?,
        }
    }
}

/// Ends at SIGINT or SIGTERM.
fn interrupted() -> Result<impl Future<Output = ()>> {
    let (sender, mut receiver) = mpsc::channel(1);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind).context("listening for signals")?;
        let sender = sender.clone();
        tokio::spawn(async move {
            signals.recv().await;
            // Nobody waits any more when this fails.
            let _ = sender.send(()).await;
        });
    }
    Ok(async move {
        receiver.recv().await;
    })
}

/// Names the port before the peer listens on it; between both, nobody else takes it unless asked to.
fn free_port(listen: SocketAddr) -> Result<SocketAddr> {
    if listen.port() != 0 {
        return Ok(listen);
    }
    TcpListener::bind(listen).and_then(|socket| socket.local_addr()).context("looking for a free port")
}

fn wait_for_go() -> Result<()> {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).context("waiting for go")? == 0 {
        bail!("standard input ended before it said go");
    }
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    if text == "forever" {
        return Ok(FOREVER);
    }
    text.parse()
        .map(Duration::from_secs)
        .map(|time| time.min(FOREVER))
        .map_err(|_| "write seconds, or forever")
}
