//! Makes, inspects and signs images; builds the boot bundle.
#![forbid(unsafe_code)]

fn main() {}
