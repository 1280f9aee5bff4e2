//! Each command on right and wrong input: what it makes, what it says, and that it leaves nothing half made.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::{fail, has, is_root, random_file, run, succeed};

/// A directory of its own with a small tree in it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let tree = PathBuf::from(place.path("tree"));
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::create_dir_all(tree.join("proc/1")).unwrap();
        std::fs::write(tree.join("etc/hostname"), "golden\n").unwrap();
        std::fs::write(tree.join("etc/os-release"), "PRETTY_NAME=\"Test 1\"\n").unwrap();
        random_file(&tree.join("random"), 5 << 20);
        std::fs::write(tree.join("zeros"), vec![0; 20 << 20]).unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Captures the tree; the image's path.
    fn image(&self, name: &str, more: &[&str]) -> String {
        let (tree, image) = (self.path("tree"), self.path(name));
        succeed(&[&["capture", &tree, "-o", &image, "--level", "1"], more].concat());
        image
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn flip(path: &str, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = usize::try_from(at).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).unwrap();
}

fn inspect(image: &str) -> serde_json::Value {
    serde_json::from_str(&succeed(&["inspect", image, "--json"])).unwrap()
}

#[test]
fn two_captures_are_equal_with_any_number_of_threads() {
    let place = Place::new();
    let first = place.image("a.esir", &["--name", "same", "--threads", "1"]);
    let second = place.image("b.esir", &["--name", "same", "--threads", "4"]);
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    let read = |image: &str, suffix: &str| std::fs::read(format!("{image}.{suffix}")).unwrap();
    assert_eq!(read(&first, "pieces"), read(&second, "pieces"));
    let info = inspect(&first);
    assert_eq!(info["manifest"]["distribution"], "Test 1");
    assert!(info["frames"].as_u64().unwrap() > 2);
    assert_eq!(info["manifest"]["piece_size"], 65_536);
}

#[test]
fn runs_are_packed_in_parallel_and_put_together_in_order() {
    let place = Place::new();
    for number in 0..40 {
        random_file(Path::new(&place.path(&format!("tree/file-{number:02}"))), 300_000 + number);
    }
    let one = place.image("a.esir", &["--name", "same", "--run-mib", "2", "--threads", "1"]);
    let five = place.image("b.esir", &["--name", "same", "--run-mib", "2", "--threads", "5"]);
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&five).unwrap());
    succeed(&["verify", &five]);
    let pads = |image: &str| {
        let info = inspect(image);
        let number = |key: &str| info[key].as_u64().unwrap();
        number("file_size") - number("compressed_bytes") - info["toc"]["len"].as_u64().unwrap()
    };
    assert!(pads(&five) > 8 << 20, "several runs, each in containers of its own");
    assert!(pads(&place.image("c.esir", &[])) < 100_000, "one run");
}

#[test]
fn default_excludes_keep_mount_points_and_leave_out_what_is_in_them() {
    let place = Place::new();
    std::fs::write(place.path("tree/etc/secret"), "x").unwrap();
    let listed = succeed(&["ls", &place.image("x.esir", &["--exclude", "/etc/secret"])]);
    assert!(
        listed.contains(" /proc\n") && !listed.contains("/proc/1") && !listed.contains("secret"),
        "{listed}"
    );
    let listed = succeed(&["ls", &place.image("y.esir", &["--no-default-excludes"])]);
    assert!(listed.contains(" /proc/1\n") && listed.contains("/etc/secret"), "{listed}");
}

#[test]
fn a_capture_leaves_exactly_its_outputs() {
    let place = Place::new();
    place.image("x.esir", &[]);
    assert_eq!(place.names(), ["tree", "x.esir", "x.esir.manifest", "x.esir.pieces", "x.esir.torrent"]);
    assert!(std::fs::metadata(place.path("x.esir.manifest")).unwrap().len() <= 4096);
}

#[test]
fn wrong_inputs_of_capture_and_import_leave_nothing() {
    let place = Place::new();
    let (tree, out) = (place.path("tree"), place.path("x.esir"));
    fail(&["capture", "/no/such/directory", "-o", &out], "opening the directory /no/such/directory");
    fail(&["capture", &place.path("tree/random"), "-o", &out], "Not a directory");
    fail(&["capture", &tree, "-o", &place.path("x.img")], "must be called NAME.esir");
    fail(&["capture", &tree, "-o", &place.path("no/x.esir")], "No such file");
    fail(&["capture", &tree, "-o", &place.path("tree/x.esir")], "lies in the directory that is captured");
    fail(&["capture", &tree, "-o", &out, "--sign", &place.path("tree/random")], "too long for a key");
    fail(
        &["capture", &tree, "-o", &out, "--sign", &place.path("tree/etc/hostname")],
        "not a minisign secret key",
    );
    fail(&["capture", &tree, "-o", &out, "--name", "../x"], "the name");
    fail(&["import", &place.path("tree/random"), "-o", &out], "not a tar archive");
    fail(&["import", &place.path("tree/etc/hostname"), "-o", &out], "ends in the middle");
    std::fs::write(place.path("tree/gz"), b"\x1f\x8b\x08aaaaaaaa").unwrap();
    fail(&["import", &place.path("tree/gz"), "-o", &out], "gzip");
    assert_eq!(place.names(), ["tree"]);
}

