//! The format does not change by accident: a fixed tree with fixed frames has a fixed table and a fixed tar stream.
//! If one of these hashes must change, so must the format's version.

use crate::container::CONTAINER_BYTES;
use crate::id::Hash;
use crate::pack::PackedFrame;
use crate::tar_header::{TarLayout, hard_link_target, tar_header};
use crate::toc::encode_toc;
use crate::tree::{DataExtent, FileContent, Metadata, Node, NodeKind, Timestamp, Tree, Xattr};

const IMAGE_ID: &str = "0f737e048dd7df0b1d589edac89b5f426397de49b949261455f4768447d25eb0";
const TAR_HEADERS: &str = "fc405be27e174d934d54adc92bf615cbea1a9399308437da552027e545e452b2";

fn tree() -> Tree {
    let metadata = Metadata {
        mode: 0o755,
        uid: 0,
        gid: 4_000_000_000,
        mtime: Timestamp { seconds: -2, nanoseconds: 5 },
        flags: 0,
    };
    let node = |path: &str, kind| {
        let is_link = matches!(kind, NodeKind::HardLink { .. });
        let metadata = if is_link { Metadata::default() } else { metadata };
        Node { path: path.as_bytes().to_vec(), metadata, xattrs: vec![], kind }
    };
    let mut file = node("bin/tool", NodeKind::File(FileContent::plain(3000)));
    file.metadata.flags = 0x10;
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

#[test]
fn table_of_contents_is_as_it_was() {
    let tree = tree();
    let layout = TarLayout::new(&tree).unwrap();
    let hashes: Vec<Option<Hash>> =
        (0..tree.nodes().len()).map(|index| Some(Hash::of(&index.to_le_bytes()))).collect();
    let frame = |offset, raw_len| PackedFrame { offset, len: 900, raw_len, hash: Hash::of(b"frame") };
    let frames = [frame(1000, 4096), frame(1900, 1 << 20)];
    let table = encode_toc(&tree, &layout, &hashes, &frames, CONTAINER_BYTES);
    assert_eq!(Hash::of(&table).to_string(), IMAGE_ID);
}

#[test]
fn tar_headers_are_as_they_were() {
    let tree = tree();
    let headers =
        tree.nodes().iter().flat_map(|node| tar_header(node, hard_link_target(&tree, node)).unwrap());
    assert_eq!(Hash::of(&headers.collect::<Vec<u8>>()).to_string(), TAR_HEADERS);
}
