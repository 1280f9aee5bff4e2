//! Images built in memory, applied to a directory by several threads in any order, and read back.
//! Owners and devices need root; without it the tests say so and do nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers made by the tests themselves")]

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use image_apply::{Applier, ApplyError, VerifyError, verify_tree};
use image_format::{
    DataExtent, FileContent, FrameError, FrameIndex, MemoryImage, Metadata, Node, NodeKind, OwnerNames,
    Timestamp, Toc, Tree, Xattr, build_in_memory,
};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: owners and devices need root");
    }
    root
}

fn node(path: &str, kind: NodeKind) -> Node {
    let mtime = Timestamp { seconds: 1_600_000_000 + path.len() as i64, nanoseconds: 123_456_789 };
    let mode = if kind == NodeKind::Directory { 0o755 } else { 0o640 };
    let is_link = matches!(kind, NodeKind::HardLink { .. });
    let metadata =
        if is_link { Metadata::default() } else { Metadata { mode, uid: 1000, gid: 50, mtime, flags: 0 } };
    Node { path: path.as_bytes().to_vec(), metadata, names: OwnerNames::default(), xattrs: vec![], kind }
}

fn file(path: &str, size: u64) -> Node {
    node(path, NodeKind::File(FileContent::plain(size)))
}

/// Data that does not compress, so that a few MiB make several frames.
fn data(len: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 24) as u8
    };
    (0..len).map(|_| next(&mut state)).collect()
}

fn build(tree: &Tree) -> (MemoryImage, Arc<Toc>) {
    let content = |index: usize| match &tree.nodes()[index].kind {
        NodeKind::File(content) => data(content.data_bytes(), index as u64),
        _ => vec![],
    };
    let image = build_in_memory(tree, &content, "test").unwrap();
    let range = image.manifest.toc_range();
    let toc = Toc::from_compressed(&image.image[range.start as usize..range.end as usize], &image.manifest)
        .unwrap();
    (image, Arc::new(toc))
}

fn frame_bytes<'a>(image: &'a MemoryImage, toc: &Toc, index: FrameIndex) -> &'a [u8] {
    image.bytes(toc.frame(index).unwrap().range())
}

/// Three threads, each from another end.
fn apply(root: &Path, image: &MemoryImage, toc: &Arc<Toc>) {
    let applier = Applier::begin(root, Arc::clone(toc)).unwrap();
    let mut frames: Vec<FrameIndex> = toc.frame_indices().collect();
    frames.reverse();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (applier, frames) = (&applier, &frames);
            scope.spawn(move || {
                for &index in frames.iter().skip(thread).step_by(3) {
                    applier.write_frame(index, frame_bytes(image, toc, index)).unwrap();
                }
            });
        }
    });
    let tree = applier.finish().unwrap();
    assert_eq!(tree.entries, toc.entries().len() as u64);
}

fn sample() -> Tree {
    let root = node("", NodeKind::Directory);
    let sparse = FileContent {
        size: 9 << 20,
        extents: vec![
            DataExtent { offset: 1 << 20, len: 5 << 20 },
            DataExtent { offset: 7 << 20, len: 4096 },
        ],
    };
    let mut tool = file("bin/tool", 70_000);
    tool.metadata.mode = 0o4755;
    tool.xattrs = vec![
        Xattr { name: b"trusted.note".to_vec(), value: b"\0x".to_vec() },
        Xattr { name: b"user.note".to_vec(), value: vec![] },
    ];
    Tree::new(vec![
        root,
        node("bin", NodeKind::Directory),
        tool,
        node("bin/tool2", NodeKind::HardLink { to: 2 }),
        node("dev", NodeKind::Directory),
        node("dev/null", NodeKind::CharDevice { major: 1, minor: 3 }),
        node("dev/pipe", NodeKind::Fifo),
        node("dev/socket", NodeKind::Socket),
        file("empty", 0),
        file("large", 21 << 20),
        node("link", NodeKind::Symlink { target: b"../../outside".to_vec() }),
        node("sparse", NodeKind::File(sparse)),
    ])
    .unwrap()
}

