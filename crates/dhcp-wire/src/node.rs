//! The node's side of the protocol: what to send and what an answer says. The timing is the caller's.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::code;
use crate::mac::MacAddr;
use crate::message::{EncodeError, Message};
use crate::view::{DecodeError, MessageKind, PacketView};

/// What a node asks to be told.
const PARAMETERS: [u8; 10] = [
    code::SUBNET_MASK,
    code::ROUTER,
    code::DNS_SERVER,
    code::HOST_NAME,
    code::DOMAIN_NAME,
    code::INTERFACE_MTU,
    code::BROADCAST,
    code::NTP_SERVER,
    code::RENEWAL_TIME,
    code::REBINDING_TIME,
];
/// The largest answer that a node takes: one Ethernet frame.
const SIZE_MAX: u16 = 1472;
/// A lease shorter than this would be renewed all the time; RFC 2131 leaves the bound to us.
const LEASE_MIN: Duration = Duration::from_secs(10);
/// Lower values are no IPv4 links (RFC 791).
const MTU_MIN: u16 = 576;

/// Who asks: one NIC of a node in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker<'a> {
    /// The NIC.
    pub mac: MacAddr,
    /// Random number of this transaction; answers carry it.
    pub xid: u32,
    /// Seconds since the first packet of this transaction.
    pub secs: u16,
    /// Vendor class (option 60), such as `esir-agent`; at most 255 bytes.
    pub vendor_class: &'a str,
}

/// What a server gives a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node's address.
    pub address: Ipv4Addr,
    /// Bits of the network part; /32 where the server does not say.
    pub prefix_len: u8,
    /// The server that answered.
    pub server: Ipv4Addr,
    /// How long the address may be used.
    pub lease: Duration,
    /// When to ask this server for more time (T1).
    pub renew_after: Duration,
    /// When to ask any server for more time (T2).
    pub rebind_after: Duration,
    /// Routers, best first.
    pub routers: Vec<Ipv4Addr>,
    /// Name servers, best first.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers, best first.
    pub ntp: Vec<Ipv4Addr>,
    /// Domain for names without one.
    pub domain: Option<String>,
    /// A name that the server has for the node.
    pub host_name: Option<String>,
    /// The link's MTU where the server says.
    pub mtu: Option<u16>,
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An address to ask for.
    Offer(Lease),
    /// The address is the node's.
    Ack(Lease),
    /// It is not; begin again.
    Nak {
        /// Who says so.
        server: Option<Ipv4Addr>,
        /// Why, where the server says.
        text: Option<String>,
    },
}

