//! A tree and its frames as the bytes of a table of contents.

use std::collections::HashMap;

use super::{
    KIND_BLOCK_DEVICE, KIND_CHAR_DEVICE, KIND_DIRECTORY, KIND_FIFO, KIND_FILE, KIND_HARD_LINK, KIND_SOCKET,
    KIND_SPARSE_FILE, KIND_SYMLINK, TOC_MAGIC,
};
use crate::bytes::Writer;
use crate::container::FORMAT_VERSION;
use crate::id::Hash;
use crate::pack::PackedFrame;
use crate::tar_header::TarLayout;
use crate::tree::{FileContent, Metadata, Node, NodeKind, OwnerNames, Tree, Xattr};

/// The uncompressed table for `tree`: equal arguments give equal bytes.
///
/// `layout` says where each file's data begins in the tar stream, `hashes` holds each file's content hash by node
/// index, `frames` is the packed stream with offsets in the image file.
#[must_use]
pub fn encode_toc(
    tree: &Tree,
    layout: &TarLayout,
    hashes: &[Option<Hash>],
    frames: &[PackedFrame],
    container_bytes: u64,
) -> Vec<u8> {
    let mut writer = Writer::default();
    let (sets, set_of) = collect_xattr_sets(tree.nodes());
    let (owners, owner_of) = collect_owners(tree.nodes());
    writer.raw(TOC_MAGIC);
    // One digit: by version 10 the rest of this line will be another, too.
    writer.raw(&FORMAT_VERSION.to_string().into_bytes());
    writer.varint(container_bytes);
    writer.varint(sets.len() as u64);
    writer.varint(owners.len() as u64);
    writer.varint(frames.len() as u64);
    writer.varint(tree.nodes().len() as u64);
    for set in &sets {
        encode_xattrs(&mut writer, set);
    }
    for (uid, gid, names) in &owners {
        writer.varint(u64::from(*uid));
        writer.varint(u64::from(*gid));
        writer.counted(&names.user);
        writer.counted(&names.group);
    }
    let mut end = 0;
    for frame in frames {
        writer.varint(frame.offset.saturating_sub(end));
        writer.varint(u64::from(frame.len));
        writer.varint(u64::from(frame.raw_len));
        writer.raw(frame.hash.as_bytes());
        end = frame.offset + u64::from(frame.len);
    }
    let mut data_end = 0;
    for (index, node) in tree.nodes().iter().enumerate() {
        let shared = Shared {
            xattr_set: set_of.get(index).copied().unwrap_or_default(),
            owner: owner_of.get(index).copied().unwrap_or_default(),
        };
        encode_entry(&mut writer, node, &shared);
        if let NodeKind::File(content) = &node.kind {
            let hash = hashes.get(index).copied().flatten();
            let data_offset = layout.data_offset(index);
            encode_content(&mut writer, content, hash, &mut data_end, data_offset);
        }
    }
    writer.finish()
}

/// The different sets in the order of their first use, and each node's set counted from 1; 0 is the empty set.
fn collect_xattr_sets(nodes: &[Node]) -> (Vec<&[Xattr]>, Vec<u64>) {
    let mut sets: Vec<&[Xattr]> = Vec::new();
    let mut known: HashMap<&[Xattr], u64> = HashMap::new();
    let set_of = nodes
        .iter()
        .map(|node| {
            if node.xattrs.is_empty() {
                return 0;
            }
            *known.entry(&node.xattrs).or_insert_with(|| {
                sets.push(&node.xattrs);
                sets.len() as u64
            })
        })
        .collect();
    (sets, set_of)
}

/// An owner's numbers and names.
type OwnerKey<'a> = (u32, u32, &'a OwnerNames);

/// The different owners in the order of their first use, and each node's, counted from 0; a hard link has none.
fn collect_owners(nodes: &[Node]) -> (Vec<OwnerKey<'_>>, Vec<u64>) {
    let mut owners: Vec<OwnerKey<'_>> = Vec::new();
    let mut known: HashMap<OwnerKey<'_>, u64> = HashMap::new();
    let owner_of = nodes
        .iter()
        .map(|node| {
            if matches!(node.kind, NodeKind::HardLink { .. }) {
                return 0;
            }
            let owner = (node.metadata.uid, node.metadata.gid, &node.names);
            *known.entry(owner).or_insert_with(|| {
                owners.push(owner);
                owners.len() as u64 - 1
            })
        })
        .collect();
    (owners, owner_of)
}

/// What several entries have in common, by its number in the table.
struct Shared {
    xattr_set: u64,
    owner: u64,
}

fn encode_xattrs(writer: &mut Writer, set: &[Xattr]) {
    writer.varint(set.len() as u64);
    for xattr in set {
        writer.counted(&xattr.name);
        writer.counted(&xattr.value);
    }
}

fn encode_entry(writer: &mut Writer, node: &Node, shared: &Shared) {
    let (kind, depth, name) = match &node.kind {
        _ if node.path.is_empty() => (KIND_DIRECTORY, 0, &[][..]),
        kind => {
            let depth = node.path.split(|&byte| byte == b'/').count() as u64;
            let name = node.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            (kind_byte(kind), depth, name)
        }
    };
    writer.byte(kind);
    writer.varint(depth);
    writer.counted(name);
    if let NodeKind::HardLink { to } = node.kind {
        writer.varint(to as u64);
        return;
    }
    encode_metadata(writer, &node.metadata, shared);
    match &node.kind {
        NodeKind::Symlink { target } => writer.counted(target),
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            writer.varint(u64::from(*major));
            writer.varint(u64::from(*minor));
        }
        _ => {}
    }
}

fn kind_byte(kind: &NodeKind) -> u8 {
    match kind {
        NodeKind::Directory => KIND_DIRECTORY,
        NodeKind::File(content) if content.is_plain() => KIND_FILE,
        NodeKind::File(_) => KIND_SPARSE_FILE,
        NodeKind::Symlink { .. } => KIND_SYMLINK,
        NodeKind::CharDevice { .. } => KIND_CHAR_DEVICE,
        NodeKind::BlockDevice { .. } => KIND_BLOCK_DEVICE,
        NodeKind::Fifo => KIND_FIFO,
        NodeKind::Socket => KIND_SOCKET,
        NodeKind::HardLink { .. } => KIND_HARD_LINK,
    }
}

fn encode_metadata(writer: &mut Writer, metadata: &Metadata, shared: &Shared) {
    writer.varint(u64::from(metadata.mode));
    writer.varint(shared.owner);
    writer.signed(metadata.mtime.seconds);
    writer.varint(u64::from(metadata.mtime.nanoseconds));
    writer.varint(u64::from(metadata.flags));
    writer.varint(shared.xattr_set);
}

fn encode_content(
    writer: &mut Writer,
    content: &FileContent,
    hash: Option<Hash>,
    data_end: &mut u64,
    data_offset: u64,
) {
    writer.varint(content.size);
    if !content.is_plain() {
        writer.varint(content.extents.len() as u64);
        let mut end = 0;
        for extent in &content.extents {
            writer.varint(extent.offset - end);
            writer.varint(extent.len);
            end = extent.offset + extent.len;
        }
    }
    if !content.extents.is_empty() {
        writer.varint(data_offset.saturating_sub(*data_end));
        *data_end = data_offset + content.data_bytes();
        // Every file with data has a hash; a builder that forgot one makes an image that verifies nowhere.
        writer.raw(hash.unwrap_or(Hash::new([0; 32])).as_bytes());
    }
}
