//! Container images made by umoci and skopeo become the tree that umoci itself unpacks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use support::{Seen, assert_equal, fail, has, is_root, look, run, succeed};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn call(program: &str, arguments: &[&str]) {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    run(program, &arguments);
}

/// A layout with two layers, and the tree that umoci unpacks of them.
struct Layout {
    directory: tempfile::TempDir,
}

impl Layout {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `None` where a program is missing.
    fn make() -> Option<Self> {
        if !is_root() || !has("umoci") || !has("skopeo") {
            return None;
        }
        let layout = Self { directory: tempfile::tempdir().unwrap() };
        let place = text(&layout.path("layout")).to_owned();
        let image = format!("{place}:12");
        call("umoci", &["init", "--layout", &place]);
        call("umoci", &["new", "--image", &image]);
        let bundle = layout.path("bundle");
        call("umoci", &["unpack", "--image", &image, text(&bundle)]);
        let root = bundle.join("rootfs");
        support::make_tree(&root, support::Extras::ForTar);
        call("umoci", &["repack", "--refresh-bundle", "--image", &image, text(&bundle)]);
        std::fs::remove_file(root.join("etc/passwd")).unwrap();
        std::fs::remove_dir_all(root.join("srv/a")).unwrap();
        std::fs::remove_dir_all(root.join("big")).unwrap();
        std::fs::create_dir(root.join("big")).unwrap();
        std::fs::write(root.join("big/new"), "new").unwrap();
        std::fs::write(root.join("bin/second"), "second").unwrap();
        call("umoci", &["repack", "--image", &image, text(&bundle)]);
        call("umoci", &["unpack", "--image", &image, text(&layout.path("expected"))]);
        Some(layout)
    }

    /// Imports a source and looks at what comes out of the image.
    fn import(&self, source: &str, more: &[&str]) -> BTreeMap<PathBuf, Seen> {
        let (image, out) = (self.path("x.esir"), self.path("out"));
        let _ = std::fs::remove_dir_all(&out);
        succeed(&[&["import", source, "-o", text(&image), "--level", "1"], more].concat());
        succeed(&["verify", text(&image)]);
        succeed(&["extract", text(&image), "-C", text(&out)]);
        look(&out)
    }
}

#[test]
fn layers_and_whiteouts_come_out_as_umoci_unpacks_them() {
    let Some(layout) = Layout::make() else { return };
    let expected = look(&layout.path("expected/rootfs"));
    assert!(!expected.contains_key(Path::new("etc/passwd")) && expected.contains_key(Path::new("big/new")));
    let source = layout.path("layout");
    assert_equal(&layout.import(text(&source), &[]), &expected);
    let source = text(&source);
    call("tar", &["-C", source, "-cf", text(&layout.path("layout.tar")), "."]);
    assert_equal(&layout.import(text(&layout.path("layout.tar")), &[]), &expected);
    let copy = |to: &str| call("skopeo", &["copy", "-q", &format!("oci:{source}:12"), to]);
    let archive = text(&layout.path("docker.tar")).to_owned();
    copy(&format!("docker-archive:{archive}:debian:12"));
    assert_equal(&layout.import(&archive, &["--reference", "debian:12"]), &expected);
    call("gzip", &["-1", &archive]);
    assert_equal(&layout.import(&format!("{archive}.gz"), &[]), &expected);
    let zstd = text(&layout.path("zstd")).to_owned();
    call(
        "skopeo",
        &[
            "copy",
            "-q",
            "--dest-compress-format",
            "zstd",
            &format!("oci:{source}:12"),
            &format!("oci:{zstd}:12"),
        ],
    );
    assert_equal(&layout.import(&zstd, &[]), &expected);
}

#[test]
fn a_kernel_layer_goes_over_a_container_image() {
    let Some(layout) = Layout::make() else { return };
    let kernel = layout.path("kernel");
    std::fs::create_dir_all(kernel.join("boot")).unwrap();
    std::fs::write(kernel.join("boot/vmlinuz-6.1.0-1-amd64"), "kernel").unwrap();
    std::fs::write(kernel.join("bin"), "in place of a directory").unwrap();
    call("tar", &["-C", text(&kernel), "-czf", text(&layout.path("kernel.tar.gz")), "boot", "bin"]);
    let tar = layout.path("kernel.tar.gz");
    let seen = layout.import(text(&layout.path("layout")), &["--layer", text(&tar), "--exclude", "/srv"]);
    assert!(seen.contains_key(Path::new("boot/vmlinuz-6.1.0-1-amd64")));
    assert!(seen.contains_key(Path::new("etc/link")));
    assert_eq!(seen[Path::new("bin")].kind, look(&kernel)[Path::new("bin")].kind);
    assert!(!seen.contains_key(Path::new("srv")));
    // The same by a directory.
    let mut again =
        layout.import(text(&layout.path("layout")), &["--layer", text(&kernel), "--exclude", "/srv"]);
    // A directory brings its own root, and more of times than a tar of whole seconds.
    for name in ["", "bin", "boot", "boot/vmlinuz-6.1.0-1-amd64"].map(Path::new) {
        assert!(again[name].mtime.0.abs_diff(seen[name].mtime.0) < 100);
        again.insert(name.to_owned(), seen[name].clone());
    }
    assert_equal(&again, &seen);
}

#[test]
fn damaged_and_missing_parts_are_named() {
    let Some(layout) = Layout::make() else { return };
    let source = layout.path("layout");
    let out = layout.path("x.esir");
    fail(&["import", text(&source), "-o", text(&out), "--platform", "linux/riscv64"], "for linux/amd64");
    fail(&["import", text(&source), "-o", text(&out), "--reference", "13"], "it has 12");
    let blobs: Vec<PathBuf> =
        std::fs::read_dir(source.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut refused = 0;
    for blob in blobs {
        let kept = std::fs::read(&blob).unwrap();
        let mut bad = kept.clone();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        std::fs::write(&blob, bad).unwrap();
        let output = support::tool(&["import", text(&source), "-o", text(&out)]);
        // Blobs of the states before are in the layout too, and nobody reads those.
        if !output.status.success() {
            refused += 1;
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("its digest is") || said.contains("corrupt gzip"), "{said}");
            assert!(!out.exists());
        }
        for suffix in ["", ".manifest", ".pieces", ".torrent"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", text(&out)));
        }
        std::fs::write(&blob, kept).unwrap();
    }
    assert_eq!(refused, 4, "manifest, config and two layers");
}
