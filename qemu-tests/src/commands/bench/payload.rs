//! `bench payload`: what a node loads before it can ask for more.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use qemu_tests::image;
use qemu_tests::programs::Programs;
use serde_json::{Value, json};

use super::print::{bar, print_rows};

/// Kernel excluded: what the boot loader fetches into memory for us; server NIC firmware included.
const INITRD_MAX_BYTES: u64 = 13 << 20;
/// The agent's static binary; `scripts/build` refuses to build a larger one.
const AGENT_MAX_BYTES: u64 = 4 << 20;

pub(super) fn payload(as_json: bool) -> Result<()> {
    let programs = Programs::find()?;
    let bundle = image::boot_bundle(&programs)?;
    let (kernel, initrd) = (bundle.dir.join("vmlinuz"), bundle.dir.join("initrd.img"));
    let bytes = |path: &Path| {
        fs::metadata(path).map(|file| file.len()).with_context(|| format!("looking at {}", path.display()))
    };
    let sizes =
        [("kernel", bytes(&kernel)?), ("initrd", bytes(&initrd)?), ("agent", bytes(&programs.agent)?)];
    let rows: Vec<Value> = sizes.iter().map(|(what, size)| json!({ "what": what, "bytes": size })).collect();
    let [_, (_, initrd), (_, agent)] = sizes;
    let bars = [
        bar("initrd with every Ethernet driver, bytes", initrd, INITRD_MAX_BYTES),
        bar("agent, bytes", agent, AGENT_MAX_BYTES),
    ];
    print_rows("payload", as_json, &rows, "drivers and their firmware, then the agent", &bars)
}
