//! File-mode images: bytes to values and back.
//!
//! Never opens a file, a socket or a clock: whoever has the bytes passes them in, and nothing in them is trusted.
//!
//! Read first: [`Toc`] (what a node writes from), [`Manifest`] (what is signed), [`Tree`] (what a builder starts
//! from). The format is described byte by byte in `docs/image-format.md`.
#![forbid(unsafe_code)]

mod bytes;
mod container;
#[cfg(test)]
mod golden;
mod id;
mod manifest;
mod memory;
mod pack;
mod signature;
mod tar_header;
mod toc;
mod tree;

pub use container::{
    CONTAINER_BYTES, FRAME_RAW_BYTES_MAX, HEADER_FRAME_BYTES, Header, HeaderError, PAD_HEADER_BYTES,
    TOC_FRAME_HEADER_BYTES, next_container, pad_frame, piece_size_for, toc_frame_header,
};
pub use id::{Hash, ImageId, ParseHashError};
pub use manifest::{
    Boot, DELTA_FILES, DELTA_MANIFEST, DELTA_TABLE, Delta, FileSystem, MANIFEST_BYTES_MAX, Manifest,
    ManifestError, Mode, SourceFileSystem, TocLocation, parse_manifest,
};
pub use memory::{MemoryImage, TOC_LEVEL, build_in_memory, encode_front};
pub use pack::{PackError, PackedFrame, Packer, plan_toc_space};
pub use signature::{KeyId, SignatureError, verify_signature};
pub use tar_header::{
    END_OF_ARCHIVE, HeaderTooLong, TarLayout, data_padding, file_flag_by_name, hard_link_target, tar_header,
    tar_header_with,
};
pub use toc::{
    ContentId, Entry, EntryIndex, EntryKind, Extent, FrameEntry, FrameError, FrameIndex, Toc, TocError,
    TocLimits, decompress_frame, encode_toc,
};
pub use tree::{
    DataExtent, FILE_FLAGS_KEPT, FileContent, Metadata, Node, NodeKind, OwnerNames, PARTITION_FILE,
    Timestamp, Tree, TreeError, Xattr,
};
