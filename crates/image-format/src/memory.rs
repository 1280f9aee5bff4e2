//! A whole image in memory: for tests here and in the crates that read images, and for images of a few MB.

use std::ops::Range;

use crate::container::{
    CONTAINER_BYTES, HEADER_FRAME_BYTES, Header, TOC_FRAME_HEADER_BYTES, pad_frame, piece_size_for,
    toc_frame_header,
};
use crate::id::Hash;
use crate::manifest::{Boot, FileSystem, Manifest, Mode, TocLocation};
use crate::pack::{PackError, PackedFrame, Packer, plan_toc_space};
use crate::tar_header::{END_OF_ARCHIVE, TarLayout, data_padding, hard_link_target, tar_header};
use crate::toc::encode_toc;
use crate::tree::{FileContent, NodeKind, Tree};

/// zstd level of the table of contents: it is small, so better than the data's.
pub const TOC_LEVEL: i32 = 15;

/// An image and its companions.
#[derive(Debug, Clone)]
pub struct MemoryImage {
    /// The bytes of `X.esir`.
    pub image: Vec<u8>,
    /// Its manifest, with an info-hash of zeros: no metainfo is made here.
    pub manifest: Manifest,
    /// The bytes of `X.esir.pieces`.
    pub pieces: Vec<u8>,
}

impl MemoryImage {
    /// Some bytes of the image; empty if they lie outside.
    #[must_use]
    pub fn bytes(&self, range: Range<u64>) -> &[u8] {
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
            return &[];
        };
        self.image.get(start..end).unwrap_or_default()
    }

    /// The compressed table of contents.
    #[must_use]
    pub fn compressed_toc(&self) -> &[u8] {
        self.bytes(self.manifest.toc_range())
    }
}

/// What stands before the first data frame: exactly `space` bytes, or `None` if the table needs more.
#[must_use]
pub fn encode_front(toc: &[u8], compressed: &[u8], space: u64) -> Option<Vec<u8>> {
    let header = Header {
        toc_offset: HEADER_FRAME_BYTES + TOC_FRAME_HEADER_BYTES,
        toc_len: compressed.len() as u64,
        toc_raw_len: toc.len() as u64,
        image_id: Hash::of(toc),
        container_bytes: CONTAINER_BYTES,
    };
    let mut front = header.encode();
    front.extend_from_slice(&toc_frame_header(compressed.len() as u64)?);
    front.extend_from_slice(compressed);
    let rest = space.checked_sub(front.len() as u64)?;
    if rest > 0 {
        front.extend_from_slice(&pad_frame(rest)?);
    }
    Some(front)
}

/// Builds an image of `tree`. `content` gives a file's data (its extents one after the other) by node index.
///
/// # Errors
/// Compression failed; memory is the only thing that can be missing.
pub fn build_in_memory(
    tree: &Tree,
    content: &dyn Fn(usize) -> Vec<u8>,
    name: &str,
) -> Result<MemoryImage, PackError> {
    let other = |error: crate::HeaderTooLong| PackError::Compress(std::io::Error::other(error));
    let layout = TarLayout::new(tree).map_err(other)?;
    let mut stream = Vec::new();
    let mut hashes = Vec::new();
    for (index, node) in tree.nodes().iter().enumerate() {
        stream.extend_from_slice(&tar_header(node, hard_link_target(tree, node)).map_err(other)?);
        let data = if matches!(node.kind, NodeKind::File(_)) { content(index) } else { Vec::new() };
        hashes.push((!data.is_empty()).then(|| Hash::of(&data)));
        stream.extend_from_slice(&data);
        let padding = usize::try_from(data_padding(data.len() as u64)).unwrap_or(0);
        stream.resize(stream.len() + padding, 0);
    }
    stream.extend_from_slice(&END_OF_ARCHIVE);
    let compress = |toc: &[u8]| zstd::bulk::compress(toc, TOC_LEVEL).map_err(PackError::Compress);
    let draft = compress(&encode_toc(tree, &layout, &[], &[], CONTAINER_BYTES))?;
    let space =
        plan_toc_space(draft.len() as u64, hashes.iter().flatten().count() as u64, stream.len() as u64);
    let mut packer = Packer::new(Vec::new(), 3, space)?;
    packer.push(&stream)?;
    let (frames, data, _) = packer.finish()?;
    let toc = encode_toc(tree, &layout, &hashes, &frames, CONTAINER_BYTES);
    let compressed = compress(&toc)?;
    let mut image = encode_front(&toc, &compressed, space)
        .ok_or_else(|| PackError::Compress(std::io::Error::other("the table of contents needs more room")))?;
    image.extend_from_slice(&data);
    Ok(describe(tree, name, image, &toc, compressed.len() as u64, &frames))
}

fn describe(
    tree: &Tree,
    name: &str,
    image: Vec<u8>,
    toc: &[u8],
    toc_len: u64,
    frames: &[PackedFrame],
) -> MemoryImage {
    debug_assert!(frames.last().is_none_or(|last| last.offset + u64::from(last.len) == image.len() as u64));
    let file_size = image.len() as u64;
    let piece_size = piece_size_for(file_size);
    let pieces: Vec<u8> = image
        .chunks(usize::try_from(piece_size).unwrap_or(usize::MAX))
        .flat_map(|piece| *Hash::of(piece).as_bytes())
        .collect();
    let data_bytes =
        |kind: &NodeKind| if let NodeKind::File(file) = kind { FileContent::data_bytes(file) } else { 0 };
    let manifest = Manifest {
        format: Manifest::format_name(),
        version: Manifest::format_version(),
        mode: Mode::Files,
        delta: None,
        name: name.to_owned(),
        image_id: Hash::of(toc),
        file_size,
        piece_size,
        piece_count: u32::try_from(pieces.len() / 32).unwrap_or(u32::MAX),
        pieces_hash: Hash::of(&pieces),
        info_hash: [0; 20],
        toc: TocLocation {
            offset: HEADER_FRAME_BYTES + TOC_FRAME_HEADER_BYTES,
            len: toc_len,
            raw_len: toc.len() as u64,
        },
        container_bytes: CONTAINER_BYTES,
        entries: tree.nodes().len() as u64,
        content_bytes: tree.nodes().iter().map(|node| data_bytes(&node.kind)).sum(),
        architecture: None,
        distribution: None,
        kernel: None,
        boot: Boot::default(),
        root_file_system: FileSystem { kind: "ext4".to_owned(), features: Vec::new() },
        source_file_systems: Vec::new(),
    };
    MemoryImage { image, manifest, pieces }
}
