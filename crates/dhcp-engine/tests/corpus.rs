//! Replays what the fuzzers found worth keeping (`fuzz/corpus`), with the toolchain of every day.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate
#![allow(missing_docs, unreachable_pub)]

#[path = "../../../fuzz/src/dhcp.rs"]
mod targets;

use std::path::Path;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 2] =
    [("dhcp_packet", targets::dhcp_packet), ("dhcp_engine", targets::dhcp_engine)];

#[test]
fn every_file_of_the_corpora_passes_both_targets() {
    let mut files = 0;
    for (folder, _) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(folder);
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            for (name, target) in TARGETS {
                let passed = std::panic::catch_unwind(|| target(&bytes));
                assert!(passed.is_ok(), "{} fails {name}", path.display());
            }
            files += 1;
        }
    }
    assert!(files > TARGETS.len(), "the corpora are missing");
}
