//! Images leave again: as archives that GNU tar and bsdtar restore, as layouts that skopeo and umoci read; and what two
//! trees have different is said.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;

use support::{Extras, Seen, assert_equal, fail, has, is_root, look, make_tree, release, run, succeed, tool};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn call(program: &str, arguments: &[&str]) -> Output {
    run(program, &arguments.iter().map(OsStr::new).collect::<Vec<_>>())
}

/// A tree and its image.
struct Made {
    directory: tempfile::TempDir,
    source: PathBuf,
    image: PathBuf,
    seen: BTreeMap<PathBuf, Seen>,
}

impl Made {
    fn new(extras: Extras) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let (source, image) = (directory.path().join("source"), directory.path().join("a.esir"));
        make_tree(&source, extras);
        let seen = look(&source);
        succeed(&["capture", text(&source), "-o", text(&image), "--no-default-excludes", "--level", "1"]);
        Some(Self { directory, source, image, seen })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        release(&self.source);
    }
}

#[test]
fn gnu_tar_bsdtar_and_import_restore_an_exported_archive() {
    let Some(made) = Made::new(Extras::All) else { return };
    let archive = made.path("a.tar");
    succeed(&["export", text(&made.image), "-o", text(&archive)]);
    let without = |tree: &BTreeMap<PathBuf, Seen>, flags: bool| -> BTreeMap<PathBuf, Seen> {
        let kept = tree.iter().filter(|(path, _)| path.as_path() != Path::new("dev/socket"));
        kept.map(|(path, seen)| {
            let flags = if flags { seen.flags } else { 0 };
            (path.clone(), Seen { flags, ..seen.clone() })
        })
        .collect()
    };
    if has("tar") {
        let out = made.path("gnu");
        std::fs::create_dir(&out).unwrap();
        let options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-xpf"];
        call("tar", &[&options[..], &[text(&archive), "-C", text(&out)]].concat());
        assert_equal(&without(&look(&out), false), &without(&made.seen, false));
    }
    if has("bsdtar") {
        let out = made.path("bsd");
        std::fs::create_dir(&out).unwrap();
        let options = ["--numeric-owner", "--xattrs", "--acls", "--fflags", "-xpf"];
        call("bsdtar", &[&options[..], &[text(&archive), "-C", text(&out)]].concat());
        let mut seen = look(&out);
        release(&out);
        // libarchive restores no time of the directory that it extracts into.
        let root = PathBuf::new();
        let time = made.seen[&root].mtime;
        seen.get_mut(&root).unwrap().mtime = time;
        // QUIRK(libarchive): it reads the fraction of a time before 1970 as if it were after the second.
        let as_bsdtar = |(seconds, nanoseconds): (i64, i64)| match seconds {
            ..0 if nanoseconds > 0 => (seconds + 1, 1_000_000_000 - nanoseconds),
            _ => (seconds, nanoseconds),
        };
        let mut expected = without(&made.seen, true);
        expected.iter_mut().filter(|(path, _)| **path != root).for_each(|(_, seen)| {
            seen.mtime = as_bsdtar(seen.mtime);
        });
        assert_equal(&without(&seen, true), &expected);
    }
    let (image, out) = (made.path("again.esir"), made.path("again"));
    succeed(&["import", text(&archive), "-o", text(&image), "--level", "1"]);
    succeed(&["extract", text(&image), "-C", text(&out)]);
    let seen = look(&out);
    release(&out);
    assert_equal(&without(&seen, true), &without(&made.seen, true));
}

#[test]
fn skopeo_and_umoci_read_an_exported_layout() {
    let Some(made) = Made::new(Extras::ForTar) else { return };
    if !["skopeo", "umoci"].into_iter().all(has) {
        return;
    }
    let layout = made.path("layout");
    let said =
        succeed(&["export", text(&made.image), "--as", "oci", "--reference", "12", "-o", text(&layout)]);
    let again = made.path("again");
    let other =
        succeed(&["export", text(&made.image), "--as", "oci", "--reference", "12", "-o", text(&again)]);
    assert_eq!(said.rsplit(' ').next(), other.rsplit(' ').next(), "equal images have equal digests");
    let name = format!("oci:{}:12", text(&layout));
    let info = call("skopeo", &["inspect", "--raw", &name]).stdout;
    assert!(String::from_utf8(info).unwrap().contains("layer.v1.tar+gzip"));
    call(
        "skopeo",
        &["copy", "-q", &name, &format!("docker-archive:{}:x:12", text(&made.path("docker.tar")))],
    );
    call("umoci", &["unpack", "--image", &format!("{}:12", text(&layout)), text(&made.path("bundle"))]);
    let unpacked = look(&made.path("bundle/rootfs"));
    // umoci knows no holes, and leaves out what overlayfs sets itself.
    let plain = |tree: &BTreeMap<PathBuf, Seen>| -> BTreeMap<PathBuf, Seen> {
        let strip = |seen: &Seen| {
            let mut seen = Seen { sparse: false, ..seen.clone() };
            // In Go's reader of tar, a record without a value removes one.
            seen.xattrs.retain(|name, value| !name.starts_with(b"trusted.overlay.") && !value.is_empty());
            seen
        };
        tree.iter().map(|(path, seen)| (path.clone(), strip(seen))).collect()
    };
    assert_equal(&plain(&unpacked), &plain(&made.seen));
    let (image, out) = (made.path("again.esir"), made.path("out"));
    for source in [&layout, &made.path("docker.tar")] {
        succeed(&["import", text(source), "-o", text(&image), "--level", "1"]);
        succeed(&["extract", text(&image), "-C", text(&out)]);
        assert_equal(&look(&out), &made.seen);
        std::fs::remove_dir_all(&out).unwrap();
    }
    fail(&["export", text(&made.image), "--as", "oci", "-o", text(&layout)], "is there already");
}

