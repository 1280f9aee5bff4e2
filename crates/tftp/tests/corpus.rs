//! Replays what the fuzzers found worth keeping (`fuzz/corpus/tftp_*`), with the toolchain of every day.
//!
//! Each file goes through every target: bytes of one are rubbish to the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test crate
#![allow(clippy::cast_possible_truncation, missing_docs, unreachable_pub)]

#[path = "../../../fuzz/src/tftp.rs"]
mod targets;

use std::path::Path;

use proptest::prelude::*;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 3] = [
    ("tftp_packet", targets::tftp_packet),
    ("tftp_transfer", targets::tftp_transfer),
    ("tftp_fetch", targets::tftp_fetch),
];

#[test]
fn every_file_of_the_corpora_passes_every_target() {
    let mut files = 0;
    for (folder, _) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(folder);
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            for (name, target) in TARGETS {
                println!("{name} of {}", path.display());
                target(&bytes);
            }
            files += 1;
        }
    }
    assert!(files >= 10, "the corpora are missing");
}

proptest! {
    #[test]
    fn random_moves_break_nothing(data in prop::collection::vec(any::<u8>(), 0..600)) {
        for (_, target) in TARGETS {
            target(&data);
        }
    }
}
