//! Replays what the fuzzer found worth keeping (`fuzz/corpus/image_blocks`), with the toolchain of every day.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

#[path = "../../../fuzz/src/blocks.rs"]
mod target;

use std::path::{Path, PathBuf};

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/image_blocks");
    let files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2, "the corpus is missing");
    files
}

#[test]
fn every_partition_of_the_corpus_passes() {
    for path in corpus() {
        println!("{}", path.display());
        target::blocks(&std::fs::read(&path).unwrap());
    }
}

/// As a fuzzer begins: each byte of each real file system replaced, one at a time.
#[test]
fn partitions_with_one_wrong_byte_are_taken_or_refused() {
    let is_seed = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("seed-");
    for seed in corpus().into_iter().filter(is_seed).map(|path| std::fs::read(&path).unwrap()) {
        for at in 0..seed.len() {
            for value in [0, 0x7f, 0xff, seed[at].wrapping_add(1)] {
                let mut bytes = seed.clone();
                bytes[at] = value;
                target::blocks(&bytes);
            }
        }
    }
}
