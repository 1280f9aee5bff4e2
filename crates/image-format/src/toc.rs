//! The table of contents: every entry and every frame of an image, as one checked value.

mod encode;
mod parse;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use encode::encode_toc;

use crate::id::{Hash, ImageId};
use crate::manifest::Manifest;
use crate::tree::{DataExtent, FileContent, Metadata, Node, NodeKind, OwnerNames, Xattr};

/// First bytes of a table of contents; one more says the version, as a digit.
pub(crate) const TOC_MAGIC: &[u8; 7] = b"ESIRTOC";

pub(crate) const KIND_DIRECTORY: u8 = 0;
pub(crate) const KIND_FILE: u8 = 1;
pub(crate) const KIND_SYMLINK: u8 = 2;
pub(crate) const KIND_CHAR_DEVICE: u8 = 3;
pub(crate) const KIND_BLOCK_DEVICE: u8 = 4;
pub(crate) const KIND_FIFO: u8 = 5;
pub(crate) const KIND_SOCKET: u8 = 6;
pub(crate) const KIND_HARD_LINK: u8 = 7;
pub(crate) const KIND_SPARSE_FILE: u8 = 8;

/// What a reader is willing to hold. Each bound is far above real images and far below what hurts.
#[derive(Clone, Copy, Debug)]
pub struct TocLimits {
    /// Bytes of the uncompressed table. Default 512 MiB: about five million entries.
    pub toc_bytes_max: u64,
    /// Entries. Default 8 million.
    pub entries_max: u64,
    /// Frames. Default 4 million: 16 TiB in containers that hold one frame each.
    pub frames_max: u64,
    /// Length of the image file: no frame may end behind it. Default: unknown, no bound.
    pub image_bytes: u64,
}

impl Default for TocLimits {
    fn default() -> Self {
        Self {
            toc_bytes_max: 512 << 20,
            entries_max: 8_000_000,
            frames_max: 4_000_000,
            image_bytes: u64::MAX,
        }
    }
}

/// A table that must not be used. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum TocError {
    /// The first bytes are something else.
    #[error("this is not a table of contents")]
    Magic,
    /// Ours, but of another time.
    #[error("the table of contents has a version that this program does not know: use a newer one")]
    Version,
    /// It ends early, or an integer is not in its shortest form.
    #[error("the table of contents is malformed at byte {0}")]
    Malformed(usize),
    /// A count or length is above [`TocLimits`].
    #[error("the table of contents claims {what} of {value}; at most {limit} is accepted")]
    Limit {
        /// Which count or length.
        what: &'static str,
        /// What it claims.
        value: u64,
        /// What is accepted.
        limit: u64,
    },
    /// A frame is impossible.
    #[error("frame {frame} of the table of contents: {what}")]
    Frame {
        /// Its position in the list.
        frame: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry is impossible.
    #[error("entry {entry} of the table of contents ({name}): {what}")]
    Entry {
        /// Its position in the list.
        entry: u64,
        /// Its last path component.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The compressed form cannot be unpacked.
    #[error("the table of contents cannot be decompressed")]
    Compressed(#[source] std::io::Error),
    /// It is not the one that the manifest names.
    #[error("the table of contents does not belong to this manifest: its hash is {found}, not {expected}")]
    OtherImage {
        /// What the manifest says.
        expected: ImageId,
        /// What the bytes hash to.
        found: ImageId,
    },
}

/// A frame whose bytes must not be used.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not as long as the table says.
    #[error("the frame is {found} bytes long, not {expected}")]
    Length {
        /// Bytes that the table gives.
        expected: u32,
        /// Bytes that came.
        found: usize,
    },
    /// Right length, wrong bytes.
    #[error("the frame's bytes do not have the hash that the table of contents gives")]
    Hash,
    /// Right bytes, but they do not unpack to what the table says: the image was built wrongly.
    #[error("the frame does not decompress to {expected} bytes")]
    Content {
        /// Bytes that the table gives.
        expected: u32,
        /// What the decompressor said, if it said anything.
        #[source]
        source: Option<std::io::Error>,
    },
}

/// Position of a frame; only a [`Toc`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameIndex(u32);

impl FrameIndex {
    /// As a number, counted from 0 in the order of the file.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Position of an entry; only a [`Toc`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryIndex(u32);

impl EntryIndex {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    /// As a number, counted from 0 in the order of the table.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// One independent zstd frame of the image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// First byte in the image file.
    pub offset: u64,
    /// Compressed bytes.
    pub len: u32,
    /// Bytes of tar stream that it holds, at most [`crate::FRAME_RAW_BYTES_MAX`].
    pub raw_len: u32,
    /// First byte in the tar stream.
    pub raw_offset: u64,
    /// BLAKE3 of the compressed bytes.
    pub hash: Hash,
}

impl FrameEntry {
    /// The bytes of the image file that must be present to read this frame.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len as u64
    }
}

/// A run of one file's data within one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The file.
    pub entry: EntryIndex,
    /// The frame.
    pub frame: FrameIndex,
    /// First byte within the uncompressed frame.
    pub frame_offset: u32,
    /// First byte within the file.
    pub file_offset: u64,
    /// Bytes.
    pub len: u32,
}

