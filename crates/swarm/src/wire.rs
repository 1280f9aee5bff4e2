//! The peer wire protocol: BEP 3, fast extension (BEP 6), extension protocol (BEP 10).
//!
//! A block's bytes never become part of a [`Message`]: [`Decoded`] gives them beside it, so the engine and a
//! simulator handle lengths only.

use crate::geometry::{BLOCK_BYTES, Block};
use crate::metainfo::InfoHash;

/// Length of a handshake in bytes.
pub const HANDSHAKE_BYTES: usize = 68;

/// Length of what stands before a block's bytes: length prefix, kind, piece, begin.
pub const BLOCK_HEAD_BYTES: usize = 13;

/// Largest extended message (BEP 10) taken: 64 KiB.
pub const EXTENDED_BYTES_MAX: usize = 64 * 1024;

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// A peer's 20-byte name for one run.
pub type PeerId = [u8; 20];

/// The first 68 bytes of each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Who speaks.
    pub peer_id: PeerId,
    /// It speaks BEP 6.
    pub fast: bool,
    /// It speaks BEP 10.
    pub extended: bool,
}

impl Handshake {
    /// Reads a handshake; `None` if another protocol is spoken.
    pub fn parse(bytes: &[u8; HANDSHAKE_BYTES]) -> Option<Handshake> {
        let (protocol, rest) = bytes.split_first_chunk::<20>()?;
        let (reserved, rest) = rest.split_first_chunk::<8>()?;
        let (info_hash, rest) = rest.split_first_chunk::<20>()?;
        let (peer_id, _) = rest.split_first_chunk::<20>()?;
        let [.., fifth, _, seventh] = reserved;
        (protocol == PROTOCOL).then_some(Handshake {
            info_hash: InfoHash(*info_hash),
            peer_id: *peer_id,
            fast: seventh & 0x04 != 0,
            extended: fifth & 0x10 != 0,
        })
    }

    /// The bytes to send.
    pub fn encode(&self) -> [u8; HANDSHAKE_BYTES] {
        let fifth = if self.extended { 0x10 } else { 0 };
        let seventh = if self.fast { 0x04 } else { 0 };
        let reserved = [0, 0, 0, 0, 0, fifth, 0, seventh];
        let parts = PROTOCOL.iter().chain(&reserved).chain(&self.info_hash.0).chain(&self.peer_id);
        let mut bytes = [0; HANDSHAKE_BYTES];
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        bytes
    }
}

/// A block as the wire names it; not yet known to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawBlock {
    /// Piece number.
    pub piece: u32,
    /// Bytes from the piece's start.
    pub begin: u32,
    /// Length in bytes.
    pub len: u32,
}

impl From<Block> for RawBlock {
    fn from(block: Block) -> RawBlock {
        RawBlock { piece: block.piece().get(), begin: block.begin(), len: block.bytes() }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// No content; says the connection lives.
    KeepAlive,
    /// I won't answer requests.
    Choke,
    /// I will answer requests.
    Unchoke,
    /// You have something that I want.
    Interested,
    /// You have nothing that I want.
    NotInterested,
    /// I have this piece.
    Have(u32),
    /// I have these pieces.
    Bitfield(Vec<u8>),
    /// Send me this block.
    Request(RawBlock),
    /// This block; its bytes follow.
    Piece(RawBlock),
    /// Don't send me this block.
    Cancel(RawBlock),
    /// You might want this piece (BEP 6).
    Suggest(u32),
    /// I have everything (BEP 6).
    HaveAll,
    /// I have nothing (BEP 6).
    HaveNone,
    /// I won't send this block (BEP 6).
    Reject(RawBlock),
    /// You may ask for this piece even while choked (BEP 6).
    AllowedFast(u32),
    /// BEP 10: 0 is the handshake, other numbers are the receiver's.
    Extended {
        /// The receiver's number for the kind of message.
        id: u8,
        /// Its content.
        payload: Vec<u8>,
    },
    /// A kind that we don't know; ignored.
    Other(u8),
}

/// Why a peer's bytes are no message. Each of these ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length prefix alone is over the limit; nothing was read or allocated for it.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooLong {
        /// The length that the peer announced.
        bytes: usize,
        /// What this torrent allows.
        limit: usize,
    },
    /// The length doesn't fit the kind.
    #[error("a message of kind {id} can not be {bytes} bytes long")]
    BadLength {
        /// The kind.
        id: u8,
        /// Its content's length.
        bytes: usize,
    },
}

/// A message, its block's bytes if it is a [`Message::Piece`], and how many bytes of the input it took.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The message.
    pub message: Message,
    /// The block's bytes; empty for other kinds.
    pub data: &'a [u8],
    /// Bytes used, with the length prefix.
    pub used: usize,
}

/// Cuts messages out of a stream of bytes, for one torrent.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    bitfield_bytes: usize,
}

impl Decoder {
    /// A decoder for a torrent of `pieces` pieces.
    pub fn new(pieces: u32) -> Decoder {
        Decoder { bitfield_bytes: (pieces as usize).div_ceil(8) }
    }

