//! The oracle is the tree that a table was made from; corrupted tables must be refused or still obey every rule.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{EntryIndex, EntryKind, Toc, TocError, TocLimits, decompress_frame};
use crate::bytes::Writer;
use crate::memory::{MemoryImage, build_in_memory};
use crate::tree::{
    DataExtent, FILE_FLAGS_KEPT, FileContent, Metadata, Node, NodeKind, OwnerNames, Timestamp, Tree, Xattr,
};

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-d]{1,2}".prop_map(String::into_bytes),
        1 => vec(prop_oneof![1_u8..=46, 48_u8..=255], 1..20),
        1 => Just(vec![b'n'; 255]),
    ]
    .prop_filter("names that mean something else", |name| name != b"." && name != b"..")
}

fn content() -> impl Strategy<Value = FileContent> {
    prop_oneof![
        (0_u64..3000).prop_map(FileContent::plain),
        (vec((1_u64..5000, 1_u64..3000), 0..5), 1_u64..5000).prop_map(|(runs, tail)| {
            let mut extents = Vec::new();
            let mut end = 0;
            for (gap, len) in runs {
                extents.push(DataExtent { offset: end + gap, len });
                end += gap + len;
            }
            FileContent { size: end + tail, extents }
        }),
    ]
}

fn kind() -> impl Strategy<Value = NodeKind> {
    prop_oneof![
        3 => Just(NodeKind::Directory),
        4 => content().prop_map(NodeKind::File),
        1 => vec(1_u8..=255, 1..200).prop_map(|target| NodeKind::Symlink { target }),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| NodeKind::CharDevice { major, minor }),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| NodeKind::BlockDevice { major, minor }),
        1 => Just(NodeKind::Fifo),
        1 => Just(NodeKind::Socket),
        1 => any::<usize>().prop_map(|to| NodeKind::HardLink { to }),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    (0_u32..=0o7777, 0..u32::MAX, 0..u32::MAX, any::<i64>(), 0_u32..1_000_000_000, any::<u32>()).prop_map(
        |(mode, uid, gid, seconds, nanoseconds, flags)| Metadata {
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanoseconds },
            flags: flags & FILE_FLAGS_KEPT,
        },
    )
}

fn xattrs() -> impl Strategy<Value = Vec<Xattr>> {
    btree_map("user\\.[a-c]".prop_map(String::into_bytes), vec(any::<u8>(), 0..40), 0..3)
        .prop_map(|map| map.into_iter().map(|(name, value)| Xattr { name, value }).collect())
}

fn owner_names() -> impl Strategy<Value = OwnerNames> {
    let name = || prop_oneof!["[a-c]{0,2}", "[a-z_-]{30,33}", "[a-z \u{e9}]{255}"];
    (name(), name()).prop_map(|(user, group)| OwnerNames::possible(user.as_bytes(), group.as_bytes()))
}

type Inode = (NodeKind, (Metadata, OwnerNames), Vec<Xattr>);

/// Any tree: random paths, each made possible by directories above it.
fn tree() -> impl Strategy<Value = Tree> {
    let entry = (vec(name(), 1..5), kind(), (metadata(), owner_names()), xattrs());
    (vec(entry, 0..40), metadata()).prop_map(|(entries, root)| {
        let mut by_path: BTreeMap<Vec<Vec<u8>>, Inode> = BTreeMap::new();
        by_path.insert(vec![], (NodeKind::Directory, (root, OwnerNames::default()), vec![]));
        for (path, kind, metadata, xattrs) in entries {
            for depth in 1..path.len() {
                by_path.insert(path[..depth].to_vec(), (NodeKind::Directory, metadata.clone(), vec![]));
            }
            if !by_path.keys().any(|other| other.starts_with(&path)) {
                by_path.insert(path, (kind, metadata, xattrs));
            }
        }
        let below_a_file =
            |path: &Vec<Vec<u8>>, all: &BTreeMap<_, (NodeKind, (Metadata, OwnerNames), Vec<Xattr>)>| {
                (0..path.len()).any(|depth| {
                    all.get(&path[..depth].to_vec()).is_none_or(|it| it.0 != NodeKind::Directory)
                })
            };
        let possible: Vec<_> = by_path.keys().filter(|path| !below_a_file(path, &by_path)).cloned().collect();
        let mut nodes: Vec<Node> = Vec::new();
        for path in possible {
            let (mut kind, (mut metadata, mut names), mut xattrs) = by_path.remove(&path).unwrap();
            if let NodeKind::HardLink { to } = kind {
                let to = to % nodes.len();
                (metadata, names, xattrs) = (Metadata::default(), OwnerNames::default(), vec![]);
                let linkable = !matches!(nodes[to].kind, NodeKind::Directory | NodeKind::HardLink { .. });
                kind = if linkable { NodeKind::HardLink { to } } else { NodeKind::Fifo };
            }
            if !matches!(kind, NodeKind::Directory | NodeKind::File(_)) {
                metadata.flags = 0;
            }
            nodes.push(Node { path: path.join(&b'/'), metadata, names, xattrs, kind });
        }
        Tree::new(nodes).expect("the strategy makes possible trees")
    })
}

