#![no_main]
#[allow(dead_code)] // what the other target alone uses
#[path = "../src/dhcp.rs"]
mod dhcp;
libfuzzer_sys::fuzz_target!(|data: &[u8]| dhcp::dhcp_packet(data));
