use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use image_format::{
    DataExtent, FileContent, MemoryImage, Metadata, Node, NodeKind, OwnerNames, PARTITION_FILE, Tree,
    build_in_memory,
};
use node_api::{SwarmSecret, SwarmTask};
use swarm_net::{MemoryStore, Metainfo, Peer, PeerConfig, PieceSet};

use super::*;
use crate::image::SignedImage;

const SECRET: [u8; 32] = [5; 32];

/// Files of an image by name, with contents that do not compress.
fn files() -> BTreeMap<&'static str, Vec<u8>> {
    let noise = |seed: u8, length: usize| {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    };
    BTreeMap::from([
        ("big", noise(1, 9 << 20)),
        ("empty", Vec::new()),
        ("medium", noise(2, 3 << 20)),
        ("small", noise(3, 100)),
    ])
}

fn root() -> Node {
    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
    let (names, xattrs) = (OwnerNames::default(), Vec::new());
    Node { path: Vec::new(), metadata, names, xattrs, kind: NodeKind::Directory }
}

fn file(path: &[u8], content: FileContent) -> Node {
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    Node { path: path.to_vec(), metadata, kind: NodeKind::File(content), ..root() }
}

/// Two stretches of data in a partition of 4 MiB.
fn build_partition() -> MemoryImage {
    let data = [(64 << 10, 1 << 20), (3 << 20, 8 << 10)];
    let extents = data.map(|(offset, len)| DataExtent { offset, len }).to_vec();
    let content = FileContent { size: 4 << 20, extents };
    let tree = Tree::new(vec![root(), file(PARTITION_FILE, content)]).unwrap();
    build_in_memory(&tree, &|_| vec![7; (1 << 20) + (8 << 10)], "partition").unwrap()
}

fn build() -> MemoryImage {
    let files = files();
    let nodes =
        files.iter().map(|(name, bytes)| file(name.as_bytes(), FileContent::plain(bytes.len() as u64)));
    let tree = Tree::new(std::iter::once(root()).chain(nodes).collect()).unwrap();
    let contents = |index: usize| {
        let name = String::from_utf8(tree.nodes()[index].path.clone()).unwrap();
        files.get(name.as_str()).cloned().unwrap_or_default()
    };
    build_in_memory(&tree, &contents, "tiny").unwrap()
}

fn offer(made: &MemoryImage, server_peer: SocketAddr) -> Offer {
    let manifest = made.manifest.clone();
    let pieces: Vec<[u8; 32]> = made.pieces.as_chunks::<32>().0.to_vec();
    let sha1 = vec![[0; 20]; pieces.len()];
    let piece_length = u32::try_from(manifest.piece_size).unwrap();
    let metainfo =
        Metainfo::encode_single_file("tiny.esir", manifest.file_size, piece_length, &sha1, None).unwrap();
    let swarm = SwarmTask {
        open: false,
        announce_url: "http://127.0.0.1:9/announce".into(),
        server_peer,
        secret: SwarmSecret::new(SECRET),
    };
    let image =
        SignedImage { manifest, manifest_bytes: Vec::new(), metainfo: Metainfo::parse(&metainfo).unwrap() };
    Offer { image, piece_hashes: pieces, swarm }
}

/// A complete peer on loopback, as the server's.
async fn seed(made: &MemoryImage, offer: &Offer) -> Peer {
    let piece_bytes = offer.image.metainfo.piece_length;
    let store = Arc::new(MemoryStore::holding(&made.image, piece_bytes));
    let have = PieceSet::full(made.manifest.piece_count);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = PeerConfig {
        secret: Some(SECRET),
        hashes: swarm_net::PieceHashes::Blake3(offer.piece_hashes.clone()),
        ..PeerConfig::new(offer.image.metainfo.clone(), store, have, listen)
    };
    Peer::start(config).await.unwrap()
}

/// Fetches the image over loopback into a directory, with its pieces kept in `cache`.
async fn fetch_into(root: &Path, cache: impl Fn(&Offer) -> Option<PieceCache>) -> Fetched {
    fetch(&build(), Place::Tree(root.to_owned()), cache).await.unwrap()
}

