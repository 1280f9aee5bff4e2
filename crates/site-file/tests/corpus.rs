//! Replays what the fuzzer found worth keeping (`fuzz/corpus/site`), with the toolchain of every day.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test crate
#![allow(missing_docs, unreachable_pub)]

#[path = "../../../fuzz/src/site.rs"]
mod target;

use std::path::Path;

#[test]
fn every_file_of_the_corpus_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/site");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        let taken = target::site(&std::fs::read(&path).unwrap());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(taken || !name.starts_with("seed-") || name == "seed-problems", "{name} is refused");
        files += 1;
    }
    assert!(files >= 2, "the corpus is missing");
}
