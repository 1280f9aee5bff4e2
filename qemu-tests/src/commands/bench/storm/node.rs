//! One node from power-on to its agent: firmware, iPXE, kernel and initrd, and then one that serves others.
//!
//! Never gives up before its files are here or the storm is over.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dhcp_wire::MacAddr;
use node_api::paths::{BOOT_SHARE_PORT, DEFAULT_AGENT_PORT};
use tftp::{FetchOptions, FetchOutcome, ReadRequest, error_packet};
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::agent::Agent;
use super::faults::Faults;
use super::http::{Got, Peers, get, get_text};
use super::relay::{Class, Relay};
use crate::commands::bench::tftp::load::fetch;

/// What UEFI firmware asks for.
const BLKSIZE: u16 = 1468;
const WINDOW: u16 = 4;
const HTTP_PORT: u16 = 80;
const TFTP_PORT: u16 = 69;
/// From the last byte of the initrd to the agent's enrolment: what a server with a short firmware and few drivers
/// needs at least.
const KERNEL_STARTS: Duration = Duration::from_secs(8);
/// Between reports of an agent that has nothing to say.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A step that failed is tried again after this, as boot scripts and firmware do.
const PAUSE: Duration = Duration::from_secs(2);
const TRIES: u32 = 40;
const IPXE: &str = "iPXE/1.0.0+";

/// What all nodes share.
pub(super) struct World {
    pub(super) server: Ipv4Addr,
    pub(super) relay: Arc<Relay>,
    pub(super) faults_percent: u32,
    /// Whether nodes start agents that serve others.
    pub(super) peers: Option<Peers>,
    /// What must come.
    pub(super) program: Vec<u8>,
    pub(super) kernel: Arc<[u8]>,
    pub(super) initrd: Arc<[u8]>,
    pub(super) counts: Counts,
}

/// What happened to all nodes together.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Told to come back later.
    pub(super) put_off: AtomicU64,
    /// Sent to peers.
    pub(super) redirects: AtomicU64,
    /// Steps that were made again.
    pub(super) again: AtomicU64,
}

/// The boot script's URLs and token.
struct Script {
    kernel: String,
    initrd: String,
    token: String,
}

/// Boots node `number`; when it had its files. The agent goes on in the background.
pub(super) async fn boot(world: Arc<World>, number: u32) -> Result<Instant> {
    let mut faults = Faults::new(world.faults_percent, number);
    let [_, _, high, low] = number.to_be_bytes();
    let mac = MacAddr([0x52, 0x54, 0, 0x57, high, low]);
    let (address, file) = world.relay.lease(mac, number * 2 + 1, Class::Firmware, &mut faults).await?;
    again(&world, async |faults| program(&world, address, &file, faults).await, &mut faults).await?;
    let (address, url) = world.relay.lease(mac, number * 2 + 2, Class::Ipxe, &mut faults).await?;
    ensure!(url.contains("/boot.ipxe"), "iPXE is sent to {url:?}");
    let script =
        again(&world, async |faults| script(&world, address, mac, faults).await, &mut faults).await?;
    for (path, expected) in [(&script.kernel, &world.kernel), (&script.initrd, &world.initrd)] {
        file_with_fallback(&world, address, (path, IPXE), expected, &mut faults).await?;
    }
    let done = Instant::now();
    if let Some(peers) = world.peers.clone() {
        tokio::task::spawn_local(async move {
            // A node whose agent does not come up serves nobody, and that is all.
            if let Err(error) = serve(&world, &peers, address, mac, &script).await {
                eprintln!("node {number}: {error:#}");
            }
        });
    }
    Ok(done)
}

/// Makes a step again until it succeeds.
async fn again<T>(
    world: &World,
    step: impl AsyncFn(&mut Faults) -> Result<T>,
    faults: &mut Faults,
) -> Result<T> {
    let mut last = None;
    for _ in 0..TRIES {
        match step(faults).await {
            Ok(done) => return Ok(done),
            Err(error) => last = Some(error),
        }
        world.counts.again.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("nothing was tried")))
        .with_context(|| format!("in {TRIES} tries"))
}

