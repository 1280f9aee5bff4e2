//! The image file's outer shape: skippable frames in front, containers behind, and the numbers that go with them.

use crate::id::ImageId;

/// Bytes of a container: no data frame crosses a multiple of it. Equal to the largest piece, so that a container is
/// always a whole number of pieces, and large enough that independent frames cost under one percent of size.
pub const CONTAINER_BYTES: u64 = 4 << 20;
/// Bounds for other builders' containers.
pub(crate) const CONTAINER_BYTES_MIN: u64 = 64 << 10;
pub(crate) const CONTAINER_BYTES_MAX: u64 = 64 << 20;

/// Most tar-stream bytes in one frame: bounds a node's memory per thread. 8 MiB would cost 1.3 % of size.
pub const FRAME_RAW_BYTES_MAX: u32 = 16 << 20;

/// Smallest and largest piece (BEP 3 leaves it open; small pieces make the swarm fast).
const PIECE_BYTES_MIN: u64 = 64 << 10;
const PIECE_BYTES_MAX: u64 = 4 << 20;
/// Pieces that an image should have: enough for every node to have something that its neighbour lacks.
const PIECES_WANTED: u64 = 3000;

/// Magic numbers of zstd skippable frames (RFC 8878 section 3.1.2) that we use, little endian in the file.
const SKIPPABLE_OURS: u32 = 0x184D_2A5D;
const SKIPPABLE_PAD: u32 = 0x184D_2A50;

const HEADER_MAGIC: &[u8; 8] = b"ESIRIMG\0";
/// The version of everything: header, table of contents, tar stream and manifest. This is what we write; all since
/// the first are read. `docs/image-format.md` says when it must change.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// See [`FORMAT_VERSION`].
pub(crate) const FORMAT_VERSION_OLDEST: u32 = 1;
const HEADER_PAYLOAD_BYTES: u32 = 80;

/// Length of the first frame of an image file.
pub const HEADER_FRAME_BYTES: u64 = 8 + HEADER_PAYLOAD_BYTES as u64;
/// Bytes before the compressed table of contents in its frame.
pub const TOC_FRAME_HEADER_BYTES: u64 = 8;
/// Bytes before the zeros of a pad; the shortest pad.
pub const PAD_HEADER_BYTES: u64 = 8;

/// The first frame of an image file: where its table of contents lies. It is a convenience for reading a file by
/// itself; a node believes only the signed manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// First byte of the compressed table in the file.
    pub toc_offset: u64,
    /// Its compressed bytes.
    pub toc_len: u64,
    /// Its uncompressed bytes.
    pub toc_raw_len: u64,
    /// Its hash.
    pub image_id: ImageId,
    /// No frame crosses a multiple of this.
    pub container_bytes: u64,
}

/// Not the beginning of an image file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Other bytes.
    #[error("this is not an ESIR image: it does not begin with our header")]
    NotAnImage,
    /// Ours, but of another time.
    #[error(
        "the image has format version {0}; this program reads {FORMAT_VERSION_OLDEST} to {FORMAT_VERSION}: use a newer one"
    )]
    Version(u32),
}

impl Header {
    /// The whole first frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&SKIPPABLE_OURS.to_le_bytes());
        bytes.extend_from_slice(&HEADER_PAYLOAD_BYTES.to_le_bytes());
        bytes.extend_from_slice(HEADER_MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        for value in [self.toc_offset, self.toc_len, self.toc_raw_len] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(self.image_id.as_bytes());
        bytes.extend_from_slice(&self.container_bytes.to_le_bytes());
        bytes
    }

    /// Reads the first [`HEADER_FRAME_BYTES`] of a file; the values are not checked against each other.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = crate::bytes::Reader::new(bytes);
        let mut parse = || -> Result<Result<Self, HeaderError>, crate::bytes::Malformed> {
            let magic = u32::from_le_bytes(reader.array()?);
            let len = u32::from_le_bytes(reader.array()?);
            let ours: [u8; 8] = reader.array()?;
            if magic != SKIPPABLE_OURS || ours != *HEADER_MAGIC {
                return Ok(Err(HeaderError::NotAnImage));
            }
            let version = u32::from_le_bytes(reader.array()?);
            if !(FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&version) || len != HEADER_PAYLOAD_BYTES {
                return Ok(Err(HeaderError::Version(version)));
            }
            reader.array::<4>()?;
            Ok(Ok(Self {
                toc_offset: u64::from_le_bytes(reader.array()?),
                toc_len: u64::from_le_bytes(reader.array()?),
                toc_raw_len: u64::from_le_bytes(reader.array()?),
                image_id: ImageId::new(reader.array()?),
                container_bytes: u64::from_le_bytes(reader.array()?),
            }))
        };
        parse().unwrap_or(Err(HeaderError::NotAnImage))
    }
}