/// Different for every file, and cheap to make again.
fn data_of(tree: &Tree, index: usize) -> Vec<u8> {
    let NodeKind::File(content) = &tree.nodes()[index].kind else { return vec![] };
    (0..content.data_bytes()).map(|at| (at * 31 + index as u64 * 7).to_le_bytes()[0]).collect()
}

fn build(tree: &Tree) -> MemoryImage {
    build_in_memory(tree, &|index| data_of(tree, index), "test").unwrap()
}

fn open(image: &MemoryImage) -> Toc {
    Toc::from_compressed(image.compressed_toc(), &image.manifest).unwrap()
}

proptest! {
    #[test]
    fn a_tree_comes_back_entry_by_entry(tree in tree()) {
        let toc = open(&build(&tree));
        prop_assert_eq!(toc.entries().len(), tree.nodes().len());
        for ((index, _), node) in toc.entries().zip(tree.nodes()) {
            prop_assert_eq!(&toc.node(index).unwrap(), node);
        }
    }

    #[test]
    fn files_are_found_in_the_frames(tree in tree()) {
        let image = build(&tree);
        let toc = open(&image);
        let mut found: Vec<Vec<u8>> = vec![vec![]; tree.nodes().len()];
        for index in toc.frame_indices() {
            let frame = toc.frame(index).unwrap();
            let mut raw = Vec::new();
            decompress_frame(frame, image.bytes(frame.range()), &mut raw).unwrap();
            for extent in toc.frame_extents(index) {
                let from = extent.frame_offset as usize;
                found[extent.entry.get() as usize].extend(&raw[from..from + extent.len as usize]);
            }
        }
        for (index, data) in found.iter().enumerate() {
            prop_assert_eq!(data, &data_of(&tree, index));
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_harmless(tree in tree(), at in any::<usize>(), bit in 0..8_u32) {
        let toc = open(&build(&tree));
        let mut bytes = toc.bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1_u8 << bit;
        if let Ok(changed) = Toc::parse(&bytes, &TocLimits::default()) {
            prop_assert!(changed.image_id() != toc.image_id());
            for (index, entry) in changed.entries() {
                for extent in changed.extents(entry) {
                    let frame = changed.frame(extent.frame).unwrap();
                    prop_assert!(u64::from(extent.frame_offset) + u64::from(extent.len) <= u64::from(frame.raw_len));
                }
                prop_assert!(!changed.path(index).split(|&b| b == b'/').any(|part| part == b".."));
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..400), version in b'1'..=b'2') {
        bytes.insert(0, version);
        bytes.splice(0..0, *super::TOC_MAGIC);
        let _ = Toc::parse(&bytes, &TocLimits::default());
    }

    #[test]
    fn a_table_cut_anywhere_is_refused(tree in tree(), at in any::<usize>()) {
        let toc = open(&build(&tree));
        let cut = at % toc.bytes().len();
        prop_assert!(Toc::parse(&toc.bytes()[..cut], &TocLimits::default()).is_err());
    }
}

/// One frame and the entries that `entries` writes, counted by hand.
fn forged(frames: &[(u64, u32, u32)], count: u64, entries: impl Fn(&mut Writer)) -> Result<Toc, TocError> {
    let mut writer = Writer::default();
    writer.raw(super::TOC_MAGIC);
    writer.byte(b'2');
    writer.varint(4 << 20);
    writer.varint(0);
    writer.varint(1);
    writer.varint(frames.len() as u64);
    writer.varint(count);
    for _ in ["uid", "gid", "user", "group"] {
        writer.varint(0);
    }
    for &(gap, len, raw_len) in frames {
        writer.varint(gap);
        writer.varint(u64::from(len));
        writer.varint(u64::from(raw_len));
        writer.raw(&[7; 32]);
    }
    entry(&mut writer, super::KIND_DIRECTORY, 0, b"");
    inode(&mut writer);
    entries(&mut writer);
    Toc::parse(&writer.finish(), &TocLimits { image_bytes: 1 << 30, ..TocLimits::default() })
}

fn entry(writer: &mut Writer, kind: u8, depth: u64, name: &[u8]) {
    writer.byte(kind);
    writer.varint(depth);
    writer.counted(name);
}

fn inode(writer: &mut Writer) {
    for _ in 0..6 {
        writer.varint(0);
    }
}

fn refused(result: Result<Toc, TocError>, expected: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(expected), "expected {expected:?} in {error:?}");
}

#[test]
fn names_that_leave_their_directory_are_refused() {
    for name in [&b".."[..], b".", b"", b"a/b", b"a\0b"] {
        let result = forged(&[], 2, |writer| {
            entry(writer, super::KIND_FIFO, 1, name);
            inode(writer);
        });
        assert!(matches!(result, Err(TocError::Entry { .. })), "{name:?}");
    }
}

#[test]
fn duplicates_and_impossible_parents_are_refused() {
    let two = |second_depth, second: &'static [u8], kind| {
        forged(&[], 3, move |writer| {
            entry(writer, kind, 1, b"b");
            inode(writer);
            entry(writer, super::KIND_FIFO, second_depth, second);
            inode(writer);
        })
    };
    refused(two(1, b"b", super::KIND_FIFO), "appears twice");
    refused(two(1, b"a", super::KIND_FIFO), "not in order");
    refused(two(2, b"c", super::KIND_FIFO), "parent is not a directory");
    refused(two(3, b"c", super::KIND_DIRECTORY), "no directory that was listed");
    refused(two(0, b"c", super::KIND_DIRECTORY), "no directory that was listed");
    assert!(two(2, b"c", super::KIND_DIRECTORY).is_ok());
}

#[test]
fn owners_are_in_the_table_and_possible() {
    let owned_by = |owner| {
        forged(&[], 2, move |writer| {
            entry(writer, super::KIND_FIFO, 1, b"pipe");
            writer.varint(0);
            writer.varint(owner);
            (0..4).for_each(|_| writer.varint(0));
        })
    };
    assert!(owned_by(0).is_ok());
    for absent in [1, 7, u64::from(u32::MAX)] {
        refused(owned_by(absent), "an owner that is not there");
    }
    let names = |user: &str, group: &str| {
        let possible = OwnerNames::possible(user.as_bytes(), group.as_bytes());
        (
            String::from_utf8(possible.user.to_vec()).unwrap(),
            String::from_utf8(possible.group.to_vec()).unwrap(),
        )
    };
    assert_eq!(names("www-data", "ad\\domain users"), ("www-data".into(), "ad\\domain users".into()));
    assert_eq!(names("a:b", &"x".repeat(256)), (String::new(), String::new()));
}

#[test]
fn hard_links_name_earlier_inodes_only() {
    for to in [0_u64, 1, 2, 77] {
        let result = forged(&[], 2, |writer| {
            entry(writer, super::KIND_HARD_LINK, 1, b"link");
            writer.varint(to);
        });
        refused(result, "hard link names");
    }
}

#[test]
fn frames_lie_within_the_file_and_a_container() {
    let frame = |offset, len, raw| forged(&[(offset, len, raw)], 1, |_| {});
    assert!(frame(100, 50, 10).is_ok());
    refused(frame(100, 50, 0), "hold nothing");
    refused(frame(100, 50, (16 << 20) + 1), "more than a frame may");
    refused(frame(100, 0, 10), "empty");
    refused(frame(1 << 30, 50, 10), "outside the image file");
    refused(frame(u64::MAX, 50, 10), "ends nowhere");
    refused(frame((4 << 20) - 10, 50, 10), "container boundary");
}

#[test]
fn data_lies_within_the_frames() {
    let file = |size: u64, gap: u64| {
        forged(&[(100, 50, 1000)], 2, move |writer| {
            entry(writer, super::KIND_FILE, 1, b"file");
            inode(writer);
            writer.varint(size);
            writer.varint(gap);
            writer.raw(&[1; 32]);
        })
    };
    assert!(file(400, 600).is_ok());
    refused(file(401, 600), "outside the frames");
    refused(file(1, 1000), "outside the frames");
    refused(file(1, u64::MAX), "outside the frames");
    refused(file(u64::MAX, 0), "too large");
}

#[test]
fn counts_beyond_the_bytes_or_the_limits_are_refused() {
    refused(forged(&[], 1 << 40, |_| {}), "number of entries");
    let bytes = open(&build(&Tree::new(vec![root()]).unwrap())).bytes().to_vec();
    let limits = TocLimits { entries_max: 0, ..TocLimits::default() };
    refused(Toc::parse(&bytes, &limits), "at most 0");
    let limits = TocLimits { toc_bytes_max: 10, ..TocLimits::default() };
    refused(Toc::parse(&bytes, &limits), "at most 10");
    refused(Toc::parse(&[&bytes[..], &[0]].concat(), &TocLimits::default()), "malformed");
    assert!(matches!(Toc::parse(b"not a table", &TocLimits::default()), Err(TocError::Magic)));
    assert!(matches!(Toc::parse(b"ESIRTOC3...", &TocLimits::default()), Err(TocError::Version)));
}

fn root() -> Node {
    let (metadata, names) = (Metadata::default(), OwnerNames::default());
    Node { path: vec![], metadata, names, xattrs: vec![], kind: NodeKind::Directory }
}

#[test]
fn a_table_of_another_image_is_refused() {
    let image = build(&Tree::new(vec![root()]).unwrap());
    let mut manifest = image.manifest.clone();
    manifest.image_id = crate::id::Hash::of(b"another");
    let compressed = image.compressed_toc();
    assert!(matches!(Toc::from_compressed(compressed, &manifest), Err(TocError::OtherImage { .. })));
    manifest.toc.raw_len = 5;
    assert!(matches!(Toc::from_compressed(compressed, &manifest), Err(TocError::Compressed(_))));
    manifest.toc.raw_len = u64::MAX;
    assert!(matches!(Toc::from_compressed(compressed, &manifest), Err(TocError::Limit { .. })));
}

#[test]
fn a_changed_frame_is_refused_before_it_is_decompressed() {
    let file = Node { path: b"f".to_vec(), kind: NodeKind::File(FileContent::plain(5000)), ..root() };
    let image = build(&Tree::new(vec![root(), file]).unwrap());
    let toc = open(&image);
    let frame = toc.frames()[0];
    let mut bytes = image.bytes(frame.range()).to_vec();
    let mut raw = vec![];
    bytes[20] ^= 1;
    assert!(matches!(decompress_frame(&frame, &bytes, &mut raw), Err(super::FrameError::Hash)));
    assert!(raw.is_empty());
    assert!(matches!(decompress_frame(&frame, &bytes[1..], &mut raw), Err(super::FrameError::Length { .. })));
    let (index, entry) = toc.entries().nth(1).unwrap();
    assert_eq!((toc.path(index), toc.path(EntryIndex::ROOT)), (b"f".to_vec(), vec![]));
    assert!(matches!(entry.kind, EntryKind::File { size: 5000, hash: Some(_), sparse: false }));
}
