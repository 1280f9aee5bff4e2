#![no_main]
#[path = "../src/sources.rs"]
#[allow(dead_code, reason = "each target calls one function")]
mod sources;
libfuzzer_sys::fuzz_target!(|data: &[u8]| sources::qcow2(data));