/// Why a packet is no answer to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not readable at all.
    #[error("not a DHCP packet")]
    Decode(#[from] DecodeError),
    /// For another node or transaction, or not from a server.
    #[error("an answer to somebody else")]
    NotOurs,
    /// An offer or acknowledgement without address, server or lease time, or with impossible ones.
    #[error("the answer lacks {0}")]
    Lacks(&'static str),
}

impl Asker<'_> {
    /// Asks every server for an address; `wanted` is one that the node has had before.
    ///
    /// # Errors
    /// A vendor class that is too long.
    pub fn discover(&self, wanted: Option<Ipv4Addr>) -> Result<Vec<u8>, EncodeError> {
        let mut message = self.message(MessageKind::Discover)?;
        message.set_broadcast();
        if let Some(address) = wanted {
            message.set_address(code::REQUESTED_ADDRESS, address);
        }
        message.encode()
    }

    /// Takes the offer (state SELECTING); to be broadcast, so that other servers know.
    ///
    /// # Errors
    /// A vendor class that is too long.
    pub fn request(&self, offer: &Lease) -> Result<Vec<u8>, EncodeError> {
        let mut message = self.message(MessageKind::Request)?;
        message.set_broadcast();
        message
            .set_address(code::REQUESTED_ADDRESS, offer.address)
            .set_address(code::SERVER_ID, offer.server);
        message.encode()
    }

    /// Asks for more time (RENEWING: unicast to the server; REBINDING: broadcast). The bytes are the same.
    ///
    /// # Errors
    /// A vendor class that is too long.
    pub fn renew(&self, lease: &Lease) -> Result<Vec<u8>, EncodeError> {
        let mut message = self.message(MessageKind::Request)?;
        message.set_ciaddr(lease.address);
        message.encode()
    }

    /// Gives the address back; unicast to the server, which does not answer.
    ///
    /// # Errors
    /// None in practice.
    pub fn release(&self, lease: &Lease) -> Result<Vec<u8>, EncodeError> {
        let mut message = Message::from_node(MessageKind::Release, self.mac, self.xid);
        message.set_ciaddr(lease.address).set_address(code::SERVER_ID, lease.server);
        message.encode()
    }

    /// Says that somebody else uses the address; broadcast, no answer.
    ///
    /// # Errors
    /// None in practice.
    pub fn decline(&self, lease: &Lease) -> Result<Vec<u8>, EncodeError> {
        let mut message = Message::from_node(MessageKind::Decline, self.mac, self.xid);
        message
            .set_address(code::REQUESTED_ADDRESS, lease.address)
            .set_address(code::SERVER_ID, lease.server);
        message.encode()
    }

    /// Reads a server's answer to this transaction.
    ///
    /// # Errors
    /// What is no answer to it; the caller goes on waiting.
    pub fn read(&self, bytes: &[u8]) -> Result<Answer, AnswerError> {
        let view = PacketView::new(bytes)?;
        if !view.is_reply() || view.xid() != self.xid || view.mac() != Some(self.mac) {
            return Err(AnswerError::NotOurs);
        }
        match view.kind() {
            Some(MessageKind::Offer) => Ok(Answer::Offer(read_lease(&view)?)),
            Some(MessageKind::Ack) => Ok(Answer::Ack(read_lease(&view)?)),
            Some(MessageKind::Nak) => Ok(Answer::Nak {
                server: view.address_option(code::SERVER_ID),
                text: text(&view, code::ERROR_TEXT),
            }),
            _ => Err(AnswerError::NotOurs),
        }
    }

    fn message(&self, kind: MessageKind) -> Result<Message, EncodeError> {
        let mut message = Message::from_node(kind, self.mac, self.xid);
        message.set_secs(self.secs);
        message.set_bytes(code::PARAMETERS, &PARAMETERS)?;
        message.set_bytes(code::SIZE_MAX, &SIZE_MAX.to_be_bytes())?;
        message.set_bytes(code::VENDOR_CLASS, self.vendor_class.as_bytes())?;
        Ok(message)
    }
}

fn read_lease(view: &PacketView<'_>) -> Result<Lease, AnswerError> {
    let address = view.yiaddr();
    if address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback() {
        return Err(AnswerError::Lacks("a usable address"));
    }
    let server = view.address_option(code::SERVER_ID).ok_or(AnswerError::Lacks("the server's address"))?;
    let seconds = view.number_option(code::LEASE_TIME).ok_or(AnswerError::Lacks("the lease time"))?;
    let lease = Duration::from_secs(u64::from(seconds)).max(LEASE_MIN);
    // Without T1 and T2, and where they make no sense: a half and seven eighths (RFC 2131 section 4.4.5).
    let time = |code| view.number_option(code).map(|seconds| Duration::from_secs(u64::from(seconds)));
    let rebind_after = time(code::REBINDING_TIME).filter(|at| *at < lease).unwrap_or(lease * 7 / 8);
    let renew_after =
        time(code::RENEWAL_TIME).filter(|at| *at < rebind_after).unwrap_or(lease / 2).min(rebind_after);
    Ok(Lease {
        address,
        prefix_len: prefix_len(view)?,
        server,
        lease,
        renew_after,
        rebind_after,
        routers: view.addresses_option(code::ROUTER),
        dns: view.addresses_option(code::DNS_SERVER),
        ntp: view.addresses_option(code::NTP_SERVER),
        domain: text(view, code::DOMAIN_NAME),
        host_name: text(view, code::HOST_NAME),
        mtu: view
            .option(code::INTERFACE_MTU)
            .and_then(|bytes| bytes.as_ref().try_into().ok())
            .map(u16::from_be_bytes)
            .filter(|mtu| *mtu >= MTU_MIN),
    })
}

fn prefix_len(view: &PacketView<'_>) -> Result<u8, AnswerError> {
    let Some(mask) = view.number_option(code::SUBNET_MASK) else { return Ok(32) };
    if mask.leading_ones() + mask.trailing_zeros() != 32 && mask != u32::MAX {
        return Err(AnswerError::Lacks("a subnet mask of leading ones"));
    }
    u8::try_from(mask.leading_ones()).map_err(|_| AnswerError::Lacks("a subnet mask"))
}

/// Printable text without the NULs that some servers put behind it.
fn text(view: &PacketView<'_>, code: u8) -> Option<String> {
    let bytes = view.option(code)?;
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.trim_end_matches('\0').chars().filter(|symbol| !symbol.is_control()).collect();
    (!text.is_empty()).then_some(text)
}
