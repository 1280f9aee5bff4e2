//! Replays what the fuzzers found worth keeping (`fuzz/corpus/image_*`), with the toolchain of every day.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

#[path = "../../../fuzz/src/images.rs"]
mod target;

use std::path::Path;

fn replay(folder: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(folder);
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        target(&std::fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files >= 2, "the corpus is missing");
}

#[test]
fn every_manifest_of_the_corpus_passes() {
    replay("image_manifest", target::manifest);
}

#[test]
fn every_table_of_the_corpus_passes() {
    replay("image_toc", target::toc);
}
