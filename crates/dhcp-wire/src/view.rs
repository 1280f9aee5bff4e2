//! The lenient view: what can be read of a packet, without trusting any of it.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use crate::code;
use crate::mac::MacAddr;

/// Largest packet that is looked at; option 57 allows more, nobody sends it, and one read buffer is this long.
pub const PACKET_BYTES_MAX: usize = 4096;

/// Fixed header and magic cookie (RFC 2131 section 2).
const HEADER_BYTES: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const CHADDR: usize = 28;
const CHADDR_BYTES: usize = 16;
const SNAME: usize = 44;
const SNAME_BYTES: usize = 64;
const FILE: usize = 108;
const FILE_BYTES: usize = 128;
const MAGIC_AT: usize = 236;
/// `htype` of Ethernet.
const ETHERNET: u8 = 1;

/// Why bytes are no DHCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the fixed header.
    #[error("{0} bytes are no DHCP packet: at least {HEADER_BYTES} are needed")]
    Short(usize),
    /// Longer than [`PACKET_BYTES_MAX`].
    #[error("{0} bytes are more than a DHCP packet may have here ({PACKET_BYTES_MAX})")]
    Long(usize),
    /// `hlen` is larger than the field it measures.
    #[error("a hardware address of {0} bytes does not fit its field of {CHADDR_BYTES}")]
    HardwareLength(u8),
    /// BOOTP without the magic cookie, or something else.
    #[error("the magic cookie is missing")]
    Magic,
}

/// Option 53 (RFC 2132 section 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// Node: who has an address for me?
    Discover,
    /// Server: this one.
    Offer,
    /// Node: I take it, I still have it, or I want to go on.
    Request,
    /// Node: somebody else uses it.
    Decline,
    /// Server: it is yours.
    Ack,
    /// Server: it is not yours.
    Nak,
    /// Node: I need it no more.
    Release,
    /// Node: I have an address, tell me the rest.
    Inform,
}

impl MessageKind {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Release => 7,
            Self::Inform => 8,
        }
    }

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }
}

/// A packet whose header is whole. Options are read on demand; a bad one hides nothing that stands before it.
#[derive(Clone, Copy)]
pub struct PacketView<'a> {
    bytes: &'a [u8],
}