#[test]
fn other_files_are_no_images() {
    let place = Place::new();
    for command in ["inspect", "ls", "verify"] {
        fail(&[command, &place.path("tree/random")], "not an ESIR image");
        fail(&[command, &place.path("tree/etc/hostname")], "not an ESIR image");
        fail(&[command, "/no/such/image.esir"], "opening /no/such/image.esir");
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let place = Place::new();
    let good = place.image("good.esir", &[]);
    let info = inspect(&good);
    let (toc_offset, toc_len) =
        (info["toc"]["offset"].as_u64().unwrap(), info["toc"]["len"].as_u64().unwrap());
    let size = info["file_size"].as_u64().unwrap();
    let check = |at: u64, expected: &str| {
        let bad = place.path("bad.esir");
        for suffix in ["", ".manifest", ".pieces", ".torrent"] {
            std::fs::copy(format!("{good}{suffix}"), format!("{bad}{suffix}")).unwrap();
        }
        flip(&bad, at);
        fail(&["verify", &bad], expected);
    };
    check(0, "not an ESIR image");
    check(16, "format version");
    check(60, "two different images");
    check(toc_offset + toc_len / 2, "table of contents");
    check(toc_offset + toc_len + 20, "piece 0 of the image is damaged");
    check(size / 2, "of the image is damaged");
    check(size - 1, "of the image is damaged");
}

#[test]
fn companions_of_another_image_are_found() {
    let place = Place::new();
    let image = place.image("x.esir", &[]);
    std::fs::write(place.path("tree/etc/hostname"), "other\n").unwrap();
    let other = place.image("y.esir", &[]);
    let swap = |suffix: &str, expected: &str| {
        let (mine, theirs) = (format!("{image}.{suffix}"), format!("{other}.{suffix}"));
        let kept = std::fs::read(&mine).unwrap();
        std::fs::copy(theirs, &mine).unwrap();
        fail(&["verify", &image], expected);
        std::fs::remove_file(&mine).unwrap();
        fail(&["verify", &image], "is missing");
        std::fs::write(&mine, kept).unwrap();
    };
    swap("manifest", "two different images");
    swap("pieces", "list of piece hashes");
    swap("torrent", "metainfo");
    succeed(&["verify", &image]);
    let cut = std::fs::read(&image).unwrap();
    std::fs::write(&image, &cut[..cut.len() - 1]).unwrap();
    fail(&["verify", &image], "two different images");
}

#[test]
fn a_damaged_image_is_not_extracted() {
    let place = Place::new();
    if !is_root() {
        return;
    }
    let image = place.image("x.esir", &[]);
    let out = place.path("out");
    fail(&["extract", &image, "-C", &place.path("tree")], "not empty");
    let middle = std::fs::metadata(&image).unwrap().len() / 2;
    flip(&image, middle);
    fail(&["extract", &image, "-C", &out], "was refused: the frame's bytes do not have the hash");
    assert_eq!(place.names(), ["tree", "x.esir", "x.esir.manifest", "x.esir.pieces", "x.esir.torrent"]);
    flip(&image, middle);
    succeed(&["extract", &image, "-C", &out]);
    assert_eq!(std::fs::read_to_string(Path::new(&out).join("etc/hostname")).unwrap(), "golden\n");
    std::fs::remove_dir_all(&out).unwrap();
    std::fs::create_dir(&out).unwrap();
    succeed(&["extract", &image, "-C", &out]);
}

#[test]
fn keys_signatures_and_trust() {
    let place = Place::new();
    let key = place.path("site");
    succeed(&["keygen", "-o", &key, "--no-password"]);
    assert_eq!(std::fs::metadata(place.path("site.key")).unwrap().permissions().mode() & 0o777, 0o600);
    fail(&["keygen", "-o", &key, "--no-password"], "is there already");
    succeed(&["keygen", "-o", &place.path("stranger"), "--no-password"]);

    let image = place.image("x.esir", &[]);
    let trust = ["--trust", &place.path("site.pub")];
    let verify = |more: &[&str]| {
        [&["verify", &image], more].concat().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    fail(&verify(&trust), "is not signed");
    fail(&["sign", &image, "--key", &place.path("site.pub")], "not a minisign secret key");
    succeed(&["sign", &image, "--key", &place.path("site.key")]);
    assert!(succeed(&verify(&trust)).contains("signed by trusted key"));
    fail(&verify(&["--trust", &place.path("stranger.pub")]), "not trusted here");
    fail(&verify(&["--trust", &place.path("site.key")]), "not a minisign public key");
    if has("minisign") || std::path::Path::new("/usr/bin/minisign").exists() {
        let (public, manifest) = (place.path("site.pub"), format!("{image}.manifest"));
        run("minisign", &["-V".as_ref(), "-p".as_ref(), public.as_ref(), "-m".as_ref(), manifest.as_ref()]);
    }
    let manifest = format!("{image}.manifest");
    let changed = std::fs::read_to_string(&manifest).unwrap().replace("Test 1", "Test 2");
    std::fs::write(&manifest, changed).unwrap();
    fail(&verify(&trust), "was changed after key");

    // Made again without a key, the old signature does not stay beside it.
    place.image("x.esir", &[]);
    assert!(!Path::new(&format!("{image}.manifest.minisig")).exists());
    place.image("x.esir", &["--sign", &place.path("site.key")]);
    succeed(&verify(&trust));
}

#[test]
fn usage_mistakes_end_with_code_1() {
    assert_eq!(support::tool(&["capture"]).status.code(), Some(1));
    assert_eq!(support::tool(&["capture", "/", "-o", "x.esir", "--level", "99"]).status.code(), Some(1));
    assert_eq!(support::tool(&["--help"]).status.code(), Some(0));
}
