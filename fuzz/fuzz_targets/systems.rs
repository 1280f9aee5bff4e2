#![no_main]
#[path = "../src/systems.rs"]
mod systems_target;
libfuzzer_sys::fuzz_target!(|data: &[u8]| systems_target::systems(data));
