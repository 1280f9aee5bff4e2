//! A lease for one interface: the packet socket before there is an address, plain UDP to renew it.
//!
//! ```text
//!  discover --offer--> request --ack--> lease --T1--> renew (unicast) --T2--> rebind (broadcast) --> expired
//!     ^                   |              ^                |                         |                 |
//!     +---- nak, silence -+              +------ ack -----+-------------------------+                 |
//!                                        +--- the address is kept; asking goes on, with messages -----+
//! ```

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp_wire::{
    Answer, Asker, Lease, MessageKind, NODE_PORT, PACKET_BYTES_MAX, PacketView, SERVER_PORT, unwrap_udp,
    wrap_udp,
};
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::link;
use super::nic::Interface;
use crate::failure::BackOff;
use crate::sys::packet::PacketSocket;
use crate::sys::watch::watch;

/// Option 60, so that the server tells the agent from firmware.
const VENDOR_CLASS: &str = "esir-agent";
/// RFC 2131 section 4.1 begins with 4 s; on a switch without spanning tree the first packet is the one that counts.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// A port in spanning-tree listening swallows packets for up to 50 s; asking often shortens the wait after it.
const RETRY_LIMIT: Duration = Duration::from_secs(8);
/// How long a server may take to confirm an offer before the node begins again.
const REQUEST_LIMIT: Duration = Duration::from_secs(4);
/// Between tries to renew (RFC 2131 section 4.4.5 says 60 s).
const RENEW_PAUSE: Duration = Duration::from_mins(1);
/// Room for headers of IPv4 and UDP.
const HEADERS_BYTES: usize = 60 + 8;

/// Why an interface got no lease.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DhcpError {
    /// No socket.
    #[error("opening a packet socket on {0}")]
    Socket(String, #[source] std::io::Error),
    /// No answer.
    #[error("no DHCP server answered on {interface} within {seconds} s")]
    Silence { interface: String, seconds: u64 },
    /// The operating system gave no random numbers or the message could not be made.
    #[error("the DHCP message cannot be made: {0}")]
    Message(String),
}

/// Asks on one interface until a server gives a lease or `limit` is over.
pub(crate) async fn acquire(interface: &Interface, limit: Duration) -> Result<Lease, DhcpError> {
    let socket = PacketSocket::open(interface.index).and_then(watch);
    let socket = socket.map_err(|error| DhcpError::Socket(interface.name.clone(), error))?;
    let begun = Instant::now();
    let deadline = begun + limit;
    let mut back_off = BackOff::new(RETRY_FIRST, RETRY_LIMIT);
    // Every try is the same transaction: a server that looks for a free address for longer than one try waits still
    // answers a question that is asked.
    let mut xid = random_xid()?;
    while Instant::now() < deadline {
        let secs = u16::try_from(begun.elapsed().as_secs()).unwrap_or(u16::MAX);
        let asker = Asker { mac: interface.mac, xid, secs, vendor_class: VENDOR_CLASS };
        let discover = asker.discover(None).map_err(message_error)?;
        let wait = (Instant::now() + back_off.pause()).min(deadline);
        let Some(Answer::Offer(offer)) = ask(&socket, &asker, &discover, wait).await else { continue };
        let request = asker.request(&offer).map_err(message_error)?;
        let wait = (Instant::now() + REQUEST_LIMIT).min(deadline);
        match ask(&socket, &asker, &request, wait).await {
            Some(Answer::Ack(lease)) => return Ok(lease),
            Some(Answer::Nak { text, .. }) => {
                tracing::warn!(
                    "{}: DHCP server took its offer back: {}",
                    interface.name,
                    text.unwrap_or_default()
                );
                xid = random_xid()?;
            }
            Some(Answer::Offer(_)) | None => {}
        }
    }
    Err(DhcpError::Silence { interface: interface.name.clone(), seconds: limit.as_secs() })
}

