//! The strict value: packets that we send, right by construction.

use std::net::Ipv4Addr;

use dhcproto::v4::{self, DhcpOption, OptionCode, UnknownOption};
use dhcproto::{Encodable, Encoder};

use crate::code;
use crate::mac::MacAddr;
use crate::view::{MessageKind, PacketView};

/// One option holds at most this much; we send nothing that would have to be split (RFC 3396).
pub const OPTION_BYTES_MAX: usize = 255;
/// What fits the field `file` with its NUL; a longer name goes into option 67 alone.
pub const FILE_BYTES_MAX: usize = 127;
/// What fits the field `sname` with its NUL.
const SNAME_BYTES_MAX: usize = 63;
/// BOOTP's packet size (RFC 951 section 3); some relays and ROMs drop shorter ones.
pub const PACKET_BYTES_MIN: usize = 300;

/// Why a packet cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// An option of more than [`OPTION_BYTES_MAX`] bytes.
    #[error("{bytes} bytes do not fit DHCP option {code}: at most {OPTION_BYTES_MAX}")]
    Long {
        /// The option.
        code: u8,
        /// What was asked for, with the NUL where there is one.
        bytes: usize,
    },
    /// A name with a NUL inside would be read as a shorter one.
    #[error("the text of DHCP option {0} has a NUL inside")]
    Nul(u8),
    /// The encoder of `dhcproto` refused.
    #[error("the packet cannot be encoded")]
    Encoder,
}

/// A packet to send. Text options end in NUL, the whole is padded, option 82 stands last, as it came.
#[derive(Clone, Debug)]
pub struct Message {
    inner: v4::Message,
    relay: Vec<u8>,
}

impl Message {
    /// A packet from a node to servers.
    #[must_use]
    pub fn from_node(kind: MessageKind, mac: MacAddr, xid: u32) -> Self {
        let mut inner = v4::Message::new_with_id(
            xid,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            &mac.0,
        );
        inner.opts_mut().insert(DhcpOption::MessageType(kind.number().into()));
        Self { inner, relay: Vec::new() }
    }

    /// The answer to a node's packet: transaction, flags, relay, hardware address and option 82 as they came.
    /// `None` if the packet names no Ethernet NIC.
    #[must_use]
    pub fn answer(request: &PacketView<'_>, kind: MessageKind) -> Option<Self> {
        let mut message = Self::from_node(kind, request.mac()?, request.xid());
        let flags = if request.wants_broadcast() {
            v4::Flags::default().set_broadcast()
        } else {
            v4::Flags::default()
        };
        message.inner.set_opcode(v4::Opcode::BootReply).set_flags(flags).set_giaddr(request.giaddr());
        if let Some(relay) = request.option(code::RELAY_AGENT) {
            message.relay = relay.into_owned();
        }
        Some(message)
    }

    /// Asks for answers by broadcast.
    pub fn set_broadcast(&mut self) -> &mut Self {
        self.inner.set_flags(v4::Flags::default().set_broadcast());
        self
    }

    /// Seconds that the node has been trying.
    pub fn set_secs(&mut self, secs: u16) -> &mut Self {
        self.inner.set_secs(secs);
        self
    }

    /// The address that the node has.
    pub fn set_ciaddr(&mut self, address: Ipv4Addr) -> &mut Self {
        self.inner.set_ciaddr(address);
        self
    }

    /// The address that the node gets.
    pub fn set_yiaddr(&mut self, address: Ipv4Addr) -> &mut Self {
        self.inner.set_yiaddr(address);
        self
    }

    /// The server of the next stage.
    pub fn set_siaddr(&mut self, address: Ipv4Addr) -> &mut Self {
        self.inner.set_siaddr(address);
        self
    }

    /// The relay that passes this packet on.
    pub fn set_giaddr(&mut self, address: Ipv4Addr) -> &mut Self {
        self.inner.set_giaddr(address);
        self
    }

    /// An option of one address.
    pub fn set_address(&mut self, code: u8, address: Ipv4Addr) -> &mut Self {
        self.insert(code, address.octets().to_vec())
    }

