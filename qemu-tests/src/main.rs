//! Virtual bare metal for people: machines, networks and disks on this computer.
#![forbid(unsafe_code)]
fn main() {}