#[test]
fn what_was_applied_is_verified_and_every_change_is_found() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (image, toc) = build(&sample());
    assert!(toc.frames().len() > 5, "the large file spans frames");
    apply(root, &image, &toc);

    let read = AtomicU64::new(0);
    let count = |bytes| {
        read.fetch_add(bytes, Ordering::Relaxed);
    };
    let report = verify_tree(root, &toc, &count).unwrap();
    assert_eq!((report.entries, report.bytes), (12, read.into_inner()));
    assert_eq!(std::fs::metadata(root.join("bin/tool")).unwrap().mode(), 0o10_4755);
    assert!(std::fs::metadata(root.join("sparse")).unwrap().blocks() * 512 < 7 << 20, "holes are kept");

    let differs = |path: &str, what: &str, change: &dyn Fn(&Path), back: &dyn Fn(&Path)| {
        change(&root.join(path));
        match verify_tree(root, &toc, &|_| {}) {
            Err(VerifyError::Different { path: found, what: said }) => {
                assert_eq!(found, path);
                assert!(said.contains(what), "{said}");
            }
            other => panic!("{path}: {other:?}"),
        }
        back(&root.join(path));
        filetime_back(&root.join(path), &toc);
        verify_tree(root, &toc, &|_| {}).unwrap();
    };
    let write = |path: &Path, offset, byte: u8| {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let times =
            std::fs::FileTimes::new().set_modified(std::fs::metadata(path).unwrap().modified().unwrap());
        file.write_all_at(&[byte], offset).unwrap();
        file.set_times(times).unwrap();
    };
    let byte = data(21 << 20, 9)[777];
    differs("large", "contents", &|p| write(p, 777, !byte), &|p| write(p, 777, byte));
    differs("sparse", "holes", &|p| write(p, 100, 1), &|p| write(p, 100, 0));
    let chmod = |mode| move |p: &Path| std::fs::set_permissions(p, PermissionsExt::from_mode(mode)).unwrap();
    differs("bin", "mode is 700, not 755", &chmod(0o700), &chmod(0o755));
    let chown = |uid| move |p: &Path| std::os::unix::fs::chown(p, Some(uid), None).unwrap();
    differs("empty", "owner", &chown(7), &chown(1000));
}

/// Tests change files; this puts the time of one back.
fn filetime_back(path: &Path, toc: &Toc) {
    let name = path.file_name().unwrap().as_encoded_bytes();
    let (_, entry) = toc.entries().find(|(_, entry)| toc.name(entry) == name).unwrap();
    let time = std::time::UNIX_EPOCH
        + std::time::Duration::new(entry.metadata.mtime.seconds as u64, entry.metadata.mtime.nanoseconds);
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_missing_name_is_found() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (image, toc) = build(&sample());
    apply(directory.path(), &image, &toc);
    std::fs::remove_file(directory.path().join("dev/pipe")).unwrap();
    let error = verify_tree(directory.path(), &toc, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("dev") && error.contains("differs"), "{error}");
}

#[test]
fn a_flipped_byte_is_refused_before_anything_is_written() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (image, toc) = build(&sample());
    let applier = Applier::begin(directory.path(), Arc::clone(&toc)).unwrap();
    let index = toc.frame_index(1).unwrap();
    let mut bytes = frame_bytes(&image, &toc, index).to_vec();
    bytes[1000] ^= 4;
    let error = applier.write_frame(index, &bytes).unwrap_err();
    assert!(matches!(error, ApplyError::Frame { frame: 1, source: FrameError::Hash }), "{error}");
    for extent in toc.frame_extents(index) {
        let path = String::from_utf8(toc.path(extent.entry)).unwrap();
        let blocks = std::fs::metadata(directory.path().join(path)).map_or(0, |file| file.blocks());
        assert_eq!(blocks & !0xffff, 0);
    }
    assert!(!applier.is_written(index));
    applier.write_frame(index, frame_bytes(&image, &toc, index)).unwrap();
    applier.write_frame(index, frame_bytes(&image, &toc, index)).unwrap();
    let missing = toc.frames().len() - 1;
    match applier.finish().unwrap_err() {
        ApplyError::Missing { missing: found, first: 0 } => assert_eq!(found, missing),
        other => panic!("{other}"),
    }
}

