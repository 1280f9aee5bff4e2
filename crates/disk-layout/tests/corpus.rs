//! Replays what the fuzzer found worth keeping (`fuzz/corpus/layout`), with the toolchain of every day.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test crate
#![allow(missing_docs, unreachable_pub, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "../../../fuzz/src/layouts.rs"]
mod target;

use std::path::Path;

#[test]
fn every_file_of_the_corpus_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/layout");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        target::layout(&std::fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files >= 2, "the corpus is missing");
}
