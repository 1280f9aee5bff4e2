#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| esir_fuzz::extension(data));