impl Extent {
    /// Where it lies in the file.
    #[must_use]
    pub fn file_range(&self) -> Range<u64> {
        self.file_offset..self.file_offset + u64::from(self.len)
    }
}

/// What two regular files with data have in common that are the same but for names and attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContentId {
    /// BLAKE3 of the data extents one after the other.
    pub hash: Hash,
    /// Bytes, holes counted.
    pub size: u64,
    /// Where the data is in a file with holes, which the hash says nothing of; empty for others.
    pub extents: Vec<DataExtent>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file; its data: [`Toc::extents`].
    File {
        /// Bytes, holes counted.
        size: u64,
        /// BLAKE3 of its data extents one after the other; `None` if it has none.
        hash: Option<Hash>,
        /// Whether parts of it are holes.
        sparse: bool,
    },
    /// A symbolic link; where to: [`Toc::link_target`].
    Symlink,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Another name of an earlier entry's inode.
    HardLink {
        /// That entry; never a directory or itself a hard link.
        to: EntryIndex,
    },
}

/// One name in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Owner, mode, time, flags; all zero for a hard link, whose inode is elsewhere.
    pub metadata: Metadata,
    parent: EntryIndex,
    depth: u32,
    name: Range<u32>,
    target: Range<u32>,
    extents: Range<u32>,
    xattr_set: u32,
    owner: u32,
}

impl Entry {
    /// The directory that holds it; the root is its own parent.
    #[must_use]
    pub const fn parent(&self) -> EntryIndex {
        self.parent
    }

    /// Path components; 0 for the root.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }
}

/// A checked table of contents: everything a node needs to know before it writes.
///
/// Directories come before what is in them; names within a directory ascend by bytes; the data of the entries
/// follows in the same order in the tar stream.
#[derive(Debug)]
pub struct Toc {
    bytes: Vec<u8>,
    image_id: ImageId,
    container_bytes: u64,
    frames: Vec<FrameEntry>,
    entries: Vec<Entry>,
    extents: Vec<Extent>,
    /// First extent of each frame, and one past the last.
    frame_extents: Vec<u32>,
    xattr_sets: Vec<Vec<Xattr>>,
    owners: Vec<Owner>,
}

/// Who an inode belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) names: OwnerNames,
}

impl Toc {
    /// Checks the uncompressed `bytes` of a table.
    ///
    /// # Errors
    /// See [`TocError`]; nothing in `bytes` is trusted, and memory stays within a small multiple of `limits`.
    pub fn parse(bytes: &[u8], limits: &TocLimits) -> Result<Self, TocError> {
        parse::parse(bytes.to_vec(), limits)
    }

