//! DHCP packets, decoded leniently and encoded strictly, for the server's side and the node's side.
//!
//! Never opens a socket, reads a clock or panics on bytes from the network.
//!
//! Read first: [`PacketView`], [`Message`], [`Answer`].
//!
//! RFC 2131 (protocol), RFC 2132 (options), RFC 3396 (long options), RFC 4578 (PXE options).
#![forbid(unsafe_code)]

pub mod code;
mod mac;
mod message;
mod node;
mod udp;
mod view;

pub use mac::{MacAddr, ParseMacError};
pub use message::{EncodeError, FILE_BYTES_MAX, Message, OPTION_BYTES_MAX, PACKET_BYTES_MIN};
pub use node::{Answer, AnswerError, Asker, Lease};
pub use udp::{Datagram, UDP_PAYLOAD_BYTES_MAX, unwrap_udp, wrap_udp};
pub use view::{DecodeError, MessageKind, OptionWalk, PACKET_BYTES_MAX, PacketView};

/// UDP port of servers and relays.
pub const SERVER_PORT: u16 = 67;
/// UDP port of nodes.
pub const NODE_PORT: u16 = 68;
/// UDP port on which a PXE ROM asks a boot server again (PXE 2.1 section 2.2.3).
pub const PXE_PORT: u16 = 4011;
