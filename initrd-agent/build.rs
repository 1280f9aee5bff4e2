//! Link options of the static agent, which is loaded by every node before anything else and so should be small.

use std::path::PathBuf;

/// Unwind tables serve nothing in a program that aborts on panic and has no symbols; they are a tenth of it.
const DISCARD_UNWIND_TABLES: &str =
    "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.eh_frame_hdr) } } INSERT AFTER .text;\n";

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|feature| feature == "crt-static");
    // Of the profiles only `agent` is so small, and only it aborts on panic; others need their tables.
    let is_agent_profile = std::env::var("OPT_LEVEL").is_ok_and(|level| level == "z");
    if !is_static || !is_agent_profile {
        return Ok(());
    }
    // A position-independent static program carries 300 KiB of relative relocations; packed, it is 10 KiB
    // (any lld, or binutils 2.38; glibc 2.36 for the start code that reads them).
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // Functions with the same code are kept once (lld only, Rust's linker on this target); no address is an identity here.
    println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    let script = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("discard.ld");
    std::fs::write(&script, DISCARD_UNWIND_TABLES)?;
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    Ok(())
}