#[test]
fn a_link_in_the_way_is_not_followed() {
    if !is_root() {
        return;
    }
    let (outside, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(outside.path(), directory.path().join("bin")).unwrap();
    let (_, toc) = build(&sample());
    let error = Applier::begin(directory.path(), toc).unwrap_err().to_string();
    assert_eq!(error, "creating /bin");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_file_in_the_way_is_not_overwritten() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("bin")).unwrap();
    std::fs::write(directory.path().join("bin/tool"), "mine").unwrap();
    let (image, toc) = build(&sample());
    let applier = Applier::begin(directory.path(), Arc::clone(&toc)).unwrap();
    let index = toc.frame_index(0).unwrap();
    let error = applier.write_frame(index, frame_bytes(&image, &toc, index)).unwrap_err();
    assert_eq!(error.to_string(), "creating /bin/tool");
    assert_eq!(std::fs::read_to_string(directory.path().join("bin/tool")).unwrap(), "mine");
}

fn kind() -> impl Strategy<Value = NodeKind> {
    prop_oneof![
        2 => Just(NodeKind::Directory),
        4 => (0_u64..20_000).prop_map(|size| NodeKind::File(FileContent::plain(size))),
        1 => (1_u64..10, 1_u64..10, 0_u64..10).prop_map(|(hole, len, tail)| {
            let extents = vec![DataExtent { offset: hole * 65536, len: len * 4096 }];
            NodeKind::File(FileContent { size: hole * 65536 + len * 4096 + tail * 65536, extents })
        }),
        1 => vec(1_u8..=255, 1..100).prop_map(|target| NodeKind::Symlink { target }),
        1 => Just(NodeKind::Fifo),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| NodeKind::BlockDevice { major, minor }),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let metadata = (
        0_u32..=0o7777,
        0_u32..=4_000_000_000,
        0_u32..70_000,
        -2_000_000_000_i64..8_000_000_000,
        0_u32..1_000_000_000,
    )
        .prop_map(|(mode, uid, gid, seconds, nanoseconds)| Metadata {
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanoseconds },
            flags: 0,
        });
    vec((vec("[a-c\u{e4}]{1,2}", 1..4), kind(), metadata), 1..25).prop_map(|entries| {
        let mut all: BTreeMap<Vec<String>, (NodeKind, Metadata)> = BTreeMap::new();
        all.insert(vec![], (NodeKind::Directory, Metadata { mode: 0o755, ..Metadata::default() }));
        for (path, kind, metadata) in entries {
            let blocked = (0..path.len())
                .any(|depth| all.get(&path[..depth]).is_some_and(|(kind, _)| *kind != NodeKind::Directory));
            if blocked || all.keys().any(|other| other.starts_with(&path)) {
                continue;
            }
            for depth in 1..path.len() {
                all.entry(path[..depth].to_vec()).or_insert((NodeKind::Directory, metadata));
            }
            all.insert(path, (kind, metadata));
        }
        let nodes = all.into_iter().map(|(path, (kind, metadata))| {
            let path = path.join("/").into_bytes();
            Node { path, metadata, names: OwnerNames::default(), xattrs: vec![], kind }
        });
        Tree::new(nodes.collect()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_is_read_back_equal(tree in tree(), _seed in any::<u8>()) {
        if is_root() {
            let directory = tempfile::tempdir().unwrap();
            let (image, toc) = build(&tree);
            apply(directory.path(), &image, &toc);
            verify_tree(directory.path(), &toc, &|_| {}).unwrap();
        }
    }
}
