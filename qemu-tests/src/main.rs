//! Virtual bare metal: machines, networks and disks in which stories are told.
#![forbid(unsafe_code)]

fn main() {}
