//! GRUB that loads files over HTTP, where its builder gave it that.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{FirmwareKind, Nic, Stage};

use super::{MEMORY_MIB, is_as_kept, lab, names};

const OVER_HTTP: (&str, &str) =
    ("grub-http", "OVMF, shim and a GRUB that has its module for HTTP: kernel and initrd come over that");
/// From power to the agent, also by TFTP in lock step, 1 KiB at a time.
const AGENT_MAX: Duration = Duration::from_secs(420);
/// What Debian puts into its GRUB for the network, as far as we need it, and HTTP.
const MODULES: [&str; 15] = [
    "all_video",
    "boot",
    "configfile",
    "echo",
    "efinet",
    "http",
    "linux",
    "minicmd",
    "net",
    "normal",
    "search",
    "sleep",
    "terminal",
    "test",
    "tftp",
];

pub(crate) async fn over_http() -> Result<()> {
    let files = tempfile::tempdir()?;
    boot_files_with_http(files.path())?;
    let site = format!("[boot]\nfiles = '{}'\n[default]\nsecure_boot = true\n", files.path().display());
    let lab = lab(&site).await?;
    // Nobody signed that GRUB, so Secure Boot is off.
    let node = lab.node("grub-http").firmware(FirmwareKind::Uefi).nic(Nic::Virtio);
    let node = node.memory_mib(MEMORY_MIB).build()?;
    let recorder = node.record()?;
    let reached = node.power_on()?.reaches_within(Stage::Await, AGENT_MAX).await.map(drop);
    is_as_kept(&lab, recorder, OVER_HTTP, &names(&node), reached)
}

/// Debian's shim and iPXE, and a GRUB made of Debian's modules.
fn boot_files_with_http(dir: &Path) -> Result<()> {
    for name in ["undionly.kpxe", "snponly.efi", "ipxe.efi"] {
        symlink(Path::new("/usr/lib/ipxe").join(name), dir.join(name))?;
    }
    fs::copy("/usr/lib/shim/shimx64.efi.signed", dir.join("shimx64.efi")).context("copying shim")?;
    let mut mkimage = Command::new("grub-mkimage");
    mkimage
        .args(["--format=x86_64-efi", "--prefix=/grub", "--output"])
        .arg(dir.join("grubx64.efi"))
        .args(MODULES);
    let made = mkimage.output().context("running grub-mkimage; scripts/setup installs it")?;
    ensure!(made.status.success(), "grub-mkimage: {}", String::from_utf8_lossy(&made.stderr).trim());
    Ok(())
}
