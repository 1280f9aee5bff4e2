//! `pxe-server seed`: one file, its torrent, its tracker, its seed and its web seed, until interrupted.
//!
//! Needs no site, no state directory and no nodes: whoever is shown the line that it prints can take part.

mod http;
mod offer;

use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use swarm_net::{FileStore, HavePolicy, Limits, Peer, PeerConfig, PeerStats, PieceSet, Secret};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};

use crate::keys::random;
use crate::serve::wait_for_signal;
use crate::swarm_service::{SEED_HANDSHAKES_MAX, SEED_PEERS_MAX};
use crate::tls::{self, Stop};
use http::Side;
use offer::Offer;

/// How often what happens is told.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// An address that no packet is sent to (RFC 5737): the route there tells which of ours others reach.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
/// A secret file holds 64 digits.
const SECRET_FILE_BYTES_MAX: u64 = 1024;

#[derive(Args)]
pub(super) struct SeedArguments {
    /// File to seed: an image, or any other
    file: PathBuf,
    /// Where the torrent, the tracker and the web seed are served; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:6969")]
    http: SocketAddr,
    /// Where peers connect; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:6881")]
    peers: SocketAddr,
    /// File with the swarm secret, 64 hexadecimal digits [default: a fresh secret]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Let everybody take part, also stock BitTorrent clients
    #[arg(long, conflicts_with = "secret_file")]
    open: bool,
    /// When pieces are announced: bep3, suppress, fixed:MS or adaptive
    #[arg(long, value_name = "POLICY", default_value = "adaptive")]
    have: HavePolicy,
    /// Length of a piece, a power of two [default: that of the image's torrent, else one that makes about 3000]
    #[arg(long, value_name = "BYTES")]
    piece_bytes: Option<u32>,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs until SIGINT or SIGTERM.
pub(super) fn seed(arguments: &SeedArguments) -> Result<()> {
    let secret = secret(arguments)?;
    let offer = Offer::open(&arguments.file, arguments.piece_bytes)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting")?;
    runtime.block_on(run(arguments, offer, secret))
}

async fn run(arguments: &SeedArguments, offer: Offer, secret: Option<Secret>) -> Result<()> {
    let listener = TcpListener::bind(arguments.http)
        .await
        .with_context(|| format!("serving HTTP on {}; --http sets another address", arguments.http))?;
    let http = reachable(listener.local_addr().context("asking for our address")?)?;
    let peer = Peer::start(peer_config(arguments, &offer, secret.as_ref())?)
        .await
        .context("starting the seed; --peers sets another address")?;
    let peers = match peer.local_addr() {
        any if any.ip().is_unspecified() => SocketAddr::new(http.ip(), any.port()),
        one => one,
    };
    let side = Arc::new(Side::new(offer, http, peers, secret.as_ref())?);
    let (stopper, stop) = Stop::new();
    let serving = tokio::spawn(tls::serve(listener, None, side.router(), stop));
    let teller = Teller { json: arguments.json, line: status_line(arguments.json) };
    teller.ready(&side, peers, secret.as_ref())?;
    let told = tell_until_signal(&teller, &side, &peer).await;
    stopper.send_replace(true);
    let stats = peer.shutdown().await;
    serving.await.context("ending the HTTP side")?;
    told?;
    teller.end(&side, &stats)
}

fn secret(arguments: &SeedArguments) -> Result<Option<Secret>> {
    if arguments.open {
        return Ok(None);
    }
    let Some(path) = &arguments.secret_file else { return Ok(Some(Secret(random()?))) };
    let reading = || format!("reading the secret in {}", path.display());
    let bytes = std::fs::metadata(path).with_context(reading)?.len();
    let text = if bytes > SECRET_FILE_BYTES_MAX {
        String::new()
    } else {
        std::fs::read_to_string(path).with_context(reading)?
    };
    let Some(secret) = Secret::from_hex(text.trim()) else {
        bail!("{} does not hold 64 hexadecimal digits; make one with: openssl rand -hex 32", path.display())
    };
    Ok(Some(secret))
}

/// The same address, or, where it stands for all of this machine, the one that other machines reach.
fn reachable(address: SocketAddr) -> Result<SocketAddr> {
    if !address.ip().is_unspecified() {
        return Ok(address);
    }
    let routed = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(ELSEWHERE)?;
        socket.local_addr()
    };
    let ip: IpAddr = routed()
        .context("finding the address that other machines reach; name it by --http ADDRESS:PORT")?
        .ip();
    Ok(SocketAddr::new(ip, address.port()))
}