/// What stands before a compressed table of `toc_len` bytes. `None` when it is too long for a frame.
#[must_use]
pub fn toc_frame_header(toc_len: u64) -> Option<[u8; 8]> {
    skippable(SKIPPABLE_OURS, toc_len)
}

/// A pad of exactly `len` bytes in the file. `None` below [`PAD_HEADER_BYTES`] and above 4 GiB.
#[must_use]
pub fn pad_frame(len: u64) -> Option<Vec<u8>> {
    let zeros = len.checked_sub(PAD_HEADER_BYTES)?;
    let mut bytes = skippable(SKIPPABLE_PAD, zeros)?.to_vec();
    bytes.resize(usize::try_from(len).ok()?, 0);
    Some(bytes)
}

fn skippable(magic: u32, len: u64) -> Option<[u8; 8]> {
    let len = u32::try_from(len).ok()?.to_le_bytes();
    let [a, b, c, d] = magic.to_le_bytes();
    let [e, f, g, h] = len;
    Some([a, b, c, d, e, f, g, h])
}

/// The first container boundary at or behind `offset`.
#[must_use]
pub const fn next_container(offset: u64) -> u64 {
    offset.next_multiple_of(CONTAINER_BYTES)
}

/// The default piece length for an image of `file_size` bytes: 2^round(log2(file_size / 3000)), 64 KiB to 4 MiB.
#[must_use]
pub fn piece_size_for(file_size: u64) -> u64 {
    let mut piece = PIECE_BYTES_MIN;
    // round(log2 x) > k exactly when x * x > 2^(2k + 1), and so without floating point.
    let square = |value: u64| u128::from(value) * u128::from(value);
    while piece < PIECE_BYTES_MAX && square(file_size / PIECES_WANTED) > 2 * square(piece) {
        piece *= 2;
    }
    piece
}

#[cfg(test)]
mod tests {
    use super::{Header, HeaderError, pad_frame, piece_size_for};
    use crate::id::Hash;

    #[test]
    fn pieces_grow_with_the_image() {
        for (mib, kib) in [
            (0, 64),
            (36, 64),
            (149, 64),
            (468, 128),
            (600, 256),
            (1500, 512),
            (8000, 2048),
            (12_000, 4096),
            (1 << 20, 4096),
        ] {
            assert_eq!(piece_size_for(mib << 20), kib << 10, "{mib} MiB");
        }
    }

    #[test]
    fn header_comes_back_and_others_are_named() {
        let header = Header {
            toc_offset: 96,
            toc_len: 7,
            toc_raw_len: 9,
            image_id: Hash::of(b"x"),
            container_bytes: 1 << 22,
        };
        let mut bytes = header.encode();
        assert_eq!(bytes.len() as u64, super::HEADER_FRAME_BYTES);
        assert_eq!(Header::parse(&bytes), Ok(header));
        bytes[16] = 1;
        assert_eq!(Header::parse(&bytes), Ok(header), "version 1 is read too");
        bytes[16] = 9;
        assert_eq!(Header::parse(&bytes), Err(HeaderError::Version(9)));
        assert_eq!(Header::parse(&bytes[..40]), Err(HeaderError::Version(9)));
        assert_eq!(Header::parse(b"ELF"), Err(HeaderError::NotAnImage));
    }

    #[test]
    fn pads_have_the_length_asked_for() {
        assert_eq!(pad_frame(7), None);
        assert_eq!(pad_frame(8).map(|pad| pad.len()), Some(8));
        assert_eq!(pad_frame(1000).map(|pad| pad.len()), Some(1000));
    }
}
