#![no_main]
#[path = "../src/site.rs"]
mod site_target;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    site_target::site(data);
});