    /// The longest message in bytes, with its length prefix: how large an input buffer must be.
    pub fn message_bytes_max(&self) -> usize {
        let longest = (EXTENDED_BYTES_MAX + 2).max(BLOCK_BYTES as usize + 9).max(self.bitfield_bytes + 1);
        longest + 4
    }

    /// The first message of `input`; `None` if more bytes are needed.
    pub fn decode<'a>(&self, input: &'a [u8]) -> Result<Option<Decoded<'a>>, WireError> {
        let Some((prefix, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        let limit = self.message_bytes_max() - 4;
        if length > limit {
            return Err(WireError::TooLong { bytes: length, limit });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (message, data) = match body.split_first() {
            None => (Message::KeepAlive, Default::default()),
            Some((&id, content)) => self.message(id, content)?,
        };
        Ok(Some(Decoded { message, data, used: 4 + length }))
    }

    fn message<'a>(&self, id: u8, content: &'a [u8]) -> Result<(Message, &'a [u8]), WireError> {
        let bad = WireError::BadLength { id, bytes: content.len() };
        let message = match (id, content) {
            (0, []) => Message::Choke,
            (1, []) => Message::Unchoke,
            (2, []) => Message::Interested,
            (3, []) => Message::NotInterested,
            (4, _) => Message::Have(number(content).ok_or(bad)?),
            (5, _) if content.len() == self.bitfield_bytes => Message::Bitfield(content.to_vec()),
            (6, _) => Message::Request(block(content).ok_or(bad)?),
            (7, _) => {
                let (head, data) = content.split_first_chunk::<8>().ok_or(bad)?;
                let (piece, begin) = (u32_at(head, 0), u32_at(head, 4));
                let len = u32::try_from(data.len()).ok().filter(|&len| len > 0 && len <= BLOCK_BYTES);
                return Ok((Message::Piece(RawBlock { piece, begin, len: len.ok_or(bad)? }), data));
            }
            (8, _) => Message::Cancel(block(content).ok_or(bad)?),
            (13, _) => Message::Suggest(number(content).ok_or(bad)?),
            (14, []) => Message::HaveAll,
            (15, []) => Message::HaveNone,
            (16, _) => Message::Reject(block(content).ok_or(bad)?),
            (17, _) => Message::AllowedFast(number(content).ok_or(bad)?),
            (20, [id, payload @ ..]) => Message::Extended { id: *id, payload: payload.to_vec() },
            (0..=3 | 5 | 14 | 15 | 20, _) => return Err(bad),
            (other, _) => Message::Other(other),
        };
        Ok((message, Default::default()))
    }
}

/// Reads what stands before a block's bytes, for who lets these go straight to their place; `None` if it is
/// the start of another message, an error if no block is that long.
pub fn block_head(head: &[u8; BLOCK_HEAD_BYTES]) -> Result<Option<RawBlock>, WireError> {
    let [a, b, c, d, id, ..] = *head;
    if id != 7 {
        return Ok(None);
    }
    let bytes = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(1);
    let len = u32::try_from(bytes).ok().and_then(|bytes| bytes.checked_sub(8));
    let len = len.filter(|&len| len > 0 && len <= BLOCK_BYTES).ok_or(WireError::BadLength { id, bytes })?;
    Ok(Some(RawBlock { piece: u32_at(head, 5), begin: u32_at(head, 9), len }))
}

impl Message {
    /// Appends the message; of a [`Message::Piece`] the header only, whose block's bytes must follow.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::KeepAlive => out.extend([0; 4]),
            Message::Choke => head(out, 0, 0),
            Message::Unchoke => head(out, 1, 0),
            Message::Interested => head(out, 2, 0),
            Message::NotInterested => head(out, 3, 0),
            Message::Have(piece) => numbers(out, 4, &[*piece]),
            Message::Bitfield(bytes) => {
                head(out, 5, bytes.len());
                out.extend_from_slice(bytes);
            }
            Message::Request(block) => numbers(out, 6, &[block.piece, block.begin, block.len]),
            Message::Piece(block) => {
                head(out, 7, 8 + block.len as usize);
                out.extend(block.piece.to_be_bytes());
                out.extend(block.begin.to_be_bytes());
            }
            Message::Cancel(block) => numbers(out, 8, &[block.piece, block.begin, block.len]),
            Message::Suggest(piece) => numbers(out, 13, &[*piece]),
            Message::HaveAll => head(out, 14, 0),
            Message::HaveNone => head(out, 15, 0),
            Message::Reject(block) => numbers(out, 16, &[block.piece, block.begin, block.len]),
            Message::AllowedFast(piece) => numbers(out, 17, &[*piece]),
            Message::Extended { id, payload } => {
                head(out, 20, 1 + payload.len());
                out.push(*id);
                out.extend_from_slice(payload);
            }
            Message::Other(id) => head(out, *id, 0),
        }
    }

    /// How many bytes the message takes on the wire, with a block's bytes.
    pub fn wire_bytes(&self) -> usize {
        match self {
            Message::KeepAlive => 4,
            Message::Have(_) | Message::Suggest(_) | Message::AllowedFast(_) => 9,
            Message::Bitfield(bytes) => 5 + bytes.len(),
            Message::Request(_) | Message::Cancel(_) | Message::Reject(_) => 17,
            Message::Piece(block) => 13 + block.len as usize,
            Message::Extended { payload, .. } => 6 + payload.len(),
            Message::Choke
            | Message::Unchoke
            | Message::Interested
            | Message::NotInterested
            | Message::HaveAll
            | Message::HaveNone
            | Message::Other(_) => 5,
        }
    }
}

