//! What goes into an image comes out again: by our own writer, by GNU tar, and through GNU tar's archives.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::ffi::OsStr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};
use rustix::fs::{Mode, OFlags};
use support::{Extras, assert_equal, has, is_root, look, make_tree, release, run, succeed};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file system that keeps all that the tree has, or a printed line.
fn can_make(root: &Path) -> bool {
    let probe = root.join("probe");
    std::fs::write(&probe, "").unwrap();
    let trusted = rustix::fs::lsetxattr(&probe, "trusted.x", b"", rustix::fs::XattrFlags::empty()).is_ok();
    let user = rustix::fs::lsetxattr(&probe, "user.x", b"", rustix::fs::XattrFlags::empty()).is_ok();
    let flags = rustix::fs::ioctl_getflags(std::fs::File::open(&probe).unwrap()).is_ok();
    std::fs::remove_file(&probe).unwrap();
    if !(trusted && user && flags) {
        println!("skipped: the temporary directory's file system lacks attributes or flags");
    }
    trusted && user && flags
}

#[test]
fn a_captured_tree_is_extracted_with_everything() {
    let directory = tempfile::tempdir().unwrap();
    if !is_root() || !can_make(directory.path()) {
        return;
    }
    let (source, image, out) =
        (directory.path().join("source"), directory.path().join("all.esir"), directory.path().join("out"));
    make_tree(&source, Extras::All);
    let before = look(&source);
    succeed(&["capture", text(&source), "-o", text(&image), "--no-default-excludes", "--level", "3"]);
    succeed(&["verify", text(&image)]);
    succeed(&["extract", text(&image), "-C", text(&out)]);
    let after = look(&out);
    release(&source);
    release(&out);
    assert_equal(&after, &before);
}