/// The boot program by TFTP: the size, then the file, as EDK2 does it.
async fn program(world: &World, address: Ipv4Addr, name: &str, faults: &mut Faults) -> Result<()> {
    let server = SocketAddrV4::new(world.server, TFTP_PORT);
    let request = ReadRequest {
        name: name.to_owned(),
        blksize: Some(BLKSIZE),
        windowsize: Some(WINDOW),
        tsize: true,
        timeout: None,
    };
    for size_only in [true, false] {
        let socket = UdpSocket::bind((address, 0)).await?;
        if faults.strikes() {
            // A node that is reset in mid-request, and says so or not.
            socket.send_to(&request.encode(), server).await?;
            if faults.below(2) == 0 {
                socket.send_to(&error_packet(0, "reset"), server).await?;
            }
            bail!("the node was reset, as it was told to");
        }
        let mut content = Vec::new();
        let options = FetchOptions { request: request.clone(), size_only };
        let fetched = fetch(&socket, server, options, &mut |block| content.extend_from_slice(block)).await?;
        match fetched.0 {
            FetchOutcome::Size(size) => ensure!(size == world.program.len() as u64, "another size"),
            FetchOutcome::Complete => ensure!(content == world.program, "another boot program"),
            outcome => bail!("TFTP: {outcome:?} after {} bytes", fetched.1),
        }
    }
    Ok(())
}

async fn script(world: &World, address: Ipv4Addr, mac: MacAddr, faults: &mut Faults) -> Result<Script> {
    let path = format!("/boot.ipxe?mac={}&uuid=&platform=efi&serial=", mac.hyphenated());
    let text = get_text(address, SocketAddrV4::new(world.server, HTTP_PORT), &path, faults).await?;
    let line = |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap_or_default();
    let url = |line: &str| {
        let url = line.split(' ').find_map(|word| word.strip_prefix("http://"))?;
        Some(format!("/{}", url.split_once('/')?.1))
    };
    let kernel = line("kernel ");
    let token = kernel.split(' ').find_map(|word| word.strip_prefix("esir.token="));
    Ok(Script {
        kernel: url(kernel).with_context(|| format!("no kernel in {text:?}"))?,
        initrd: url(line("initrd ")).with_context(|| format!("no initrd in {text:?}"))?,
        token: token.unwrap_or_default().to_owned(),
    })
}

/// A file from where the server says, and from the server itself when that fails, as the boot script has it.
async fn file_with_fallback(
    world: &World,
    address: Ipv4Addr,
    (path, agent): (&str, &str),
    expected: &[u8],
    faults: &mut Faults,
) -> Result<()> {
    let path_failed =
        if path.contains('?') { format!("{path}&failed=1") } else { format!("{path}?failed=1") };
    let attempt = async |faults: &mut Faults| {
        if file(world, address, (path, agent), expected, faults).await.is_ok() {
            return Ok(());
        }
        file(world, address, (&path_failed, agent), expected, faults).await
    };
    again(world, attempt, faults).await
}

async fn file(
    world: &World,
    address: Ipv4Addr,
    (path, agent): (&str, &str),
    expected: &[u8],
    faults: &mut Faults,
) -> Result<()> {
    let (mut to, mut path) = (SocketAddrV4::new(world.server, HTTP_PORT), path.to_owned());
    for _ in 0..TRIES * 10 {
        let mut at = 0;
        let mut keep = |bytes: &[u8]| {
            let as_expected = expected.get(at..at + bytes.len()) == Some(bytes);
            at += bytes.len();
            as_expected
        };
        match get(address, to, (&path, agent), faults, &mut keep).await? {
            Got::Done => {
                ensure!(at == expected.len(), "{at} of {} bytes", expected.len());
                return Ok(());
            }
            Got::SentTo(peer, there) => {
                world.counts.redirects.fetch_add(1, Ordering::Relaxed);
                (to, path) = (peer, there);
            }
            Got::Later(pause) => {
                world.counts.put_off.fetch_add(1, Ordering::Relaxed);
                sleep(pause).await;
            }
        }
    }
    bail!("put off for ever")
}

/// The agent's part: enrols, fetches what it shall serve, and serves it to the end.
async fn serve(world: &World, peers: &Peers, address: Ipv4Addr, mac: MacAddr, script: &Script) -> Result<()> {
    sleep(KERNEL_STARTS).await;
    let server = SocketAddrV4::new(world.server, DEFAULT_AGENT_PORT);
    let enrolled = Agent::enrol(address, server, &mac.to_string(), &script.token).await;
    let (mut agent, share) = enrolled.context("enrolling")?;
    let Some(share) = share else { return Ok(()) };
    let mut faults = Faults::new(0, 0);
    for (file, expected) in share.files.iter().zip([&world.kernel, &world.initrd]) {
        ensure!(blake3::hash(expected).to_hex().as_str() == file.hash, "{} has another hash", file.name);
        let path = format!("{}/{}/{}", node_api::paths::BOOT, share.bundle, file.name);
        file_with_fallback(world, address, (&path, node_api::BOOT_SHARE_AGENT), expected, &mut faults)
            .await?;
    }
    peers.add(address);
    loop {
        agent.report(BOOT_SHARE_PORT).await?;
        sleep(HEARTBEAT).await;
    }
}