/// Sends one message and takes the first answer that fits it before `until`; `None` is silence.
async fn ask(
    socket: &AsyncFd<PacketSocket>,
    asker: &Asker<'_>,
    message: &[u8],
    until: Instant,
) -> Option<Answer> {
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, NODE_PORT);
    let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
    let packet = wrap_udp(from, to, message)?;
    if let Err(error) = socket.get_ref().broadcast(&packet) {
        // A link that just went away; it may come back before the next try.
        tracing::warn!("sending a DHCP message: {error}");
    }
    let wants_offer = !is_request(message);
    timeout_at(until, async {
        let mut buffer = vec![0; PACKET_BYTES_MAX + HEADERS_BYTES];
        loop {
            let mut ready = socket.readable().await.ok()?;
            match socket.get_ref().receive(&mut buffer) {
                Ok(length) => {
                    if let Some(answer) = read_answer(asker, buffer.get(..length)?, wants_offer) {
                        return Some(answer);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => {
                    tracing::warn!("receiving a DHCP answer: {error}");
                    return None;
                }
            }
        }
    })
    .await
    .unwrap_or(None)
}

fn is_request(message: &[u8]) -> bool {
    PacketView::new(message).is_ok_and(|view| view.kind() == Some(MessageKind::Request))
}

/// The answer in one IPv4 packet, if it is one to this question: late offers must not end a request.
fn read_answer(asker: &Asker<'_>, packet: &[u8], wants_offer: bool) -> Option<Answer> {
    let datagram = unwrap_udp(packet).filter(|datagram| datagram.destination.port() == NODE_PORT)?;
    let answer = asker.read(datagram.payload).ok()?;
    (matches!(answer, Answer::Offer(_)) == wants_offer).then_some(answer)
}

/// Keeps the lease alive for ever. An address that nobody confirms is kept, because a node that is being
/// installed is worth more with it than without; the messages say so.
pub(crate) async fn keep(interface: Interface, mut lease: Lease) {
    loop {
        tokio::time::sleep(lease.renew_after).await;
        let begun = Instant::now();
        let renewed = loop {
            let late = lease.renew_after + begun.elapsed() >= lease.rebind_after;
            let to = if late { Ipv4Addr::BROADCAST } else { lease.server };
            match renew(&interface, &lease, to).await {
                Ok(Some(renewed)) => break renewed,
                Ok(None) if late => {
                    tracing::warn!("{}: nobody renews the lease of {}", interface.name, lease.address)
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("{}: renewing the lease: {error}", interface.name),
            }
            tokio::time::sleep(RENEW_PAUSE).await;
        };
        lease = renewed;
        if let Err(error) = link::configure(&interface, &lease) {
            tracing::warn!("{}: setting the renewed address: {error}", interface.name);
        }
    }
}

/// One try; `None` when nobody confirmed.
async fn renew(interface: &Interface, lease: &Lease, to: Ipv4Addr) -> anyhow::Result<Option<Lease>> {
    let socket = UdpSocket::bind((lease.address, NODE_PORT)).await?;
    socket.set_broadcast(true)?;
    let asker = Asker { mac: interface.mac, xid: random_xid()?, secs: 0, vendor_class: VENDOR_CLASS };
    socket.send_to(&asker.renew(lease)?, (to, SERVER_PORT)).await?;
    let until = Instant::now() + REQUEST_LIMIT;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    while let Ok(received) = timeout_at(until, socket.recv_from(&mut buffer)).await {
        let (length, _) = received?;
        match asker.read(buffer.get(..length).unwrap_or_default()) {
            // Another address in the middle of a deployment would break every connection.
            Ok(Answer::Ack(renewed)) if renewed.address == lease.address => return Ok(Some(renewed)),
            Ok(Answer::Nak { text, .. }) => {
                tracing::warn!("the DHCP server refuses to renew: {}", text.unwrap_or_default());
                return Ok(None);
            }
            _ => {}
        }
    }
    Ok(None)
}

fn random_xid() -> Result<u32, DhcpError> {
    getrandom::u32().map_err(|error| DhcpError::Message(error.to_string()))
}

fn message_error(error: dhcp_wire::EncodeError) -> DhcpError {
    DhcpError::Message(error.to_string())
}
