//! Piece and block numbers that can't be out of range.

use crate::PIECES_MAX;

/// What one request asks for at most: 16 KiB (BEP 3; stock peers refuse more).
pub const BLOCK_BYTES: u32 = 16 * 1024;

/// Largest piece length taken from a metainfo: 64 MiB. Ours are 64 KiB to 4 MiB.
pub const PIECE_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// A piece that exists in its torrent; made only by [`Geometry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The number on the wire.
    pub fn get(self) -> u32 {
        self.0
    }

    pub(crate) fn at(self) -> usize {
        self.0 as usize
    }
}

/// A range of bytes inside one existing piece, not empty and at most [`BLOCK_BYTES`] long; made only by
/// [`Geometry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    piece: PieceIndex,
    begin: u32,
    len: u32,
}

impl Block {
    /// The piece it lies in.
    pub fn piece(self) -> PieceIndex {
        self.piece
    }

    /// Bytes from the start of the piece.
    pub fn begin(self) -> u32 {
        self.begin
    }

    /// Length in bytes: 1 to [`BLOCK_BYTES`].
    pub fn bytes(self) -> u32 {
        self.len
    }

    /// Its place among the piece's 16 KiB blocks.
    pub(crate) fn number(self) -> usize {
        (self.begin / BLOCK_BYTES) as usize
    }
}

/// Why lengths don't make a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Nothing to distribute.
    #[error("the file is empty")]
    Empty,
    /// Zero, or more than [`PIECE_BYTES_MAX`].
    #[error("a piece length of {0} bytes is not between 1 and {PIECE_BYTES_MAX}")]
    PieceLength(u32),
    /// More pieces than [`PIECES_MAX`].
    #[error("{0} pieces are more than {PIECES_MAX}; use longer pieces")]
    TooManyPieces(u64),
}

/// The lengths of a torrent, and with them the only maker of [`PieceIndex`] and [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    length: u64,
    piece_bytes: u32,
    pieces: u32,
}

impl Geometry {
    /// A file of `length` bytes in pieces of `piece_bytes`.
    pub fn new(length: u64, piece_bytes: u32) -> Result<Geometry, GeometryError> {
        if length == 0 {
            return Err(GeometryError::Empty);
        }
        if piece_bytes == 0 || piece_bytes > PIECE_BYTES_MAX {
            return Err(GeometryError::PieceLength(piece_bytes));
        }
        let count = length.div_ceil(u64::from(piece_bytes));
        let pieces = u32::try_from(count).ok().filter(|&pieces| pieces <= PIECES_MAX);
        let pieces = pieces.ok_or(GeometryError::TooManyPieces(count))?;
        Ok(Geometry { length, piece_bytes, pieces })
    }

    /// Length of the whole file in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Length of every piece but the last, in bytes.
    pub fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// The piece with this number, if there is one.
    pub fn piece(&self, raw: u32) -> Option<PieceIndex> {
        (raw < self.pieces).then_some(PieceIndex(raw))
    }

    /// All pieces in order.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        (0..self.pieces).map(PieceIndex)
    }

    /// Where the piece begins in the file.
    pub fn offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_bytes)
    }

    /// The piece's length in bytes; the last one may be shorter.
    pub fn bytes_of(&self, piece: PieceIndex) -> u32 {
        let rest = self.length - self.offset(piece);
        u32::try_from(rest.min(u64::from(self.piece_bytes))).unwrap_or(self.piece_bytes)
    }

    /// How many 16 KiB blocks the piece has; the last one may be shorter.
    pub fn blocks_of(&self, piece: PieceIndex) -> u32 {
        self.bytes_of(piece).div_ceil(BLOCK_BYTES)
    }

    /// Block number `number` of the piece, aligned at 16 KiB: what we ask for.
    pub fn block(&self, piece: PieceIndex, number: usize) -> Option<Block> {
        let begin = u32::try_from(number).ok()?.checked_mul(BLOCK_BYTES)?;
        let rest = self.bytes_of(piece).checked_sub(begin).filter(|&rest| rest > 0)?;
        Some(Block { piece, begin, len: rest.min(BLOCK_BYTES) })
    }

    /// A block as a peer names it: any range inside the piece, 1 to 16 KiB long.
    pub fn checked(&self, piece: u32, begin: u32, len: u32) -> Option<Block> {
        let piece = self.piece(piece)?;
        let end = begin.checked_add(len)?;
        (len > 0 && len <= BLOCK_BYTES && end <= self.bytes_of(piece)).then_some(Block { piece, begin, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_and_block_may_be_short() {
        let geometry = Geometry::new(40_000, 32_768).unwrap();
        assert_eq!(geometry.pieces(), 2);
        let last = geometry.piece(1).unwrap();
        assert_eq!((geometry.bytes_of(last), geometry.blocks_of(last)), (7_232, 1));
        assert_eq!(geometry.block(last, 0).unwrap().bytes(), 7_232);
        assert_eq!(geometry.block(last, 1), None);
        assert_eq!(geometry.piece(2), None);
    }

    #[test]
    fn a_block_outside_its_piece_can_not_be_made() {
        let geometry = Geometry::new(40_000, 32_768).unwrap();
        assert!(geometry.checked(0, 16_384, 16_384).is_some());
        for (piece, begin, len) in
            [(0, 16_385, 16_384), (1, 0, 16_384), (2, 0, 1), (0, 0, 0), (0, 0, 16_385), (0, u32::MAX, 1)]
        {
            assert_eq!(geometry.checked(piece, begin, len), None, "{piece} {begin} {len}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(Geometry::new(0, 1), Err(GeometryError::Empty));
        assert_eq!(Geometry::new(1, 0), Err(GeometryError::PieceLength(0)));
        assert_eq!(Geometry::new(1 << 40, 1), Err(GeometryError::TooManyPieces(1 << 40)));
    }
}
