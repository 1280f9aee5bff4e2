//! Replays what the fuzzers found worth keeping (`fuzz/corpus`), with the toolchain of every day.
//!
//! Each file goes through every target, not only through its own: bytes of one format are rubbish to the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate
#![allow(missing_docs, unreachable_pub)]

#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// No input may take this long: the slowest takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(120);

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 7] = [
    ("bencode", targets::bencode),
    ("metainfo", targets::metainfo),
    ("wire", targets::wire),
    ("extension", targets::extension),
    ("tracker_query", targets::tracker_query),
    ("tracker_reply", targets::tracker_reply),
    ("engine", targets::engine),
];

#[test]
fn every_file_of_the_corpora_passes_every_target() {
    let (tell, told) = mpsc::channel();
    let replay = thread::spawn(move || {
        let mut files = 0;
        for (folder, _) in TARGETS {
            for path in corpus(folder) {
                let bytes = std::fs::read(&path).unwrap();
                for (name, target) in TARGETS {
                    tell.send(format!("{name} of {}", path.display())).unwrap();
                    target(&bytes);
                }
                files += 1;
            }
        }
        files
    });
    let mut last = String::new();
    loop {
        match told.recv_timeout(PATIENCE) {
            Ok(step) => last = step,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no end of {last}"),
        }
    }
    match replay.join() {
        Ok(files) => assert!(files > TARGETS.len(), "the corpora are missing"),
        Err(_) => panic!("{last} failed"),
    }
}

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}
