#![no_main]
#[path = "../src/blocks.rs"]
mod blocks;
libfuzzer_sys::fuzz_target!(|data: &[u8]| blocks::blocks(data));