    /// Unpacks and checks the table that `manifest` names from the bytes at [`Manifest::toc_range`].
    ///
    /// # Errors
    /// See [`TocError`]; the hash is checked before anything is parsed.
    pub fn from_compressed(compressed: &[u8], manifest: &Manifest) -> Result<Self, TocError> {
        let limits = TocLimits { image_bytes: manifest.file_size, ..TocLimits::default() };
        let raw_len = manifest.toc.raw_len;
        Self::from_compressed_parts(compressed, raw_len, &manifest.image_id, &limits)
    }

    /// As [`Toc::from_compressed`], for a reader that has the file's own header instead of a manifest.
    ///
    /// # Errors
    /// See [`TocError`].
    pub fn from_compressed_parts(
        compressed: &[u8],
        raw_len: u64,
        expected: &ImageId,
        limits: &TocLimits,
    ) -> Result<Self, TocError> {
        let limit = limits.toc_bytes_max;
        let too_large = TocError::Limit { what: "an uncompressed length", value: raw_len, limit };
        let capacity = match usize::try_from(raw_len) {
            Ok(capacity) if raw_len <= limit => capacity,
            _ => return Err(too_large),
        };
        let bytes = zstd::bulk::decompress(compressed, capacity).map_err(TocError::Compressed)?;
        let found = Hash::of(&bytes);
        if found != *expected {
            return Err(TocError::OtherImage { expected: *expected, found });
        }
        parse::parse(bytes, limits)
    }

    /// The hash of the table: the image's name.
    #[must_use]
    pub const fn image_id(&self) -> ImageId {
        self.image_id
    }

    /// The uncompressed table, as hashed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// No frame crosses a multiple of this many bytes of the image file.
    #[must_use]
    pub const fn container_bytes(&self) -> u64 {
        self.container_bytes
    }

    /// All frames in the order of the file.
    #[must_use]
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// The index of frame `raw`, if there is one.
    #[must_use]
    pub fn frame_index(&self, raw: u32) -> Option<FrameIndex> {
        self.frames.get(raw as usize).map(|_| FrameIndex(raw))
    }

    /// All frame indices.
    pub fn frame_indices(&self) -> impl ExactSizeIterator<Item = FrameIndex> + use<> {
        (0..u32::try_from(self.frames.len()).unwrap_or(u32::MAX)).map(FrameIndex)
    }

    /// One frame; `None` only for an index of another, longer table.
    #[must_use]
    pub fn frame(&self, index: FrameIndex) -> Option<&FrameEntry> {
        self.frames.get(index.0 as usize)
    }

    /// Which runs of which files a frame holds, in the frame's order.
    #[must_use]
    pub fn frame_extents(&self, index: FrameIndex) -> &[Extent] {
        let bound = |at: usize| self.frame_extents.get(at).map(|&bound| bound as usize);
        match (bound(index.0 as usize), bound(index.0 as usize + 1)) {
            (Some(from), Some(to)) => self.extents.get(from..to).unwrap_or_default(),
            _ => &[],
        }
    }

