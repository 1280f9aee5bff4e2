//! A new tree made from an older one's files is the tree that a fresh deployment makes; rsync compares them.
//! Owners, flags and attributes need root; without it the tests say so and do nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers made by the tests themselves")]

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use image_apply::{Applier, Reused, Source, open_root, remove_aside, set_aside, verify_tree};
use image_format::{
    DataExtent, FileContent, MemoryImage, Metadata, Node, NodeKind, OwnerNames, Timestamp, Toc, Tree, Xattr,
    build_in_memory,
};

/// A file's contents follow from its seed.
type Seeds = Vec<u64>;

struct Image {
    made: MemoryImage,
    toc: Arc<Toc>,
}

fn node(path: &str, kind: NodeKind) -> Node {
    let mtime = Timestamp { seconds: 1_600_000_000 + path.len() as i64, nanoseconds: 5 };
    let mode = if kind == NodeKind::Directory { 0o755 } else { 0o640 };
    let is_link = matches!(kind, NodeKind::HardLink { .. });
    let metadata =
        if is_link { Metadata::default() } else { Metadata { mode, uid: 1000, gid: 50, mtime, flags: 0 } };
    Node { path: path.as_bytes().to_vec(), metadata, names: OwnerNames::default(), xattrs: vec![], kind }
}

/// Files as path, size, seed.
fn image(files: &[(&str, u64, u64)], others: Vec<Node>) -> Image {
    let mut nodes: Vec<(Node, u64)> = vec![(node("", NodeKind::Directory), 0)];
    nodes.extend(others.into_iter().map(|node| (node, 0)));
    nodes.extend(
        files.iter().map(|&(path, size, seed)| (node(path, NodeKind::File(FileContent::plain(size))), seed)),
    );
    nodes.sort_by(|(a, _), (b, _)| a.path.split(|&c| c == b'/').cmp(b.path.split(|&c| c == b'/')));
    let seeds: Seeds = nodes.iter().map(|(_, seed)| *seed).collect();
    let links: Vec<usize> =
        (0..nodes.len()).filter(|&at| matches!(nodes[at].0.kind, NodeKind::HardLink { .. })).collect();
    for at in links {
        // Hard links in these tests are to `one`.
        let to = nodes.iter().position(|(node, _)| node.path == b"links/one").unwrap();
        nodes[at].0.kind = NodeKind::HardLink { to };
    }
    let tree = Tree::new(nodes.into_iter().map(|(node, _)| node).collect()).unwrap();
    let content = |index: usize| match &tree.nodes()[index].kind {
        NodeKind::File(content) => {
            let mut bytes = vec![0; content.data_bytes() as usize];
            let mut key = [0; 32];
            key[..8].copy_from_slice(&seeds[index].to_le_bytes());
            blake3::Hasher::new_keyed(&key).finalize_xof().fill(&mut bytes);
            bytes
        }
        _ => vec![],
    };
    let made = build_in_memory(&tree, &content, "test").unwrap();
    let range = made.manifest.toc_range();
    let toc =
        Toc::from_compressed(&made.image[range.start as usize..range.end as usize], &made.manifest).unwrap();
    Image { made, toc: Arc::new(toc) }
}

fn fresh(root: &Path, image: &Image) {
    let applier = Applier::begin(root, Arc::clone(&image.toc)).unwrap();
    write_rest(&applier, image);
    applier.finish().unwrap();
}

fn write_rest(applier: &Applier, image: &Image) {
    for index in applier.unwritten() {
        applier.write_frame(index, image.made.bytes(image.toc.frame(index).unwrap().range())).unwrap();
    }
}

/// The new image over the old tree in `root`, with frames only for what the old tree does not have.
fn redeploy(root: &Path, old_table: Option<&Toc>, image: &Image) -> (Reused, usize) {
    let fd = open_root(root).unwrap();
    let old = set_aside(fd.as_fd()).unwrap();
    let sources = [Source::installed(old.as_fd(), old_table)];
    let (applier, reused) =
        Applier::begin_reusing(open_root(root).unwrap(), Arc::clone(&image.toc), &sources).unwrap();
    let frames = applier.unwritten().len();
    write_rest(&applier, image);
    // Before the end, which gives the root directory its time.
    remove_aside(fd.as_fd()).unwrap();
    applier.finish().unwrap();
    (reused, frames)
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: owners and devices need root");
    }
    root
}

