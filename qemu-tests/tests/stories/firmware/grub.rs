//! GRUB: a password in its menu, which GRUB itself checks, and files over HTTP where its builder gave it that.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::command::run;
use qemu_tests::{Console, FirmwareKind, Lab, Nic, Node, Stage};

use super::{MEMORY_MIB, is_as_kept, lab, names, types_line};

const PASSWORD: (&str, &str) = (
    "menu-grub",
    "OVMF with Secure Boot, GRUB's menu: a protected entry is chosen with a wrong password, then with the right one",
);
const OVER_HTTP: (&str, &str) =
    ("grub-http", "OVMF, shim and a GRUB that has its module for HTTP: kernel and initrd come over that");
/// From power to GRUB's menu.
const MENU_MAX: Duration = Duration::from_secs(180);
/// From a key to what it does; GRUB hashes for seconds on a machine without acceleration.
const KEY_MAX: Duration = Duration::from_secs(60);
/// How often a key is typed within that.
const KEY_TRIES_MAX: u32 = 3;
/// From there to the agent: kernel and initrd in lock step, 1 KiB at a time.
const AGENT_MAX: Duration = Duration::from_secs(420);
/// The password is `secret`, and nobody has to find out that this machine refuses iPXE.
const SITE: &str = "
    [user.admin]
    digest = '11f3f67a677a2f4bb854b22a0fdb4c81'
    grub = 'grub.pbkdf2.sha512.10000.000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F.3DCC737D366439321D8BA3211434BF1B71A31F9CD00F5EB419019B56D84A95F96A0B088B45E00DDFB53E5C13ABE8222E59E270A14575F5F433828196A9D8B470'
    [entry.disk]
    title = 'Boot from the local disk'
    local = 'auto'
    [entry.hardware]
    title = 'Report the hardware'
    key = 'h'
    inventory = true
    users = ['admin']
    [menu.main]
    title = 'First menu'
    items = ['disk', 'hardware']
    [default]
    menu = 'main'
    secure_boot = true
";
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

pub(crate) async fn password() -> Result<()> {
    let lab = lab(SITE).await?;
    let node = lab.node("menu-grub").secure_boot().memory_mib(MEMORY_MIB).build()?;
    let recorder = node.record()?;
    node.power_on()?;
    let told = proves_a_password(&lab, &node).await;
    is_as_kept(&lab, recorder, PASSWORD, &names(&node), told)
}

async fn proves_a_password(lab: &Lab, node: &Node) -> Result<()> {
    let console = node.console();
    console.wait_for(&["Report the hardware"], MENU_MAX).await?;
    lab.note("a protected entry with a wrong password");
    logs_in(console, "wrong").await?;
    console.wait_for(&["denied"], KEY_MAX).await?;
    // It shows its menu again by itself.
    console.wait_for(&["Report the hardware"], KEY_MAX).await?;
    ensure!(node.stage_on_console().is_none(), "the agent runs although the password was wrong");
    lab.note("and with the right one");
    logs_in(console, "secret").await?;
    node.reaches_within(Stage::Await, AGENT_MAX).await?;
    ensure!(!console.text().contains("secret"), "the password is on the screen");
    Ok(())
}

async fn logs_in(console: &Console, password: &str) -> Result<()> {
    chooses_protected(console).await?;
    types_line(console, "admin").await?;
    console.wait_for(&["assword"], KEY_MAX).await?;
    types_line(console, password).await
}

/// Types the entry's key until GRUB asks who that is: a key that comes while it still draws its menu is dropped.
async fn chooses_protected(console: &Console) -> Result<()> {
    let mut asked = Ok("");
    for _ in 0..KEY_TRIES_MAX {
        console.types(&["h"]).await?;
        asked = console.wait_for(&["sername"], KEY_MAX / KEY_TRIES_MAX).await;
        if asked.is_ok() {
            break;
        }
    }
    asked.map(drop)
}

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
    run(&mut mkimage).context("making a GRUB; scripts/setup installs what that needs")
}