    /// An option of one number of 32 bits.
    pub fn set_number(&mut self, code: u8, number: u32) -> &mut Self {
        self.insert(code, number.to_be_bytes().to_vec())
    }

    /// An option of several addresses; none leaves it out.
    ///
    /// # Errors
    /// More than 63 addresses.
    pub fn set_addresses(&mut self, code: u8, addresses: &[Ipv4Addr]) -> Result<&mut Self, EncodeError> {
        if addresses.is_empty() {
            return Ok(self);
        }
        self.set_bytes(code, &addresses.iter().flat_map(Ipv4Addr::octets).collect::<Vec<u8>>())
    }

    /// An option's bytes, as they are.
    ///
    /// # Errors
    /// More than [`OPTION_BYTES_MAX`].
    pub fn set_bytes(&mut self, code: u8, bytes: &[u8]) -> Result<&mut Self, EncodeError> {
        if bytes.len() > OPTION_BYTES_MAX {
            return Err(EncodeError::Long { code, bytes: bytes.len() });
        }
        Ok(self.insert(code, bytes.to_vec()))
    }

    /// The boot file: option 67 with a NUL behind it, and the field `file` where it fits.
    ///
    /// # Errors
    /// A name that does not fit, or with a NUL inside.
    pub fn set_boot_file(&mut self, name: &str) -> Result<&mut Self, EncodeError> {
        // QUIRK(old ROMs): a name without NUL swallows the byte behind it; some read only one of the two places.
        self.set_text(code::BOOT_FILE, name)?;
        if name.len() <= FILE_BYTES_MAX {
            self.inner.set_fname(name.as_bytes());
        }
        Ok(self)
    }

    /// The boot server: option 66 with a NUL behind it, and the field `sname` where it fits.
    ///
    /// # Errors
    /// A name that does not fit, or with a NUL inside.
    pub fn set_boot_server(&mut self, name: &str) -> Result<&mut Self, EncodeError> {
        self.set_text(code::TFTP_SERVER, name)?;
        if name.len() <= SNAME_BYTES_MAX {
            self.inner.set_sname(name.as_bytes());
        }
        Ok(self)
    }

    /// The packet's bytes.
    ///
    /// # Errors
    /// [`EncodeError::Encoder`], which the types rule out.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = Vec::with_capacity(PACKET_BYTES_MIN);
        self.inner.encode(&mut Encoder::new(&mut bytes)).map_err(|_| EncodeError::Encoder)?;
        // QUIRK(dhcproto): it sorts option 82 and drops what it cannot read of it; RFC 3046 section 2.2 wants it
        // back unchanged and last, so it goes between the other options and the END that was just written.
        if !self.relay.is_empty() {
            if bytes.pop() != Some(code::END) {
                return Err(EncodeError::Encoder);
            }
            for part in self.relay.chunks(OPTION_BYTES_MAX) {
                bytes.push(code::RELAY_AGENT);
                bytes.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                bytes.extend_from_slice(part);
            }
            bytes.push(code::END);
        }
        if bytes.len() < PACKET_BYTES_MIN {
            bytes.resize(PACKET_BYTES_MIN, code::PAD);
        }
        Ok(bytes)
    }

    fn set_text(&mut self, code: u8, text: &str) -> Result<&mut Self, EncodeError> {
        if text.contains('\0') {
            return Err(EncodeError::Nul(code));
        }
        self.set_bytes(code, &[text.as_bytes(), &[0]].concat())
    }

    /// Callers have bounded `bytes`.
    fn insert(&mut self, code: u8, bytes: Vec<u8>) -> &mut Self {
        // QUIRK(dhcproto): an unparsed option 82 among the others is written twice.
        if code == code::RELAY_AGENT {
            self.relay = bytes;
            return self;
        }
        let option = UnknownOption::new(OptionCode::from(code), bytes);
        self.inner.opts_mut().insert(DhcpOption::Unknown(option));
        self
    }
}