impl<'a> PacketView<'a> {
    /// Looks at `bytes`, the payload of one UDP datagram.
    ///
    /// # Errors
    /// Bytes whose header cannot be read; bad options are no error.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() < HEADER_BYTES {
            return Err(DecodeError::Short(bytes.len()));
        }
        if bytes.len() > PACKET_BYTES_MAX {
            return Err(DecodeError::Long(bytes.len()));
        }
        let view = Self { bytes };
        // QUIRK(dhcproto): `hlen` is not checked there, and values above 16 panic; hence our own view.
        if usize::from(view.hlen()) > CHADDR_BYTES {
            return Err(DecodeError::HardwareLength(view.hlen()));
        }
        if view.field(MAGIC_AT) != MAGIC {
            return Err(DecodeError::Magic);
        }
        Ok(view)
    }

    /// The whole packet.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// True for BOOTREQUEST (from a node), false for anything else.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.field::<1>(0) == [1]
    }

    /// True for BOOTREPLY (from a server), false for anything else.
    #[must_use]
    pub fn is_reply(&self) -> bool {
        self.field::<1>(0) == [2]
    }

    /// Relays passed so far.
    #[must_use]
    pub fn hops(&self) -> u8 {
        let [hops] = self.field(3);
        hops
    }

    /// Transaction number, chosen by the node.
    #[must_use]
    pub fn xid(&self) -> u32 {
        u32::from_be_bytes(self.field(4))
    }

    /// Seconds that the node has been trying. QUIRK(iPXE): it packs a counter and flags in here.
    #[must_use]
    pub fn secs(&self) -> u16 {
        u16::from_be_bytes(self.field(8))
    }

    /// True if the node cannot take unicast before it is configured.
    #[must_use]
    pub fn wants_broadcast(&self) -> bool {
        u16::from_be_bytes(self.field(10)) & 0x8000 != 0
    }

    /// The address that the node has.
    #[must_use]
    pub fn ciaddr(&self) -> Ipv4Addr {
        self.address(12)
    }

    /// The address that the node gets.
    #[must_use]
    pub fn yiaddr(&self) -> Ipv4Addr {
        self.address(16)
    }

    /// The server of the next stage.
    #[must_use]
    pub fn siaddr(&self) -> Ipv4Addr {
        self.address(20)
    }

    /// The relay; unspecified if none.
    #[must_use]
    pub fn giaddr(&self) -> Ipv4Addr {
        self.address(24)
    }

    /// The node's hardware address, if it is an Ethernet address of one NIC.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddr> {
        let [htype] = self.field(1);
        let mac = MacAddr(self.field(CHADDR));
        (htype == ETHERNET && self.hlen() == 6 && mac.is_unicast()).then_some(mac)
    }

    /// The field `sname` up to its first NUL; empty when it carries options.
    #[must_use]
    pub fn server_name(&self) -> &'a [u8] {
        if self.overload() & 2 != 0 { &[] } else { until_nul(self.area(SNAME, SNAME_BYTES)) }
    }

    /// Option 67, else the field `file`, without trailing NULs.
    #[must_use]
    pub fn boot_file(&self) -> Cow<'a, [u8]> {
        if let Some(name) = self.option(code::BOOT_FILE) {
            return match name {
                Cow::Borrowed(bytes) => Cow::Borrowed(until_nul(bytes)),
                Cow::Owned(bytes) => Cow::Owned(until_nul(&bytes).to_vec()),
            };
        }
        Cow::Borrowed(if self.overload() & 1 != 0 { &[] } else { until_nul(self.area(FILE, FILE_BYTES)) })
    }

    /// Every option in the order of the packet, those in `file` and `sname` last (option 52).
    pub fn options(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let overload = self.overload();
        let file = if overload & 1 != 0 { self.area(FILE, FILE_BYTES) } else { &[] };
        let sname = if overload & 2 != 0 { self.area(SNAME, SNAME_BYTES) } else { &[] };
        self.main_options().chain(OptionWalk::new(file)).chain(OptionWalk::new(sname))
    }

    /// The option's bytes; parts of a long option joined (RFC 3396).
    #[must_use]
    pub fn option(&self, wanted: u8) -> Option<Cow<'a, [u8]>> {
        let mut parts = self.options().filter(|(code, _)| *code == wanted).map(|(_, part)| part);
        let first = parts.next()?;
        Some(parts.fold(Cow::Borrowed(first), |mut joined, part| {
            joined.to_mut().extend_from_slice(part);
            joined
        }))
    }

    /// Option 53.
    #[must_use]
    pub fn kind(&self) -> Option<MessageKind> {
        MessageKind::from_number(*self.option(code::MESSAGE_KIND)?.first()?)
    }

    /// An option that is one address, or the first of several.
    #[must_use]
    pub fn address_option(&self, code: u8) -> Option<Ipv4Addr> {
        self.addresses_option(code).first().copied()
    }

    /// An option that is a list of addresses; bytes beyond whole addresses are left out.
    #[must_use]
    pub fn addresses_option(&self, code: u8) -> Vec<Ipv4Addr> {
        let bytes = self.option(code).unwrap_or_default();
        bytes.chunks_exact(4).filter_map(|part| <[u8; 4]>::try_from(part).ok()).map(Ipv4Addr::from).collect()
    }

    /// An option that is one big-endian number of 32 bits, such as a time in seconds.
    #[must_use]
    pub fn number_option(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.option(code)?.as_ref().try_into().ok()?))
    }

    /// Option 93: what the firmware can start, best first. QUIRK: several are allowed, most ROMs send one.
    #[must_use]
    pub fn architectures(&self) -> Vec<u16> {
        let bytes = self.option(code::ARCHITECTURE).unwrap_or_default();
        bytes
            .chunks_exact(2)
            .filter_map(|part| <[u8; 2]>::try_from(part).ok())
            .map(u16::from_be_bytes)
            .collect()
    }

    /// Option 97 as text `01234567-89ab-cdef-...`; `None` if absent, malformed, all zeros or all ones.
    ///
    /// QUIRK(SMBIOS): the first three fields are little-endian on the wire.
    #[must_use]
    pub fn machine_uuid(&self) -> Option<String> {
        let option = self.option(code::MACHINE_ID)?;
        let (&[0], uuid) = option.split_first_chunk::<1>()? else { return None };
        let uuid: [u8; 16] = uuid.try_into().ok()?;
        if uuid == [0; 16] || uuid == [0xff; 16] {
            return None;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = uuid;
        Some(format!(
            "{d:02x}{c:02x}{b:02x}{a:02x}-{f:02x}{e:02x}-{h:02x}{g:02x}-{i:02x}{j:02x}-\
             {k:02x}{l:02x}{m:02x}{n:02x}{o:02x}{p:02x}"
        ))
    }

    /// A sub-option of the relay agent information (option 82).
    #[must_use]
    pub fn relay_option(&self, wanted: u8) -> Option<Vec<u8>> {
        let relay = self.option(code::RELAY_AGENT)?;
        OptionWalk::plain(&relay).find(|(code, _)| *code == wanted).map(|(_, part)| part.to_vec())
    }

    fn hlen(&self) -> u8 {
        let [hlen] = self.field(2);
        hlen
    }

    /// Option 52: bit 0 says that `file` carries options, bit 1 that `sname` does.
    fn overload(&self) -> u8 {
        let found = self.main_options().find(|(code, _)| *code == code::OVERLOAD);
        found.and_then(|(_, value)| value.first().copied()).unwrap_or(0)
    }

    fn main_options(&self) -> OptionWalk<'a> {
        OptionWalk::new(self.bytes.get(HEADER_BYTES..).unwrap_or_default())
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::from(self.field::<4>(at))
    }

    /// `N` bytes of the header, which `new` has found to be there.
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.area(at, N).try_into().unwrap_or([0; N])
    }

    fn area(&self, at: usize, len: usize) -> &'a [u8] {
        self.bytes.get(at..at.saturating_add(len)).unwrap_or_default()
    }
}

