//! The format does not change by accident: a fixed tree with fixed frames has a fixed table and a fixed tar stream.
//! If one of these hashes must change, so must the format's version; tables of older versions are still read.

use crate::container::CONTAINER_BYTES;
use crate::id::Hash;
use crate::pack::PackedFrame;
use crate::tar_header::{TarLayout, hard_link_target, tar_header};
use crate::toc::{Toc, TocLimits, encode_toc};
use crate::tree::{DataExtent, FileContent, Metadata, Node, NodeKind, OwnerNames, Timestamp, Tree, Xattr};

const IMAGE_ID: &str = "ace46e78250c5c0e9fb5004b17c61a4a75b02dd0614e75d01a3475c562fb782f";
const TAR_HEADERS: &str = "48066b264d870adc7c55ed8dd221fe876c1574049e10286c10fe4c41fa1143ac";
/// As version 1 wrote them.
const TAR_HEADERS_1: &str = "fc405be27e174d934d54adc92bf615cbea1a9399308437da552027e545e452b2";

/// The table of the same tree and frames, without names of owners, as version 1 wrote it.
const VERSION_1: &[u8] = include_bytes!("golden/version-1.toc");

fn tree(names: &OwnerNames) -> Tree {
    let metadata = Metadata {
        mode: 0o755,
        uid: 0,
        gid: 4_000_000_000,
        mtime: Timestamp { seconds: -2, nanoseconds: 5 },
        flags: 0,
    };
    let node = |path: &str, kind| {
        let is_link = matches!(kind, NodeKind::HardLink { .. });
        let (metadata, names) = if is_link { Default::default() } else { (metadata, names.clone()) };
        Node { path: path.as_bytes().to_vec(), metadata, names, xattrs: vec![], kind }
    };
    let mut file = node("bin/tool", NodeKind::File(FileContent::plain(3000)));
    file.metadata.flags = 0x10;
    if !names.user.is_empty() {
        file.names.group = "long".repeat(10).into_bytes().into();
    }
    file.xattrs = vec![Xattr { name: b"user.x".to_vec(), value: b"\0\n".to_vec() }];
    let extents = vec![DataExtent { offset: 4096, len: 100 }, DataExtent { offset: 1 << 33, len: 1 }];
    Tree::new(vec![
        node("", NodeKind::Directory),
        node("bin", NodeKind::Directory),
        file,
        node("bin/tool2", NodeKind::HardLink { to: 2 }),
        node("dev", NodeKind::CharDevice { major: 1, minor: 3 }),
        node("disk", NodeKind::BlockDevice { major: 259, minor: 70_000 }),
        node("empty", NodeKind::File(FileContent::default())),
        node("link", NodeKind::Symlink { target: b"/x".repeat(60) }),
        node(&"long".repeat(40), NodeKind::Fifo),
        node("socket", NodeKind::Socket),
        node("sparse", NodeKind::File(FileContent { size: 1 << 34, extents })),
    ])
    .unwrap()
}

fn names() -> OwnerNames {
    OwnerNames::possible(b"root", b"www-data")
}

fn frames() -> [PackedFrame; 2] {
    let frame = |offset, raw_len| PackedFrame { offset, len: 900, raw_len, hash: Hash::of(b"frame") };
    [frame(1000, 4096), frame(1900, 1 << 20)]
}

fn hashes(tree: &Tree) -> Vec<Option<Hash>> {
    (0..tree.nodes().len()).map(|index| Some(Hash::of(&index.to_le_bytes()))).collect()
}

#[test]
fn table_of_contents_is_as_it_was() {
    let tree = tree(&names());
    let layout = TarLayout::new(&tree).unwrap();
    let table = encode_toc(&tree, &layout, &hashes(&tree), &frames(), CONTAINER_BYTES);
    assert_eq!(Hash::of(&table).to_string(), IMAGE_ID);
}

#[test]
fn a_table_of_version_1_is_still_read() {
    let tree = tree(&OwnerNames::default());
    let layout = TarLayout::new(&tree).unwrap();
    let table = encode_toc(&tree, &layout, &hashes(&tree), &frames(), CONTAINER_BYTES);
    let (old, new) =
        (Toc::parse(VERSION_1, &TocLimits::default()), Toc::parse(&table, &TocLimits::default()));
    let (old, new) = (old.unwrap(), new.unwrap());
    assert_eq!(old.frames(), new.frames());
    assert_eq!(old.entries().len(), tree.nodes().len());
    for (index, entry) in old.entries() {
        assert_eq!(old.node(index), new.node(index));
        assert_eq!(old.extents(entry), new.entry(index).map(|entry| new.extents(entry)).unwrap());
    }
}

#[test]
fn tar_headers_are_as_they_were() {
    let tree = tree(&names());
    let headers =
        tree.nodes().iter().flat_map(|node| tar_header(node, hard_link_target(&tree, node)).unwrap());
    assert_eq!(Hash::of(&headers.collect::<Vec<u8>>()).to_string(), TAR_HEADERS);
}

#[test]
fn tar_headers_without_names_are_those_of_version_1() {
    let tree = tree(&OwnerNames::default());
    let headers =
        tree.nodes().iter().flat_map(|node| tar_header(node, hard_link_target(&tree, node)).unwrap());
    assert_eq!(Hash::of(&headers.collect::<Vec<u8>>()).to_string(), TAR_HEADERS_1);
}
