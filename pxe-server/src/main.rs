//! DHCP, TFTP, HTTP boot, tracker and seed, control plane: one binary.
#![forbid(unsafe_code)]

mod netboot;

fn main() {}
