//! Packets: bytes to values and back, read leniently and written strictly.

/// RFC 1350 section 5, and 2347 for the last.
const READ: u16 = 1;
const WRITE: u16 = 2;
pub(crate) const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
pub(crate) const OACK: u16 = 6;

/// A file name longer than this is nobody's.
pub const NAME_BYTES_MAX: usize = 255;
/// Options of one request; the RFCs know five. What follows is ignored.
const OPTIONS_MAX: usize = 16;

/// RFC 1350 section 5, error codes.
pub mod error_code {
    /// File not found.
    pub const NOT_FOUND: u16 = 1;
    /// Access violation.
    pub const ACCESS: u16 = 2;
    /// Illegal TFTP operation.
    pub const ILLEGAL: u16 = 4;
    /// Unknown transfer ID.
    pub const UNKNOWN_TRANSFER: u16 = 5;
    /// RFC 2347: the options do not suit. Firmware also says it when it wanted the size alone.
    pub const OPTIONS: u16 = 8;
}

/// What a node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// RRQ.
    Read(ReadRequest),
    /// WRQ; what for is of no interest.
    Write,
    /// ACK of a block; 0 accepts the options.
    Ack(u16),
    /// ERROR with its code.
    Error(u16),
}

/// A wish to read, with the options that we know and whose values make sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadRequest {
    /// A relative path of printable characters: not empty, no leading slash, no `.` or `..` in it.
    pub name: String,
    /// Bytes of a block, 8 to 65464 (RFC 2348).
    pub blksize: Option<u16>,
    /// The node wants to know the size (RFC 2349).
    pub tsize: bool,
    /// Seconds, 1 to 255 (RFC 2349).
    pub timeout: Option<u8>,
    /// Blocks, at least 1 (RFC 7440).
    pub windowsize: Option<u16>,
}

impl Packet {
    /// Reads one datagram. `None` for what no node has reason to send.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (opcode, rest) = bytes.split_first_chunk()?;
        match u16::from_be_bytes(*opcode) {
            READ => Some(Self::Read(ReadRequest::parse(rest)?)),
            WRITE => Some(Self::Write),
            ACK => Some(Self::Ack(u16::from_be_bytes(*rest.first_chunk()?))),
            ERROR => Some(Self::Error(u16::from_be_bytes(*rest.first_chunk()?))),
            _ => None,
        }
    }
}

impl ReadRequest {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.split(|byte| *byte == 0);
        let name = clean_name(fields.next()?)?;
        // QUIRK: `netascii` is asked for by some ROMs that want the bytes as they are; no boot file is text.
        let mode = fields.next()?;
        if !mode.eq_ignore_ascii_case(b"octet") && !mode.eq_ignore_ascii_case(b"netascii") {
            return None;
        }
        let mut request = Self { name, ..Self::default() };
        for _ in 0..OPTIONS_MAX {
            let (Some(option), Some(value)) = (fields.next(), fields.next()) else { break };
            request.take_option(option, value);
        }
        Some(request)
    }

    /// Unknown options are left unanswered, as RFC 2347 wants.
    fn take_option(&mut self, option: &[u8], value: &[u8]) {
        let value = number(value);
        match option.to_ascii_lowercase().as_slice() {
            b"blksize" => self.blksize = small(value).filter(|bytes| (8..=65_464).contains(bytes)),
            b"tsize" => self.tsize = true,
            b"timeout" => self.timeout = value.and_then(|s| u8::try_from(s).ok()).filter(|s| *s > 0),
            b"windowsize" => self.windowsize = small(value).filter(|blocks| *blocks > 0),
            _ => {}
        }
    }

    /// The request as a node sends it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [&READ.to_be_bytes()[..], self.name.as_bytes(), b"\0octet\0"].concat();
        if self.tsize {
            option(&mut bytes, "tsize", 0);
        }
        let numbers = [
            ("blksize", self.blksize.map(u64::from)),
            ("timeout", self.timeout.map(u64::from)),
            ("windowsize", self.windowsize.map(u64::from)),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                option(&mut bytes, name, value);
            }
        }
        bytes
    }
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// DATA: number of the block, and its bytes.
    Data(u16, &'a [u8]),
    /// OACK with the options that the server agreed to.
    Options {
        /// Size of the file in bytes.
        tsize: Option<u64>,
        /// Bytes of a block.
        blksize: Option<u16>,
        /// Blocks of a window.
        windowsize: Option<u16>,
    },
    /// ERROR with its code.
    Error(u16),
}

impl<'a> Reply<'a> {
    /// Reads one datagram. `None` for what no server has reason to send.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (opcode, rest) = bytes.split_first_chunk()?;
        match u16::from_be_bytes(*opcode) {
            DATA => {
                let (block, data) = rest.split_first_chunk()?;
                Some(Self::Data(u16::from_be_bytes(*block), data))
            }
            OACK => Some(Self::parse_options(rest)),
            ERROR => Some(Self::Error(u16::from_be_bytes(*rest.first_chunk()?))),
            _ => None,
        }
    }

    fn parse_options(bytes: &[u8]) -> Self {
        let (mut tsize, mut blksize, mut windowsize) = (None, None, None);
        let mut fields = bytes.split(|byte| *byte == 0);
        for _ in 0..OPTIONS_MAX {
            let (Some(option), Some(value)) = (fields.next(), fields.next()) else { break };
            let value = number(value);
            match option.to_ascii_lowercase().as_slice() {
                b"tsize" => tsize = value,
                b"blksize" => blksize = small(value).filter(|bytes| *bytes >= 8),
                b"windowsize" => windowsize = small(value).filter(|blocks| *blocks > 0),
                _ => {}
            }
        }
        Self::Options { tsize, blksize, windowsize }
    }
}

/// An ERROR packet. `text` is for people and must have no NUL.
#[must_use]
pub fn error_packet(code: u16, text: &str) -> Vec<u8> {
    [&ERROR.to_be_bytes()[..], &code.to_be_bytes(), text.as_bytes(), &[0]].concat()
}

/// An ACK packet.
pub(crate) fn ack_packet(block: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (ACK.to_be_bytes(), block.to_be_bytes());
    [a, b, c, d]
}

/// One option with its value, as in RRQ and OACK.
pub(crate) fn option(bytes: &mut Vec<u8>, name: &str, value: u64) {
    bytes.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
}

/// Decimal digits and nothing else: `parse` alone would take a sign.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

fn small(value: Option<u64>) -> Option<u16> {
    value.and_then(|value| u16::try_from(value).ok())
}

/// QUIRK(old ROMs): the byte behind an unterminated DHCP option (0xff) or blanks end up behind the name.
/// QUIRK(Windows loaders): `\` between directories.
fn clean_name(bytes: &[u8]) -> Option<String> {
    let junk = |byte: &u8| *byte == 0xff || *byte == b' ';
    let end = bytes.iter().rposition(|byte| !junk(byte))? + 1;
    let name = std::str::from_utf8(bytes.get(..end)?).ok()?.replace('\\', "/");
    let name = name.trim_start_matches('/');
    let odd = name.chars().any(char::is_control) || name.split('/').any(|part| part == "." || part == "..");
    (!name.is_empty() && name.len() <= NAME_BYTES_MAX && !odd).then(|| name.to_owned())
}
