//! Makes, inspects and signs file-mode images; builds the boot bundle.
//!
//! Never writes half a file: every output appears under its name only when it is complete.
#![forbid(unsafe_code)]

mod boot;

fn main() {}