impl std::fmt::Debug for PacketView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketView")
            .field("kind", &self.kind())
            .field("mac", &self.mac())
            .field("xid", &format_args!("{:08x}", self.xid()))
            .field("ciaddr", &self.ciaddr())
            .field("yiaddr", &self.yiaddr())
            .field("giaddr", &self.giaddr())
            .finish_non_exhaustive()
    }
}

/// Options (code, length, value) one after the other; ends at the first that is cut off.
#[derive(Clone, Debug)]
pub struct OptionWalk<'a> {
    rest: &'a [u8],
    /// Sub-options have no pad and no end; 0 and 255 are ordinary codes there.
    markers: bool,
}

impl<'a> OptionWalk<'a> {
    /// Walks over the options of a packet: pad is skipped, END ends.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, markers: true }
    }

    /// Walks over sub-options, as in option 82.
    #[must_use]
    pub fn plain(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, markers: false }
    }
}

impl<'a> Iterator for OptionWalk<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&code, rest) = self.rest.split_first()?;
            if self.markers && code == code::PAD {
                self.rest = rest;
                continue;
            }
            if self.markers && code == code::END {
                self.rest = &[];
                return None;
            }
            let split = rest.split_first().and_then(|(&len, rest)| rest.split_at_checked(usize::from(len)));
            let (value, rest) = split.unwrap_or_default();
            self.rest = rest;
            return split.is_some().then_some((code, value));
        }
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
