//! What comes of an older system and a delta image is what a fresh deployment gives, whatever somebody did to the older
//! system; rsync compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use image_apply::{staged_name, verify_tree};
use image_format::{
    DELTA_FILES, DELTA_MANIFEST, EntryKind, FileContent, MemoryImage, Metadata, Node, NodeKind, OwnerNames,
    Tree, build_in_memory,
};
use proptest::prelude::*;

use super::*;

/// Contents by path; directories are those that files need.
type Files = BTreeMap<String, Vec<u8>>;

struct Image {
    made: MemoryImage,
    toc: Arc<Toc>,
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

fn files(of: &[(&str, u8, usize)]) -> Files {
    of.iter().map(|&(path, seed, length)| (path.to_owned(), noise(seed, length))).collect()
}

fn build(files: &Files) -> Image {
    let mut nodes = BTreeMap::from([(String::new(), NodeKind::Directory)]);
    for (path, bytes) in files {
        for (at, _) in path.match_indices('/') {
            nodes.insert(path[..at].to_owned(), NodeKind::Directory);
        }
        nodes.insert(path.clone(), NodeKind::File(FileContent::plain(bytes.len() as u64)));
    }
    let node = |(path, kind): (String, NodeKind)| {
        let mode = if kind == NodeKind::Directory { 0o755 } else { 0o640 };
        let metadata = Metadata { mode, ..Metadata::default() };
        Node { path: path.into_bytes(), metadata, names: OwnerNames::default(), xattrs: Vec::new(), kind }
    };
    let mut nodes: Vec<Node> = nodes.into_iter().map(node).collect();
    nodes.sort_by(|a, b| a.path.split(|&c| c == b'/').cmp(b.path.split(|&c| c == b'/')));
    let tree = Tree::new(nodes).unwrap();
    let contents = |index: usize| {
        let path = String::from_utf8(tree.nodes()[index].path.clone()).unwrap();
        files.get(&path).cloned().unwrap_or_default()
    };
    let made = build_in_memory(&tree, &contents, "some").unwrap();
    let table = made.bytes(made.manifest.toc_range());
    let toc = Arc::new(Toc::from_compressed(table, &made.manifest).unwrap());
    Image { made, toc }
}

/// As `image-tools delta` makes it, but for its mode.
fn delta(base: &Image, new: &Image, contents: &Files) -> Image {
    let hash = |kind: &EntryKind| match kind {
        EntryKind::File { hash, .. } => *hash,
        _ => None,
    };
    let mut known: BTreeSet<_> =
        base.toc.entries().filter_map(|(_, entry)| hash(&entry.kind)).map(|it| *it.as_bytes()).collect();
    let mut files = Files::from([
        (DELTA_TABLE.to_owned(), new.made.bytes(new.made.manifest.toc_range()).to_vec()),
        (DELTA_MANIFEST.to_owned(), new.made.manifest.to_bytes().unwrap()),
    ]);
    for (index, entry) in new.toc.entries() {
        if hash(&entry.kind).is_some_and(|hash| known.insert(*hash.as_bytes())) {
            let path = String::from_utf8(new.toc.path(index)).unwrap();
            files.insert(format!("{DELTA_FILES}/{}", staged_name(index)), contents[&path].clone());
        }
    }
    // The directory is there also when nothing is in it.
    files.entry(format!("{DELTA_FILES}/none")).or_default();
    build(&files)
}

fn write(image: &Image, root: &Path) {
    let applier = Applier::begin(root, Arc::clone(&image.toc)).unwrap();
    for index in applier.unwritten() {
        applier.write_frame(index, image.made.bytes(image.toc.frame(index).unwrap().range())).unwrap();
    }
    applier.finish().unwrap();
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

/// Deploys `old`, lets somebody work on it, makes `new` of it and returns how much came from the full image.
async fn redeploy(old: &Files, new: &Files, somebody: impl FnOnce(&Path)) -> Result<u64, FetchError> {
    let (base, image) = (build(old), build(new));
    let root = tempfile::tempdir().unwrap();
    write(&base, root.path());
    somebody(root.path());
    let delta = delta(&base, &image, new);
    let redeployment = Redeployment::begin(root.path()).unwrap();
    write(&delta, &redeployment.delta_directory());
    let table =
        Toc::from_compressed(base.made.bytes(base.made.manifest.toc_range()), &base.made.manifest).unwrap();
    let aside = Aside { redeployment, table };
    let fetch = async |range: Range<u64>| Ok(image.made.bytes(range).to_vec());
    let ended = finish(aside, &image.made.manifest, &delta.toc, fetch).await?;
    assert!(
        ended.table == image.made.bytes(image.made.manifest.toc_range()),
        "the table as it is in the image"
    );
    verify_tree(root.path(), &image.toc, &|_| {}).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    write(&image, fresh.path());
    assert_eq!(difference(fresh.path(), root.path()), "");
    Ok(ended.missing_bytes)
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: owners need root");
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn untouched_system_needs_the_delta_image_and_nothing_else() {
    if !is_root() {
        return;
    }
    let old = files(&[("etc/a", 1, 100), ("usr/big", 2, 3 << 20), ("usr/gone", 3, 9), ("var/empty", 0, 0)]);
    let new =
        files(&[("etc/a", 4, 200), ("usr/moved", 2, 3 << 20), ("usr/copy", 2, 3 << 20), ("var/empty", 0, 0)]);
    assert_eq!(redeploy(&old, &new, |_| {}).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_corrupted_and_missing_files_come_from_the_full_image() {
    if !is_root() {
        return;
    }
    let old = files(&[
        ("etc/a", 1, 100),
        ("etc/b", 2, 100),
        ("usr/c", 3, 1 << 20),
        ("usr/d", 4, 10),
        ("usr/e", 5, 10),
    ]);
    let mut new = old.clone();
    new.insert("usr/f".to_owned(), noise(9, 50));
    let somebody = |root: &Path| {
        fs::write(root.join("etc/a"), "shorter").unwrap();
        // Of the same length.
        fs::write(root.join("etc/b"), noise(77, 100)).unwrap();
        fs::remove_file(root.join("usr/c")).unwrap();
        fs::remove_file(root.join("usr/d")).unwrap();
        fs::create_dir(root.join("usr/d")).unwrap();
        fs::write(root.join("usr/d/own"), "of nobody").unwrap();
        fs::set_permissions(root.join("usr/e"), PermissionsExt::from_mode(0o777)).unwrap();
        fs::write(root.join("usr/own"), "of nobody").unwrap();
    };
    let missing = redeploy(&old, &new, somebody).await.unwrap();
    assert!(missing > 1 << 20, "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn system_that_lacks_most_of_its_image_is_given_up() {
    if !is_root() {
        return;
    }
    let old = files(&[("a", 1, 10 << 20), ("b", 2, 10 << 20), ("c", 3, 1 << 20)]);
    let somebody = |root: &Path| {
        fs::remove_file(root.join("a")).unwrap();
        fs::remove_file(root.join("b")).unwrap();
    };
    let error =
        redeploy(&old, &old.clone().into_iter().chain(files(&[("d", 4, 1)])).collect(), somebody).await;
    assert!(matches!(error, Err(FetchError::Reuse(ReuseError::TooMuch { .. }))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_not_the_images_are_refused() {
    if !is_root() {
        return;
    }
    let (base, image) = (build(&files(&[("a", 1, 100)])), build(&files(&[("a", 1, 100), ("b", 2, 5)])));
    let root = tempfile::tempdir().unwrap();
    let delta = delta(&base, &image, &files(&[("a", 1, 100), ("b", 2, 5)]));
    let redeployment = Redeployment::begin(root.path()).unwrap();
    write(&delta, &redeployment.delta_directory());
    let table =
        Toc::from_compressed(base.made.bytes(base.made.manifest.toc_range()), &base.made.manifest).unwrap();
    let fetch = async |range: Range<u64>| Ok(vec![0; usize::try_from(range.end - range.start).unwrap()]);
    let ended = finish(Aside { redeployment, table }, &image.made.manifest, &delta.toc, fetch).await;
    assert!(matches!(ended, Err(FetchError::Reuse(ReuseError::Redeploy(_)))));
    assert!(root.path().join(".esir").exists(), "nobody takes it for a system");
}

/// One file: where, and which contents.
fn any_files() -> impl Strategy<Value = Files> {
    let path = (0_u8..3, 0_u8..4).prop_map(|(folder, name)| format!("d{folder}/f{name}"));
    let contents = (0_u8..5, prop_oneof![Just(0_usize), 1_usize..300, Just(70_000)]);
    prop::collection::btree_map(path, contents.prop_map(|(seed, length)| noise(seed, length)), 0..10)
}

/// What somebody does to a path.
#[derive(Clone, Debug)]
enum Deed {
    Remove,
    Write(u8, usize),
    Flip,
    Open,
    LinkTo(u8),
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        Just(Deed::Remove),
        (0_u8..5, 0_usize..300).prop_map(|(seed, length)| Deed::Write(seed, length)),
        Just(Deed::Flip),
        Just(Deed::Open),
        (0_u8..4).prop_map(Deed::LinkTo),
    ]
}

fn carry_out(root: &Path, folder: u8, name: u8, deed: &Deed) {
    let path = root.join(format!("d{folder}/f{name}"));
    // What cannot be done to this tree is left undone.
    let _ = match deed {
        Deed::Remove => fs::remove_file(&path),
        Deed::Write(seed, length) => fs::write(&path, noise(*seed, *length)),
        Deed::Flip => fs::read(&path).and_then(|mut bytes| {
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(&path, bytes)
        }),
        Deed::Open => fs::set_permissions(&path, PermissionsExt::from_mode(0o4777)),
        Deed::LinkTo(other) => fs::hard_link(root.join(format!("d{folder}/f{other}")), &path),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_older_system_becomes_the_new_one(
        old in any_files(),
        new in any_files(),
        deeds in prop::collection::vec((0_u8..3, 0_u8..4, any_deed()), 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        if nix::unistd::geteuid().is_root() {
            let somebody = |root: &Path| deeds.iter().for_each(|(folder, name, deed)| carry_out(root, *folder, *name, deed));
            runtime.block_on(redeploy(&old, &new, somebody)).unwrap();
        }
    }
}