fn peer_config(arguments: &SeedArguments, offer: &Offer, secret: Option<&Secret>) -> Result<PeerConfig> {
    let file = offer.file.try_clone().context("opening the file once more")?;
    let store = Arc::new(FileStore::new(file, offer.metainfo.piece_length));
    let have = PieceSet::full(u32::try_from(offer.metainfo.pieces.len())?);
    Ok(PeerConfig {
        secret: secret.map(|secret| secret.0),
        open: secret.is_none(),
        have_policy: arguments.have,
        limits: Limits {
            peers_max: SEED_PEERS_MAX,
            handshakes_max: SEED_HANDSHAKES_MAX,
            ..Limits::default()
        },
        ..PeerConfig::new(offer.metainfo.clone(), store, have, arguments.peers)
    })
}

async fn tell_until_signal(teller: &Teller, side: &Side, peer: &Peer) -> Result<()> {
    let mut ticks = interval(TELL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let signal = wait_for_signal();
    tokio::pin!(signal);
    loop {
        tokio::select! {
            ended = &mut signal => return ended,
            _ = ticks.tick() => {
                side.announce_seed();
                teller.tick(side, &peer.stats())?;
            }
        }
    }
}

/// Says what happens: to a person, or to a program.
struct Teller {
    json: bool,
    line: ProgressBar,
}

impl Teller {
    fn ready(&self, side: &Side, peers: SocketAddr, secret: Option<&Secret>) -> Result<()> {
        let url = side.torrent_url();
        let command = match secret {
            Some(secret) => format!("image-tools fetch '{url}#{}'", secret.to_hex()),
            None => format!("image-tools fetch --open '{url}'"),
        };
        let metainfo = &side.offer.metainfo;
        if self.json {
            return print_json(&json!({
                "event": "ready",
                "peer": peers,
                "url": url,
                "fetch": command,
                "info_hash": metainfo.info_hash.to_string(),
                "bytes": metainfo.length,
                "pieces": metainfo.pieces.len(),
                "piece_bytes": metainfo.piece_length,
            }));
        }
        print_lines(&format!(
            "seeding {}: {} in {} pieces of {}, peers connect to {peers}\non another machine: {command}",
            metainfo.name,
            BinaryBytes(metainfo.length),
            metainfo.pieces.len(),
            BinaryBytes(u64::from(metainfo.piece_length)),
        ))
    }

    fn tick(&self, side: &Side, stats: &PeerStats) -> Result<()> {
        if self.json {
            return print_stats(side, stats);
        }
        let (complete, incomplete) = side.members();
        self.line.set_position(stats.uploaded);
        self.line.set_message(format!(
            "{} peers, {incomplete} fetch, {} have all",
            stats.peers,
            complete.saturating_sub(1)
        ));
        Ok(())
    }

    /// Everything that was counted; to a person, what the seed gave in all.
    fn end(&self, side: &Side, stats: &PeerStats) -> Result<()> {
        if self.json {
            return print_stats(side, stats);
        }
        self.line.finish_and_clear();
        print_lines(&format!("sent {} to peers", BinaryBytes(stats.uploaded)))
    }
}

fn print_stats(side: &Side, stats: &PeerStats) -> Result<()> {
    let (complete, incomplete) = side.members();
    let members = json!({ "complete": complete, "incomplete": incomplete });
    print_json(&json!({ "event": "stats", "stats": stats.to_json(), "members": members }))
}

/// For a person who looks at it; hidden otherwise.
fn status_line(json: bool) -> ProgressBar {
    let seen = !json && std::io::stderr().is_terminal();
    let target = if seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let line = ProgressBar::with_draw_target(None, target);
    match ProgressStyle::with_template("{spinner} {bytes} sent, {bytes_per_sec}, {msg}") {
        Ok(style) => line.with_style(style),
        Err(_) => line,
    }
}

fn print_json(value: &Value) -> Result<()> {
    print_lines(&value.to_string())
}

/// A reader that is gone ends the command, but not by a panic.
fn print_lines(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("writing to standard output")
}
