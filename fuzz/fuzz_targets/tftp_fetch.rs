#![no_main]
#[path = "../src/tftp.rs"]
#[allow(dead_code)] // one target of the three
mod tftp_targets;
libfuzzer_sys::fuzz_target!(|data: &[u8]| tftp_targets::tftp_fetch(data));
