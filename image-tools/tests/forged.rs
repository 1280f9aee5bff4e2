//! An image whose tar stream and table of contents disagree, with every hash and companion right: only a comparison of
//! the two can find it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::path::Path;

use image_format::{
    CONTAINER_BYTES, END_OF_ARCHIVE, FileContent, Hash, Manifest, Metadata, Node, NodeKind, OwnerNames,
    Packer, TarLayout, Tree, build_in_memory, data_padding, encode_front, encode_toc, piece_size_for,
    tar_header,
};
use sha1::{Digest, Sha1};
use support::{fail, succeed};
use swarm::Metainfo;

const DATA: &[u8] = b"what the file holds";

fn tree(name: &str, mode: u32) -> Tree {
    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
    let names = OwnerNames::default();
    let root = Node { path: vec![], metadata, names, xattrs: vec![], kind: NodeKind::Directory };
    let kind = NodeKind::File(FileContent::plain(DATA.len() as u64));
    let metadata = Metadata { mode, ..metadata };
    let file = Node { path: name.into(), metadata, kind, ..root.clone() };
    Tree::new(vec![root, file]).unwrap()
}

/// Writes an image with the stream of one tree and the table of another, and all its companions.
fn write(directory: &Path, in_stream: &Tree, in_table: &Tree, hashed: &[u8]) -> String {
    let mut stream = Vec::new();
    for node in in_stream.nodes() {
        stream.extend(tar_header(node, None).unwrap());
        if matches!(node.kind, NodeKind::File(_)) {
            stream.extend(DATA);
            stream.resize(stream.len() + usize::try_from(data_padding(DATA.len() as u64)).unwrap(), 0);
        }
    }
    stream.extend(END_OF_ARCHIVE);
    let space = 4096;
    let mut packer = Packer::new(Vec::new(), 1, space).unwrap();
    packer.push(&stream).unwrap();
    let (frames, data, _) = packer.finish().unwrap();
    let layout = TarLayout::new(in_table).unwrap();
    let toc = encode_toc(in_table, &layout, &[None, Some(Hash::of(hashed))], &frames, CONTAINER_BYTES);
    let compressed = zstd::bulk::compress(&toc, 1).unwrap();
    let mut image = encode_front(&toc, &compressed, space).unwrap();
    image.extend(data);

    let size = image.len() as u64;
    let sha1: [u8; 20] = Sha1::digest(&image).into();
    let torrent = Metainfo::encode_single_file(
        "x.esir",
        size,
        u32::try_from(piece_size_for(size)).unwrap(),
        &[sha1],
        None,
    )
    .unwrap();
    let mut manifest: Manifest = build_in_memory(in_table, &|_| DATA.to_vec(), "x").unwrap().manifest;
    manifest.image_id = Hash::of(&toc);
    manifest.file_size = size;
    manifest.pieces_hash = Hash::of(Hash::of(&image).as_bytes());
    manifest.info_hash = Metainfo::parse(&torrent).unwrap().info_hash.0;
    (manifest.toc.len, manifest.toc.raw_len) = (compressed.len() as u64, toc.len() as u64);
    let path = directory.join("x.esir");
    let write =
        |suffix: &str, bytes: &[u8]| std::fs::write(format!("{}{suffix}", path.display()), bytes).unwrap();
    write(".pieces", Hash::of(&image).as_bytes());
    write(".torrent", &torrent);
    write(".manifest", &manifest.to_bytes().unwrap());
    write("", &image);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_stream_that_differs_from_the_table_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let check = |in_stream: &Tree, in_table: &Tree, hashed: &[u8], expected: &str| {
        let image = write(directory.path(), in_stream, in_table, hashed);
        fail(&["verify", &image], expected);
    };
    let honest = tree("bin", 0o644);
    check(&honest, &tree("bin", 0o4755), DATA, "/bin differs in the tar stream");
    check(&honest, &tree("sbin", 0o644), DATA, "another name");
    check(&honest, &honest, b"something else", "its contents do not have their hash");
    let root_only = Tree::new(vec![honest.nodes()[0].clone()]).unwrap();
    check(&honest, &root_only, DATA, "the tar stream has bin, which the table of contents lacks");
    check(&root_only, &honest, DATA, "/bin is not in the tar stream");
    succeed(&["verify", &write(directory.path(), &honest, &honest, DATA)]);
}
