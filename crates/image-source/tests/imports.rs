//! Replays what the fuzzers found worth keeping (`fuzz/corpus/import_*`), with the toolchain of every day.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

#[path = "../../../fuzz/src/sources.rs"]
mod target;

use std::path::{Path, PathBuf};

/// Odd, so that every place of a block of 512 bytes has its turn.
const STEP: usize = 11;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 4] = [
    ("import_tar", target::tar),
    ("import_container", target::container),
    ("import_qcow2", target::qcow2),
    ("import_disk", target::disk),
];

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2, "the corpus is missing");
    files
}

#[test]
fn every_file_of_the_corpora_passes() {
    for (name, target) in TARGETS {
        for path in corpus(name) {
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
        }
    }
}

/// As a fuzzer begins: bytes of each real source replaced, one at a time; not every byte, to end within seconds.
#[test]
fn sources_with_one_wrong_byte_are_taken_or_refused() {
    for (name, target) in TARGETS {
        let is_seed = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("seed-");
        for seed in corpus(name).into_iter().filter(is_seed).map(|path| std::fs::read(&path).unwrap()) {
            for at in (0..seed.len()).step_by(STEP) {
                for value in [0, 0x7f, 0xff, seed[at].wrapping_add(1)] {
                    let mut bytes = seed.clone();
                    bytes[at] = value;
                    target(&bytes);
                }
            }
        }
    }
}
