//! Listens on an interface and says what [`super::wire`] makes of it.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::frames;
use super::wire::Watch;

/// Every protocol, and what this machine sends as well: what a server here answers is half of each handshake.
const ALL_PROTOCOLS: u16 = 0x0003;
/// Larger than any frame without offloading; of a larger one the beginning is enough.
const FRAME_BYTES_MAX: usize = 4096;
/// Silences are looked for so often.
const TICK: Duration = Duration::from_secs(1);

/// Listens until `until`, or for ever, and hands each explanation to `say`.
pub(crate) fn listen(interface: &str, until: Option<Instant>, mut say: impl FnMut(&str)) -> Result<()> {
    let socket = open(interface)
        .with_context(|| format!("listening on {interface}; that needs root or CAP_NET_RAW"))?;
    let (started, mut watch) = (Instant::now(), Watch::default());
    let mut frame = [0; FRAME_BYTES_MAX];
    let mut looked = started;
    while until.is_none_or(|until| Instant::now() < until) {
        match socket.recv(&mut frame) {
            Ok(len) => {
                let parsed = frames::parse(frame.get(..len).unwrap_or_default());
                let said = parsed
                    .and_then(|(from, to, content)| watch.packet(started.elapsed(), from, to, &content));
                said.iter().for_each(|said| say(said));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).with_context(|| format!("listening on {interface}")),
        }
        if looked.elapsed() >= TICK {
            looked = Instant::now();
            watch.silences(started.elapsed()).iter().for_each(|said| say(said));
        }
    }
    Ok(())
}

fn open(interface: &str) -> Result<UdpSocket> {
    let all = nix::ifaddrs::getifaddrs().context("listing the network interfaces")?;
    let nic = all
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address.as_ref()?.as_link_addr().copied())
        .with_context(|| format!("there is no interface `{interface}`; `ip link` lists them"))?;
    let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
    let socket = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, Some(protocol))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &nic)?;
    socket.set_read_timeout(Some(TICK))?;
    // std has no type for packet sockets; of this one only `recv` is used, which is the same.
    Ok(socket.into())
}