    /// All entries with their indices; the root first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (EntryIndex, &Entry)> + DoubleEndedIterator {
        self.entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (EntryIndex(u32::try_from(index).unwrap_or(u32::MAX)), entry))
    }

    /// The index of entry `raw`, if there is one.
    #[must_use]
    pub fn entry_index(&self, raw: u32) -> Option<EntryIndex> {
        self.entries.get(raw as usize).map(|_| EntryIndex(raw))
    }

    /// One entry; `None` only for an index of another, longer table.
    #[must_use]
    pub fn entry(&self, index: EntryIndex) -> Option<&Entry> {
        self.entries.get(index.0 as usize)
    }

    /// An entry's last path component; empty for the root.
    #[must_use]
    pub fn name(&self, entry: &Entry) -> &[u8] {
        self.text(&entry.name)
    }

    /// Where a symbolic link points; empty for anything else.
    #[must_use]
    pub fn link_target(&self, entry: &Entry) -> &[u8] {
        self.text(&entry.target)
    }

    /// An entry's extended attributes, ascending by name.
    #[must_use]
    pub fn xattrs(&self, entry: &Entry) -> &[Xattr] {
        self.xattr_sets.get(entry.xattr_set as usize).map(Vec::as_slice).unwrap_or_default()
    }

    /// What an entry's owner and group are called; empty for a hard link, and where nobody knew.
    #[must_use]
    pub fn owner_names(&self, entry: &Entry) -> OwnerNames {
        self.owners.get(entry.owner as usize).map(|owner| owner.names.clone()).unwrap_or_default()
    }

    /// A file's data: where each run lies, ascending.
    #[must_use]
    pub fn extents(&self, entry: &Entry) -> &[Extent] {
        self.extents.get(entry.extents.start as usize..entry.extents.end as usize).unwrap_or_default()
    }

    /// An entry's path beneath the root with `/` between names; empty for the root.
    #[must_use]
    pub fn path(&self, index: EntryIndex) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = index;
        while let Some(entry) = self.entry(at).filter(|_| at != EntryIndex::ROOT) {
            names.push(self.name(entry));
            at = entry.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// An entry as a builder's value, for comparing and for making its tar header.
    #[must_use]
    pub fn node(&self, index: EntryIndex) -> Option<Node> {
        let entry = self.entry(index)?;
        let kind = match entry.kind {
            EntryKind::Directory => NodeKind::Directory,
            EntryKind::File { size, .. } => {
                NodeKind::File(FileContent { size, extents: self.data_extents(entry) })
            }
            EntryKind::Symlink => NodeKind::Symlink { target: self.link_target(entry).to_vec() },
            EntryKind::CharDevice { major, minor } => NodeKind::CharDevice { major, minor },
            EntryKind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
            EntryKind::Fifo => NodeKind::Fifo,
            EntryKind::Socket => NodeKind::Socket,
            EntryKind::HardLink { to } => NodeKind::HardLink { to: to.0 as usize },
        };
        let (names, xattrs) = (self.owner_names(entry), self.xattrs(entry).to_vec());
        Some(Node { path: self.path(index), metadata: entry.metadata, names, xattrs, kind })
    }

    /// What makes a file's contents; `None` for one without data and for all that is no file.
    #[must_use]
    pub fn content_id(&self, entry: &Entry) -> Option<ContentId> {
        let EntryKind::File { size, hash: Some(hash), sparse } = entry.kind else { return None };
        let extents = if sparse { self.data_extents(entry) } else { Vec::new() };
        Some(ContentId { hash, size, extents })
    }

    /// A file's data without regard to frames.
    fn data_extents(&self, entry: &Entry) -> Vec<DataExtent> {
        let mut merged: Vec<DataExtent> = Vec::new();
        for extent in self.extents(entry) {
            match merged.last_mut() {
                Some(last) if last.offset + last.len == extent.file_offset => {
                    last.len += u64::from(extent.len)
                }
                _ => merged.push(DataExtent { offset: extent.file_offset, len: u64::from(extent.len) }),
            }
        }
        merged
    }

    fn text(&self, range: &Range<u32>) -> &[u8] {
        self.bytes.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

/// Checks a frame's hash and, only then, decompresses it into `raw`, which becomes exactly `frame.raw_len` long.
///
/// # Errors
/// See [`FrameError`]; `raw`'s contents are then of no meaning.
pub fn decompress_frame(frame: &FrameEntry, compressed: &[u8], raw: &mut Vec<u8>) -> Result<(), FrameError> {
    if compressed.len() != frame.len as usize {
        return Err(FrameError::Length { expected: frame.len, found: compressed.len() });
    }
    if Hash::of(compressed) != frame.hash {
        return Err(FrameError::Hash);
    }
    raw.resize(frame.raw_len as usize, 0);
    match zstd::bulk::decompress_to_buffer(compressed, raw.as_mut_slice()) {
        Ok(len) if len == raw.len() => Ok(()),
        Ok(_) => Err(FrameError::Content { expected: frame.raw_len, source: None }),
        Err(source) => Err(FrameError::Content { expected: frame.raw_len, source: Some(source) }),
    }
}
