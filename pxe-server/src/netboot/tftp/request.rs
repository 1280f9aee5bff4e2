//! Packets from nodes: bytes to values.

/// RFC 1350 section 5, and 2347 for the last.
const READ: u16 = 1;
const WRITE: u16 = 2;
const ACK: u16 = 4;
const ERROR: u16 = 5;

/// A file name longer than this is nobody's.
const NAME_BYTES_MAX: usize = 255;

/// RFC 1350 section 5, error codes.
pub(super) mod error_code {
    pub(in super::super) const NOT_FOUND: u16 = 1;
    pub(in super::super) const ACCESS: u16 = 2;
    pub(in super::super) const ILLEGAL: u16 = 4;
}

/// What a node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Read(ReadRequest),
    Write,
    Ack(u16),
    Error(u16),
}

/// A wish to read, with the options that we know and whose values make sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadRequest {
    /// Without leading slash; never empty.
    pub(super) name: String,
    /// Bytes of a block, 8 to 65464 (RFC 2348).
    pub(super) blksize: Option<u16>,
    /// The node wants to know the size (RFC 2349).
    pub(super) tsize: bool,
    /// Seconds, 1 to 255 (RFC 2349).
    pub(super) timeout: Option<u8>,
    /// Blocks, at least 1 (RFC 7440).
    pub(super) windowsize: Option<u16>,
}

/// Reads one datagram. `None` for what no node has reason to send.
pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
    let (opcode, rest) = bytes.split_first_chunk()?;
    match u16::from_be_bytes(*opcode) {
        READ => Some(Packet::Read(parse_read(rest)?)),
        WRITE => Some(Packet::Write),
        ACK => Some(Packet::Ack(u16::from_be_bytes(*rest.first_chunk()?))),
        ERROR => Some(Packet::Error(u16::from_be_bytes(*rest.first_chunk()?))),
        _ => None,
    }
}

/// An ERROR packet.
pub(super) fn error(code: u16, text: &str) -> Vec<u8> {
    [&ERROR.to_be_bytes()[..], &code.to_be_bytes(), text.as_bytes(), &[0]].concat()
}

fn parse_read(bytes: &[u8]) -> Option<ReadRequest> {
    let mut fields = bytes.split(|byte| *byte == 0);
    let name = clean_name(fields.next()?)?;
    // QUIRK: `netascii` is asked for by some ROMs that want the bytes as they are; no boot file is text.
    let mode = fields.next()?;
    if !mode.eq_ignore_ascii_case(b"octet") && !mode.eq_ignore_ascii_case(b"netascii") {
        return None;
    }
    let mut request = ReadRequest { name, ..ReadRequest::default() };
    while let (Some(option), Some(value)) = (fields.next(), fields.next()) {
        let value = std::str::from_utf8(value).ok().and_then(|value| value.parse::<u32>().ok());
        match option.to_ascii_lowercase().as_slice() {
            b"blksize" => request.blksize = small(value).filter(|bytes| (8..=65_464).contains(bytes)),
            b"tsize" => request.tsize = true,
            b"timeout" => request.timeout = value.and_then(|s| u8::try_from(s).ok()).filter(|s| *s > 0),
            b"windowsize" => request.windowsize = small(value).filter(|blocks| *blocks > 0),
            // Unknown options are left unanswered, as RFC 2347 wants.
            _ => {}
        }
    }
    Some(request)
}

fn small(value: Option<u32>) -> Option<u16> {
    value.and_then(|value| u16::try_from(value).ok())
}

/// QUIRK(old ROMs): the byte behind an unterminated DHCP option (0xff) or blanks end up behind the name.
/// QUIRK(Windows loaders): `\` between directories.
fn clean_name(bytes: &[u8]) -> Option<String> {
    let junk = |byte: &u8| *byte == 0xff || *byte == b' ';
    let end = bytes.iter().rposition(|byte| !junk(byte))? + 1;
    let name = std::str::from_utf8(bytes.get(..end)?).ok()?.replace('\\', "/");
    let name = name.trim_start_matches('/');
    (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then(|| name.to_owned())
}