async fn fetch(
    made: &MemoryImage,
    place: Place,
    cache: impl Fn(&Offer) -> Option<PieceCache>,
) -> Result<Fetched, FetchError> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let seed = seed(made, &offer(made, nowhere)).await;
    let offered = offer(made, seed.local_addr());
    let session = Session::with_nobody();
    let cache = Arc::new(cache(&offered).unwrap_or_else(|| {
        PieceCache::in_memory(offered.image.manifest.file_size, offered.image.manifest.piece_size)
    }));
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let peer = SwarmPeer::start_at(listen, &offered, &session, cache).await.unwrap();
    let reporter = Reporter::new(None);
    let done = run(Joined::Running(peer), place, &offered, &session, &reporter).await;
    seed.shutdown().await;
    done.map(|done| done.value)
}

fn check_files(root: &Path) {
    for (name, bytes) in files() {
        assert!(std::fs::read(root.join(name)).unwrap() == bytes, "{name} differs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn image_from_a_peer_becomes_files() {
    let root = tempfile::tempdir().unwrap();
    let fetched = fetch_into(root.path(), |_| None).await;
    check_files(root.path());
    let progress = |_| {};
    let report = image_apply::verify_tree(root.path(), &fetched.toc, &progress).unwrap();
    assert_eq!(report.entries, 5);
    let made = build();
    let (offset, len) = (made.manifest.toc.offset, made.manifest.toc.len);
    let range = usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap();
    assert!(fetched.table == made.image[range], "the table as it is in the image");
    assert!(root.path().join(".esir/journal").exists());
    remove_journal(root.path()).unwrap();
    fetched.peer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn image_too_large_for_memory_keeps_its_pieces_on_the_new_disk() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().to_owned();
    let fetched = fetch_into(root.path(), move |offered| {
        let manifest = &offered.image.manifest;
        PieceCache::in_file(&place, manifest.file_size, manifest.piece_size).ok()
    })
    .await;
    check_files(root.path());
    // What was fetched can be given on, also after it was written.
    let mut first = [0; 4];
    fetched.peer.cache().read(0, &mut first).unwrap();
    fetched.peer.leave().await;
}

/// A file that stands for a device of so many MiB, with something on all of it.
fn used_device(mib: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("device");
    std::fs::write(&device, vec![0xff; mib << 20]).unwrap();
    (dir, device)
}

#[tokio::test(flavor = "multi_thread")]
async fn image_of_a_partition_becomes_its_blocks_and_nothing_older_is_left_in_it() {
    let (_dir, device) = used_device(5);
    let fetched = fetch(&build_partition(), Place::Device(device.clone()), |_| None).await.unwrap();
    let found = std::fs::read(&device).unwrap();
    let mut expected = vec![0; 4 << 20];
    expected[64 << 10..(64 << 10) + (1 << 20)].fill(7);
    expected[3 << 20..(3 << 20) + (8 << 10)].fill(7);
    expected.resize(5 << 20, 0xff);
    assert!(found == expected, "what lies behind the partition stays");
    let read = std::fs::File::open(&device).unwrap();
    let report = image_apply::verify_partition(&read, &fetched.toc, &|_| {}).unwrap();
    assert_eq!(report.bytes, (1 << 20) + (8 << 10));
    fetched.peer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_that_does_not_fit_is_not_begun() {
    let (_dir, device) = used_device(3);
    let place = Place::Device(device.clone());
    let Err(error) = fetch(&build_partition(), place, |_| None).await else { panic!("it was written") };
    assert!(matches!(error, FetchError::TooSmall { have: 0x30_0000, needed: 0x40_0000, .. }), "{error}");
    assert!(std::fs::read(&device).unwrap() == vec![0xff; 3 << 20]);
    let files = fetch(&build(), Place::Device(device), |_| None).await;
    assert!(matches!(files, Err(FetchError::Apply(ApplyError::NotPartition))));
}

#[test]
fn table_of_contents_is_complete_with_its_last_piece_and_not_before() {
    let mut collecting = Collecting::new(0..2);
    assert!(!collecting.piece_verified(5));
    assert!(!collecting.piece_verified(1));
    assert!(!collecting.piece_verified(1));
    assert!(collecting.piece_verified(0));
    assert!(!collecting.piece_verified(0));
    assert_eq!(collecting.verified, [5, 1, 0]);
}