/// What rsync would change to make `there` equal to `here`, contents compared by checksum.
fn difference(here: &Path, there: &Path) -> String {
    let output = Command::new("rsync")
        .args(["-nacHAXS", "--delete", "--itemize-changes"])
        .arg(format!("{}/", here.display()))
        .arg(format!("{}/", there.display()))
        .output()
        .expect("rsync is installed by scripts/setup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn check_equal(root: &Path, image: &Image) {
    verify_tree(root, &image.toc, &|_| {}).unwrap();
    let other = tempfile::tempdir().unwrap();
    fresh(other.path(), image);
    assert_eq!(difference(other.path(), root), "");
}

const MIB: u64 = 1 << 20;

fn base() -> Image {
    image(
        &[
            ("etc/host", 300, 1),
            ("etc/same", 300, 2),
            ("lib/a", 3 * MIB, 3),
            ("lib/b", 5 * MIB, 4),
            ("lib/huge", 20 * MIB, 5),
            ("lib/locked", 900, 6),
            ("links/one", 4000, 7),
            ("old/moved", 6 * MIB, 8),
            ("old/twin1", 5000, 9),
        ],
        ["etc", "lib", "links", "old"]
            .map(|path| node(path, NodeKind::Directory))
            .into_iter()
            .chain([node("links/two", NodeKind::HardLink { to: 0 })])
            .collect(),
    )
}

fn next() -> Image {
    let sparse = FileContent { size: 9 * MIB, extents: vec![DataExtent { offset: MIB, len: MIB }] };
    let mut with_note = node("links", NodeKind::Directory);
    with_note.xattrs = vec![Xattr { name: b"user.note".to_vec(), value: b"new".to_vec() }];
    image(
        &[
            ("etc/host", 300, 1),
            ("etc/same", 300, 2),
            ("lib/a", 3 * MIB, 33),
            ("lib/b", 5 * MIB, 4),
            ("lib/huge", 20 * MIB, 5),
            ("lib/locked", 900, 6),
            ("links/one", 4000, 7),
            ("links/two", 4000, 7),
            ("new/moved", 6 * MIB, 8),
            ("new/twin1", 5000, 9),
            ("new/twin2", 5000, 9),
        ],
        vec![
            node("etc", NodeKind::Directory),
            node("lib", NodeKind::Directory),
            with_note,
            node("new", NodeKind::Directory),
            node("new/link", NodeKind::Symlink { target: b"moved".to_vec() }),
            node("new/sparse", NodeKind::File(sparse)),
        ],
    )
}

#[test]
fn an_old_tree_becomes_the_new_one_and_keeps_what_matches() {
    if !is_root() {
        return;
    }
    let (base, next) = (base(), next());
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fresh(root, &base);
    let huge = std::fs::metadata(root.join("lib/huge")).unwrap().ino();
    let (reused, frames) = redeploy(root, Some(&base.toc), &next);
    // All but lib/a and the sparse file; twin2 is a copy, and so is one of the two that were one file.
    assert_eq!(reused.files, 10);
    assert!(frames < next.toc.frames().len(), "{frames} frames");
    assert_eq!(std::fs::metadata(root.join("lib/huge")).unwrap().ino(), huge, "moved, not written");
    let ino = |path: &str| std::fs::metadata(root.join(path)).unwrap().ino();
    assert_ne!(ino("links/one"), ino("links/two"), "two files now");
    assert!(!root.join("old").exists() && !root.join(".esir").exists());
    check_equal(root, &next);
    // Back again: two files become one with two names.
    redeploy(root, Some(&next.toc), &base);
    check_equal(root, &base);
}

/// A file with two holes, of seed 0.
fn with_holes(path: &str, first: u64) -> Node {
    let extents = vec![DataExtent { offset: first, len: MIB }, DataExtent { offset: 5 * MIB, len: 3000 }];
    node(path, NodeKind::File(FileContent { size: 9 * MIB, extents }))
}

#[test]
fn files_with_holes_are_kept_moved_and_doubled_if_their_holes_are_where_they_were() {
    if !is_root() {
        return;
    }
    let base = image(&[], vec![with_holes("moved", MIB), with_holes("other", 2 * MIB)]);
    let next = image(
        &[],
        vec![
            node("new", NodeKind::Directory),
            with_holes("new/moved", MIB),
            with_holes("new/twin", MIB),
            with_holes("other", 3 * MIB),
        ],
    );
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fresh(root, &base);
    let inode = std::fs::metadata(root.join("moved")).unwrap().ino();
    let (reused, frames) = redeploy(root, Some(&base.toc), &next);
    assert_eq!((reused.files, reused.bytes, frames), (2, 2 * (MIB + 3000), 1));
    let of = |path: &str| std::fs::metadata(root.join(path)).unwrap();
    let moved = ["new/moved", "new/twin"].iter().filter(|path| of(path).ino() == inode).count();
    assert_eq!(moved, 1, "one is the file that was there");
    for path in ["new/moved", "new/twin", "other"] {
        assert!(of(path).blocks() * 512 < 2 * MIB, "{path} has its holes");
    }
    check_equal(root, &next);
}

#[test]
fn whatever_its_owner_did_to_the_old_tree_the_new_one_is_right() {
    if !is_root() {
        return;
    }
    let (base, next) = (base(), next());
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fresh(root, &base);
    // Same length, same time, another byte.
    let path = root.join("lib/b");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4_000_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    // Another owner, mode and attributes; an ACL; protected against change.
    let run = |program: &str, words: &[&str]| {
        assert!(
            Command::new(program).args(words).current_dir(root).status().unwrap().success(),
            "{program} {words:?}"
        );
    };
    std::fs::set_permissions(root.join("lib/huge"), PermissionsExt::from_mode(0o4777)).unwrap();
    run("setfattr", &["-n", "user.evil", "-v", "1", "lib/huge"]);
    run("setfattr", &["-n", "user.note", "-v", "root", "."]);
    run("setfacl", &["-m", "u:7:rwx", "etc/same"]);
    run("setfacl", &["-d", "-m", "u:7:rwx", "."]);
    // Things that the new system does not have, one of them protected, and a link in a file's place.
    std::fs::create_dir_all(root.join("srv/data/deep")).unwrap();
    std::fs::write(root.join("srv/data/deep/file"), "mine").unwrap();
    run("chattr", &["+i", "srv/data/deep/file", "srv/data/deep"]);
    std::fs::remove_file(root.join("etc/host")).unwrap();
    symlink("/etc/hostname", root.join("etc/host")).unwrap();
    std::fs::remove_file(root.join("old/moved")).unwrap();
    run("mkfifo", &["old/moved"]);
    run("chattr", &["+i", "lib/locked", "lib", "links"]);
    run("chattr", &["+a", "etc"]);
    redeploy(root, Some(&base.toc), &next);
    check_equal(root, &next);
    assert_eq!(std::fs::metadata(root.join("lib/huge")).unwrap().mode(), 0o10_0640);
}

#[test]
fn a_tree_without_a_table_and_one_of_strangers_are_reused_as_far_as_they_match() {
    if !is_root() {
        return;
    }
    let (base, next) = (base(), next());
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fresh(root, &base);
    let (reused, _) = redeploy(root, None, &next);
    assert_eq!(reused.files, 7, "what has the same name, one of them twice");
    check_equal(root, &next);

    let stranger = tempfile::tempdir().unwrap();
    std::fs::write(stranger.path().join("etc"), "a file where a directory is wanted").unwrap();
    let (reused, frames) = redeploy(stranger.path(), Some(&base.toc), &next);
    assert_eq!((reused, frames), (Reused::default(), next.toc.frames().len()));
    check_equal(stranger.path(), &next);
}

#[test]
fn what_was_left_in_the_middle_is_not_taken_for_a_system() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fresh(directory.path(), &base());
    let root = open_root(directory.path()).unwrap();
    set_aside(root.as_fd()).unwrap();
    let error = set_aside(root.as_fd()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
}
