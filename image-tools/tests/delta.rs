//! An old tree and a delta image make the new tree, byte for byte; rsync and plain system calls compare.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::IFlags;
use support::{Extras, assert_equal, fail, has, is_root, look, make_tree, release, run, set_flags, succeed};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Two trees, their images, and the delta image between them.
struct World {
    place: tempfile::TempDir,
}

impl World {
    /// `None` where the test cannot run.
    fn make() -> Option<Self> {
        if !is_root() || !has("rsync") {
            return None;
        }
        let world = Self { place: tempfile::tempdir().unwrap() };
        let (base, new) = (world.path("base"), world.path("new"));
        make_tree(&base, Extras::All);
        support::random_file(&base.join("big/changed"), 5 << 20);
        run("cp", &["-a".as_ref(), base.as_os_str(), new.as_os_str()]);
        // cp keeps no flags, so the new tree has none but what it is given here.
        set_flags(&new.join("bin/tool"), IFlags::NODUMP);
        let changed = fs::File::options().write(true).open(new.join("big/changed")).unwrap();
        changed.write_all_at(b"another", 1 << 20).unwrap();
        fs::rename(new.join("big/random"), new.join("srv/moved")).unwrap();
        fs::copy(new.join("srv/moved"), new.join("srv/copied")).unwrap();
        fs::remove_file(new.join("bin/a-first-name")).unwrap();
        fs::remove_file(new.join("dev/pipe")).unwrap();
        fs::write(new.join("dev/pipe"), "a file now").unwrap();
        fs::remove_dir_all(new.join("srv/a")).unwrap();
        fs::write(new.join("srv/a"), "was a directory").unwrap();
        for name in ["base", "new"] {
            let image = world.path(&format!("{name}.esir"));
            let tree = world.path(name);
            succeed(&["capture", text(&tree), "-o", text(&image), "--no-default-excludes", "--level", "3"]);
        }
        let (base, new, delta) = (world.path("base.esir"), world.path("new.esir"), world.path("delta.esir"));
        succeed(&["delta", text(&base), text(&new), "-o", text(&delta), "--level", "3"]);
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn extract(&self, image: &str, name: &str) -> PathBuf {
        let (image, out) = (self.path(image), self.path(name));
        succeed(&["extract", text(&image), "-C", text(&out)]);
        out
    }

    /// `tree` is what a fresh extraction of the new image gives.
    fn check_new(&self, tree: &Path) {
        let fresh = self.extract("new.esir", "fresh");
        let flags = ["-nacHAXS", "--delete", "--itemize-changes"].map(str::as_ref);
        let (from, to) = (format!("{}/", fresh.display()), format!("{}/", tree.display()));
        let output = run("rsync", &[&flags[..], &[from.as_ref(), to.as_ref()]].concat());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        assert_equal(&look(tree), &look(&fresh));
        release(&fresh);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for tree in ["base", "new", "old", "fresh"] {
            release(&self.path(tree));
        }
    }
}

#[test]
fn an_old_tree_and_a_delta_image_make_the_new_tree() {
    let Some(world) = World::make() else { return };
    let (base, new, delta) = (world.path("base.esir"), world.path("new.esir"), world.path("delta.esir"));
    succeed(&["verify", text(&delta)]);
    let bytes = |path: &Path| fs::metadata(path).unwrap().len();
    // What moved, was copied or stayed is not in it: of 14 MB that do not compress, 5 MiB changed.
    assert!(bytes(&new) > 13_000_000 && bytes(&delta) < 6_000_000, "{} {}", bytes(&new), bytes(&delta));
    let again = world.path("again.esir");
    succeed(&["delta", text(&base), text(&new), "-o", text(&again), "--level", "3", "--name", "delta"]);
    assert!(fs::read(&delta).unwrap() == fs::read(&again).unwrap(), "the same images, the same delta image");

    let tree = world.extract("base.esir", "old");
    keep_record(&tree, &base);
    let said = succeed(&["update", text(&tree), "--delta", text(&delta)]);
    assert!(said.contains(", 0 B from the whole image"), "{said}");
    world.check_new(&tree);
}

/// What an installed system has: the manifest and the compressed table of contents of its image.
fn keep_record(tree: &Path, image: &Path) {
    let manifest = fs::read_to_string(format!("{}.manifest", image.display())).unwrap();
    let number = |key: &str| -> usize {
        let (_, rest) = manifest.split_once("\"toc\"").unwrap().1.split_once(&format!("\"{key}\"")).unwrap();
        let digits = rest.trim_start_matches([':', ' ']).split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse().unwrap()
    };
    let (offset, len) = (number("offset"), number("len"));
    let record = tree.join("var/lib/esir");
    fs::create_dir_all(&record).unwrap();
    fs::write(record.join("toc"), &fs::read(image).unwrap()[offset..offset + len]).unwrap();
    fs::write(record.join("manifest"), manifest).unwrap();
}

#[test]
fn what_its_owner_changed_in_the_old_tree_comes_from_the_whole_image() {
    let Some(world) = World::make() else { return };
    let (base, new, delta) = (world.path("base.esir"), world.path("new.esir"), world.path("delta.esir"));
    let tree = world.extract("base.esir", "old");
    // Same length, same time, another byte.
    let random = tree.join("big/random");
    let time = fs::metadata(&random).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&random).unwrap();
    file.write_all_at(b"flip", 5 << 20).unwrap();
    file.set_modified(time).unwrap();
    fs::write(tree.join("srv/own"), "not of any image").unwrap();
    let arguments = ["update", text(&tree), "--delta", text(&delta), "--base", text(&base)];
    succeed(&[&arguments[..], &["--image", text(&new)]].concat());
    world.check_new(&tree);
}

#[test]
fn a_delta_image_is_for_one_base_and_leads_to_one_image() {
    let Some(world) = World::make() else { return };
    let (base, new, delta) = (world.path("base.esir"), world.path("new.esir"), world.path("delta.esir"));
    let tree = world.extract("base.esir", "old");
    let before = look(&tree);
    let update = |rest: &[&str], expected: &str| fail(&[&["update", text(&tree)], rest].concat(), expected);
    update(&["--delta", text(&delta)], "has no record of its image");
    update(&["--delta", text(&delta), "--base", text(&new)], "nothing was changed");
    update(&["--delta", text(&new), "--base", text(&base)], "is no delta image");
    update(
        &["--delta", text(&delta), "--base", text(&base), "--image", text(&base)],
        "leads to another image",
    );
    assert_equal(&look(&tree), &before);
    let out = world.path("x.esir");
    fail(&["delta", text(&base), text(&base), "-o", text(&out)], "the two images are the same");
    fail(&["delta", text(&base), text(&delta), "-o", text(&out)], "is not an image of files");
}