fn head(out: &mut Vec<u8>, id: u8, content_bytes: usize) {
    // Contents are bounded far below 4 GiB by construction.
    out.extend(u32::try_from(content_bytes + 1).unwrap_or(u32::MAX).to_be_bytes());
    out.push(id);
}

fn numbers(out: &mut Vec<u8>, id: u8, numbers: &[u32]) {
    head(out, id, numbers.len() * 4);
    out.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
}

fn number(content: &[u8]) -> Option<u32> {
    content.try_into().ok().map(u32::from_be_bytes)
}

fn block(content: &[u8]) -> Option<RawBlock> {
    let content: &[u8; 12] = content.try_into().ok()?;
    Some(RawBlock { piece: u32_at(content, 0), begin: u32_at(content, 4), len: u32_at(content, 8) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECES: u32 = 100;

    fn raw_block(len: impl Strategy<Value = u32>) -> impl Strategy<Value = RawBlock> {
        (any::<u32>(), any::<u32>(), len).prop_map(|(piece, begin, len)| RawBlock { piece, begin, len })
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            Just(Message::KeepAlive),
            Just(Message::Choke),
            Just(Message::Unchoke),
            Just(Message::Interested),
            Just(Message::NotInterested),
            Just(Message::HaveAll),
            Just(Message::HaveNone),
            any::<u32>().prop_map(Message::Have),
            any::<u32>().prop_map(Message::Suggest),
            any::<u32>().prop_map(Message::AllowedFast),
            prop::collection::vec(any::<u8>(), 13).prop_map(Message::Bitfield),
            raw_block(any::<u32>()).prop_map(Message::Request),
            raw_block(1..=BLOCK_BYTES).prop_map(Message::Piece),
            raw_block(any::<u32>()).prop_map(Message::Cancel),
            raw_block(any::<u32>()).prop_map(Message::Reject),
            (any::<u8>(), prop::collection::vec(any::<u8>(), 0..99))
                .prop_map(|(id, payload)| Message::Extended { id, payload }),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire_however_they_are_cut(message in message(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            if let Message::Piece(block) = &message {
                bytes.extend(vec![7; block.len as usize]);
            }
            prop_assert_eq!(bytes.len(), message.wire_bytes());
            let decoder = Decoder::new(PIECES);
            prop_assert_eq!(decoder.decode(&bytes[..cut.index(bytes.len())]).unwrap(), None);
            bytes.extend([1, 2, 3]);
            let decoded = decoder.decode(&bytes).unwrap().unwrap();
            prop_assert_eq!(decoded.used, message.wire_bytes());
            prop_assert_eq!(decoded.data.len(), if let Message::Piece(block) = &message { block.len as usize } else { 0 });
            prop_assert_eq!(decoded.message, message);
        }

        #[test]
        fn any_bytes_decode_within_their_own_length(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(decoded)) = Decoder::new(PIECES).decode(&bytes) {
                prop_assert!(decoded.used <= bytes.len());
            }
        }

        #[test]
        fn handshakes_survive(info_hash in any::<[u8; 20]>(), peer_id in any::<[u8; 20]>(), fast: bool, extended: bool) {
            let handshake = Handshake { info_hash: InfoHash(info_hash), peer_id, fast, extended };
            prop_assert_eq!(Handshake::parse(&handshake.encode()), Some(handshake));
        }
    }

    #[test]
    fn an_oversize_length_is_refused_from_its_prefix_alone() {
        let decoder = Decoder::new(PIECES);
        let limit = EXTENDED_BYTES_MAX + 2;
        let prefix = u32::try_from(limit + 1).unwrap().to_be_bytes();
        assert_eq!(decoder.decode(&prefix), Err(WireError::TooLong { bytes: limit + 1, limit }));
    }

    #[test]
    fn a_wrong_length_for_the_kind_is_refused() {
        for (id, bytes) in [(0, 1), (4, 3), (5, 12), (5, 14), (6, 11), (7, 8), (7, 16_393), (14, 1), (20, 0)]
        {
            let mut input = Vec::new();
            head(&mut input, id, bytes);
            input.extend(vec![0; bytes]);
            assert_eq!(
                Decoder::new(PIECES).decode(&input),
                Err(WireError::BadLength { id, bytes }),
                "{id} {bytes}"
            );
        }
    }

    #[test]
    fn another_protocol_is_no_handshake() {
        assert_eq!(Handshake::parse(&[0; HANDSHAKE_BYTES]), None);
    }
}