#[test]
fn gnu_tar_lists_and_extracts_an_image() {
    let directory = tempfile::tempdir().unwrap();
    if !is_root() || !can_make(directory.path()) || !has("tar") || !has("zstd") {
        return;
    }
    let (source, image, out) =
        (directory.path().join("source"), directory.path().join("tar.esir"), directory.path().join("out"));
    make_tree(&source, Extras::ForTar);
    let before = look(&source);
    succeed(&["capture", text(&source), "-o", text(&image), "--no-default-excludes", "--level", "3"]);
    let listed = run("tar", &["--zstd".as_ref(), "-tf".as_ref(), image.as_os_str()]);
    let lines = listed.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(lines, before.len());
    std::fs::create_dir(&out).unwrap();
    let flags = ["--zstd", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"].map(OsStr::new);
    run("tar", &[&flags[..], &[image.as_os_str(), "-C".as_ref(), out.as_os_str()]].concat());
    assert_equal(&look(&out), &before);
}

#[test]
fn an_archive_of_gnu_tar_is_imported() {
    let directory = tempfile::tempdir().unwrap();
    if !is_root() || !can_make(directory.path()) || !has("tar") || !has("zstd") {
        return;
    }
    let place = directory.path();
    let source = place.join("source");
    make_tree(&source, Extras::ForTar);
    let before = look(&source);
    for (number, extra) in
        [&["--format=posix"][..], &["--format=posix", "--sparse-version=0.1"], &["--zstd", "--format=posix"]]
            .into_iter()
            .enumerate()
    {
        let archive = place.join(format!("{number}.tar"));
        let flags = ["--sparse", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-cf"].map(OsStr::new);
        let extra: Vec<&OsStr> = extra.iter().map(OsStr::new).collect();
        let rest = [archive.as_os_str(), "-C".as_ref(), source.as_os_str(), ".".as_ref()];
        run("tar", &[&extra[..], &flags[..], &rest[..]].concat());
        let (image, out) = (place.join(format!("{number}.esir")), place.join(format!("out{number}")));
        succeed(&["import", text(&archive), "-o", text(&image), "--level", "1"]);
        succeed(&["verify", text(&image)]);
        succeed(&["extract", text(&image), "-C", text(&out)]);
        assert_equal(&look(&out), &before);
    }
}

#[test]
fn an_image_is_imported_as_the_archive_that_it_is() {
    let directory = tempfile::tempdir().unwrap();
    if !is_root() || !can_make(directory.path()) {
        return;
    }
    let (source, first, second) = (
        directory.path().join("source"),
        directory.path().join("first.esir"),
        directory.path().join("second.esir"),
    );
    make_tree(&source, Extras::ForTar);
    succeed(&[
        "capture",
        text(&source),
        "-o",
        text(&first),
        "--no-default-excludes",
        "--level",
        "3",
        "--name",
        "same",
    ]);
    succeed(&["import", text(&first), "-o", text(&second), "--level", "3", "--name", "same"]);
    assert!(
        std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap(),
        "the same tree, the same image"
    );
}

#[test]
fn gnu_tar_gives_the_same_stream_as_zstd() {
    let directory = tempfile::tempdir().unwrap();
    if !has("zstd") || !has("tar") {
        return;
    }
    let (source, image) = (directory.path().join("source"), directory.path().join("x.esir"));
    std::fs::create_dir(&source).unwrap();
    support::random_file(&source.join("random"), 6 << 20);
    succeed(&["capture", text(&source), "-o", text(&image)]);
    let test =
        Command::new("zstd").args(["-t", "-q"]).stdin(std::fs::File::open(&image).unwrap()).status().unwrap();
    assert!(test.success());
}

/// Makes what one random word asks for in a directory that exists: a file, a directory, a link, holes, a name that
/// is not text.
fn make_random(directories: &mut Vec<std::path::PathBuf>, files: &mut Vec<std::path::PathBuf>, word: u64) {
    use std::os::unix::ffi::OsStrExt as _;
    let pick =
        |list: &[std::path::PathBuf]| list[usize::try_from(word >> 8).unwrap_or(0) % list.len()].clone();
    let name = [word.to_le_bytes()[3] | 0x80, word.to_le_bytes()[4] | 1, b'x']
        .map(|byte| if byte == b'/' { b'_' } else { byte });
    let path = pick(directories).join(OsStr::from_bytes(&name));
    if path.symlink_metadata().is_ok() {
        return;
    }
    match word % 5 {
        0 => {
            std::fs::create_dir(&path).unwrap();
            directories.push(path);
        }
        1 => std::os::unix::fs::symlink(OsStr::from_bytes(&name), &path).unwrap(),
        2 if !files.is_empty() => std::fs::hard_link(pick(files), &path).unwrap(),
        3 => {
            let file = std::fs::File::create(&path).unwrap();
            file.set_len(word >> 43).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"data", word >> 44).unwrap();
            files.push(path);
        }
        _ => {
            support::random_file(&path, usize::try_from(word >> 47).unwrap());
            std::os::unix::fs::chown(&path, Some(1000 + u32::from(name[0])), Some(3)).unwrap();
            files.push(path);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_is_captured_and_extracted_equal(words in vec(any::<u64>(), 0..40)) {
        let directory = tempfile::tempdir().unwrap();
        if is_root() {
            let (source, image, out) =
                (directory.path().join("source"), directory.path().join("x.esir"), directory.path().join("out"));
            std::fs::create_dir(&source).unwrap();
            let (mut directories, mut files) = (vec![source.clone()], vec![]);
            for word in words {
                make_random(&mut directories, &mut files, word);
            }
            succeed(&["capture", text(&source), "-o", text(&image), "--no-default-excludes", "--level", "1"]);
            succeed(&["extract", text(&image), "-C", text(&out)]);
            assert_equal(&look(&out), &look(&source));
        }
    }
}

#[test]
fn what_a_killed_extract_left_is_removed_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    if !is_root() || !can_make(directory.path()) {
        return;
    }
    let path = |name: &str| directory.path().join(name);
    let (source, image, out) = (path("source"), path("a.esir"), path("out"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "x").unwrap();
    succeed(&["capture", text(&source), "-o", text(&image)]);
    // One that was killed after its flags were set, one at work, and one that is somebody else's.
    let (dead, alive, other) = (path(".out.1.tmp"), path(".out.2.tmp"), path(".out.x.tmp"));
    for left in [&dead, &alive, &other] {
        std::fs::create_dir_all(left.join("etc")).unwrap();
        std::fs::write(left.join("etc/passwd"), "x").unwrap();
    }
    support::set_flags(&dead.join("etc/passwd"), rustix::fs::IFlags::IMMUTABLE);
    let lock = std::fs::File::open(&alive).unwrap();
    lock.lock().unwrap();
    succeed(&["extract", text(&image), "-C", text(&out)]);
    assert!(!dead.exists() && alive.exists() && other.exists());
    assert!(out.join("file").exists());
}

#[test]
fn a_hundred_thousand_names_nine_gib_and_a_path_of_4000_bytes_come_back() {
    const DATA: [(u64, &[u8]); 4] = [
        (3, b"odd"),
        ((5 << 30) + 777, &[b'c'; 100_000]),
        ((8 << 30) + (1 << 29) + 1, b"d"),
        ((9 << 30) + 12_344, b"end"),
    ];
    let directory = tempfile::tempdir().unwrap();
    if !is_root() || !can_make(directory.path()) || !has("rsync") {
        return;
    }
    let path = |name: &str| directory.path().join(name);
    let (source, image, out) = (path("source"), path("a.esir"), path("out"));
    std::fs::create_dir_all(source.join("many")).unwrap();
    for number in 0..100_000 {
        std::fs::File::create(source.join(format!("many/{number:06}"))).unwrap();
    }
    let file = std::fs::File::create(source.join("sparse")).unwrap();
    for (offset, bytes) in DATA {
        file.write_all_at(bytes, offset).unwrap();
    }
    drop(file);
    // Longer than a path from the root can be: made step by step.
    let mut at = rustix::fs::open(&source, OFlags::DIRECTORY, Mode::empty()).unwrap();
    let name = "d".repeat(249);
    for _ in 0..16 {
        rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, name.as_str(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let check = |out: &Path| {
        let (from, to) = (format!("{}/", text(&source)), format!("{}/", text(out)));
        let said = run("rsync", &["-naHAXS", "--itemize-changes", "--delete", &from, &to].map(OsStr::new));
        assert_eq!(String::from_utf8_lossy(&said.stdout), "");
        let file = std::fs::File::open(out.join("sparse")).unwrap();
        for (offset, expected) in DATA {
            let mut found = vec![0; expected.len() + 2];
            let count = file.read_at(&mut found, offset - 1).unwrap();
            assert!(found[0] == 0 && found[1..=expected.len()] == *expected, "{offset}");
            assert!(count <= expected.len() + 1 || found[expected.len() + 1] == 0, "{offset}");
        }
        assert!(file.metadata().unwrap().blocks() < 2000, "its holes are holes");
    };
    succeed(&["capture", text(&source), "-o", text(&image), "--level", "1"]);
    succeed(&["extract", text(&image), "-C", text(&out)]);
    check(&out);
    std::fs::remove_dir_all(&out).unwrap();
    let (archive, again) = (path("a.tar"), path("b.esir"));
    succeed(&["export", text(&image), "-o", text(&archive)]);
    succeed(&["import", text(&archive), "-o", text(&again), "--level", "1"]);
    succeed(&["diff", text(&image), text(&again)]);
    succeed(&["extract", text(&again), "-C", text(&out)]);
    check(&out);
}
