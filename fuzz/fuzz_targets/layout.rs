#![no_main]
#[path = "../src/layouts.rs"]
mod layouts_target;
libfuzzer_sys::fuzz_target!(|data: &[u8]| layouts_target::layout(data));