#[test]
fn cat_follows_links_within_the_image() {
    let Some(made) = Made::new(Extras::ForTar) else { return };
    let image = text(&made.image);
    let bytes = |path: &str| {
        let output = tool(&["cat", image, path]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert_eq!(bytes("/etc/passwd"), b"root:x:0:0\n");
    assert_eq!(bytes("etc/link"), vec![7; 100_000]);
    assert_eq!(bytes("srv/other-name"), vec![7; 100_000]);
    assert_eq!(Some(bytes("big/sparse")), made.seen[Path::new("big/sparse")].contents);
    assert_eq!(bytes("big/only-a-hole"), vec![0; 3 << 20]);
    assert_eq!(Some(bytes("/big/random")), made.seen[Path::new("big/random")].contents);
    fail(&["cat", image, "/etc"], "/etc is not a file");
    fail(&["cat", image, "/etc/nobody"], "the image has no /etc/nobody");
    fail(&["cat", image, "/etc/long-link"], "the image has no /etc/long-link");
}

#[test]
fn diff_names_what_changed_and_ends_like_diff() {
    let Some(made) = Made::new(Extras::All) else { return };
    let (image, source) = (text(&made.image), text(&made.source));
    let diff = |more: &[&str]| {
        let output = tool(&[&["diff", image, source, "--no-default-excludes"], more].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(diff(&[]), (Some(0), String::new()));
    let path = |name: &str| made.source.join(name);
    let touch = |name: &str, from: &str| call("touch", &["-h", "-r", text(&path(from)), text(&path(name))]);
    std::fs::write(path("dev/new"), "new").unwrap();
    std::fs::remove_file(path("dev/pipe")).unwrap();
    call("setfattr", &["-n", "user.comment", "-v", "other", text(&path("bin/tool"))]);
    call("chmod", &["600", text(&path("bin/tool"))]);
    // The same data with a hole filled.
    let sparse = std::fs::read(path("big/sparse")).unwrap();
    std::fs::write(path("copy"), &sparse).unwrap();
    touch("copy", "big/sparse");
    std::fs::rename(path("copy"), path("big/sparse")).unwrap();
    let mut random = std::fs::read(path("big/random")).unwrap();
    random[5_000_000] ^= 1;
    let keep = made.path("keep");
    call("touch", &["-r", text(&path("big/random")), text(&keep)]);
    std::fs::write(path("big/random"), random).unwrap();
    call("touch", &["-r", text(&keep), text(&path("big/random"))]);
    std::os::unix::fs::lchown(path("srv/a"), Some(7), Some(1000)).unwrap();
    let (code, said) = diff(&["--ignore", "mtime"]);
    assert_eq!(code, Some(1));
    for expected in [
        "- /dev/pipe (named pipe)\n",
        "+ /dev/new (file)\n",
        "~ /big/random: contents\n",
        "~ /big/sparse: holes ",
        "~ /bin/tool: mode 4751 -> 0600; xattrs ",
        "~ /srv/a: owner 1000:1000 -> 7:1000\n",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    let (_, json) = diff(&["--json", "--ignore", "mtime,holes"]);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["added"][0]["path"], "/dev/new");
    let changed: Vec<&str> =
        value["changed"].as_array().unwrap().iter().map(|it| it["path"].as_str().unwrap()).collect();
    assert_eq!(changed, ["/big/random", "/bin/a-first-name", "/bin/tool", "/srv/a", "/srv/other-name"]);
    assert_eq!(value["changed"][3]["attributes"]["owner"]["new"], "7:1000");
    assert_eq!(tool(&["diff", image, "/nowhere"]).status.code(), Some(2));
    // Two images.
    let second = made.path("b.esir");
    succeed(&["capture", source, "-o", text(&second), "--no-default-excludes", "--level", "1"]);
    let output = tool(&["diff", image, text(&second), "--ignore", "mtime,holes", "--json"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), json);
}

#[test]
fn a_disk_that_cannot_be_made_is_refused_and_leaves_nothing() {
    let Some(made) = Made::new(Extras::ForTar) else { return };
    let (disk, layout) = (made.path("disk.raw"), made.path("site.toml"));
    let refused = |layout_text: &str, name: &str, expected: &str| {
        std::fs::write(&layout, layout_text).unwrap();
        let words = ["--as", "disk", "--layout", text(&layout), "--hostname", name, "-o", text(&disk)];
        fail(&[&["export", text(&made.image)][..], &words].concat(), expected);
        let left = std::fs::read_dir(made.directory.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("disk.raw")), "{left:?}");
    };
    refused("", "Web_1", "is no host name");
    refused("layout.disk = [{ name = 'a' }, { name = 'b' }]", "web", "2 sets of disks");
    let mirrored = "layout.partition = [{ raid = 'r' }]\nlayout.raid = [{ name = 'r', role = 'root' }]";
    refused(mirrored, "web", "no arrays, containers or volumes");
    refused("layout.partition = [{ role = 'root', size = '900GiB' }]", "web", "loop");
}
