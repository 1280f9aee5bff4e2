//! A mounted image shows what was captured: the same tree to plain system calls, to rsync, and to a capture of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Extras, assert_equal, has, is_root, look, make_tree, release, run, succeed};

/// The mount appears at once; this is for a machine that does other things.
const LIMIT: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Mounted<'a> {
    child: Child,
    directory: &'a Path,
}

fn is_mounted(directory: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!(" {} ", text(directory)))
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl<'a> Mounted<'a> {
    fn new(image: &Path, directory: &'a Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_image-tools"));
        command.args(["mount", text(image), text(directory), "--cache-mib", "16"]).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        wait_for("the mount appears", || is_mounted(directory));
        Self { child, directory }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if is_mounted(self.directory) {
            let _ = Command::new("umount").arg("-l").arg(self.directory).status();
        }
        let _ = self.child.wait();
    }
}

#[test]
fn a_mounted_image_shows_what_was_captured() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: /dev/fuse is not there");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (source, image, place) = (path("source"), path("a.esir"), path("mounted"));
    make_tree(&source, Extras::All);
    let before = look(&source);
    succeed(&["capture", text(&source), "-o", text(&image), "--no-default-excludes", "--level", "1"]);
    let mut mounted = Mounted::new(&image, &place);
    assert_equal(&look(&place), &before);
    if has("rsync") {
        let (from, to) = (format!("{}/", text(&source)), format!("{}/", text(&place)));
        let said = run("rsync", &["-naHAXSc", "--itemize-changes", "--delete", &from, &to].map(OsStr::new));
        assert_eq!(String::from_utf8_lossy(&said.stdout), "", "rsync finds nothing to change");
    }
    // A capture of what is shown is the same image, holes and flags and all.
    let again = path("again.esir");
    succeed(&["capture", text(&place), "-o", text(&again), "--no-default-excludes", "--level", "1"]);
    let id = |image: &Path| {
        let info: serde_json::Value =
            serde_json::from_str(&succeed(&["inspect", "--json", text(image)])).unwrap();
        info["manifest"]["image_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(id(&again), id(&image));
    assert!(std::fs::write(place.join("etc/passwd"), "x").is_err(), "it is read-only");
    // Told to end, it unmounts, and ends when nobody reads any more.
    let mut open = std::fs::File::open(place.join("big/random")).unwrap();
    run("kill", &["-TERM", &mounted.child.id().to_string()].map(OsStr::new));
    wait_for("the mount goes", || !is_mounted(&place));
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert_eq!(Some(bytes), before[Path::new("big/random")].contents);
    drop(open);
    assert!(mounted.child.wait().unwrap().success());
    drop(mounted);
    release(&source);
}

#[test]
fn a_damaged_frame_is_an_error_of_its_file_only() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (source, image, place) = (path("source"), path("a.esir"), path("mounted"));
    std::fs::create_dir(&source).unwrap();
    support::random_file(&source.join("a"), 20 << 20);
    support::random_file(&source.join("b"), 20 << 20);
    succeed(&["capture", text(&source), "-o", text(&image), "--level", "1"]);
    let mut bytes = std::fs::read(&image).unwrap();
    let at = bytes.len() - 1000;
    bytes[at] ^= 1;
    std::fs::write(&image, bytes).unwrap();
    let mounted = Mounted::new(&image, &place);
    assert_eq!(std::fs::read(place.join("a")).unwrap(), std::fs::read(source.join("a")).unwrap());
    let error = std::fs::read(place.join("b")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    drop(mounted);
}
