#![no_main]
#[path = "../src/images.rs"]
#[allow(dead_code)] // one target of the two
mod images;
libfuzzer_sys::fuzz_target!(|data: &[u8]| images::manifest(data));
