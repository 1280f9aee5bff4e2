#![no_main]
#[path = "../src/menus.rs"]
mod menus_target;
libfuzzer_sys::fuzz_target!(|data: &[u8]| menus_target::menus(data));
