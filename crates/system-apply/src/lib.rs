//! Makes the written disk a machine's own and bootable: names, keys, the site's steps, initramfs, boot loaders.
//!
//! Never touches the disk of the machine that it runs on; of its firmware it writes one boot entry, and only if asked.
//! Done again, it makes the same files. Everything is read back before the last step, `boot::commit`, which writes
//! what firmware looks at. Until then the disk does not boot.
//!
//! Read first: [`make_own`], [`Personal`].
#![forbid(unsafe_code)]

mod accounts;
mod boot;
mod chroot;
mod containers;
mod initramfs;
mod names;
mod nvram;
mod references;
mod stack;
mod steps;
mod tree;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use disk_layout::Plan;
use node_api::{DiskKey, FirmwareKind, NodeIdentity};

use boot::{BootError, BootPlace};
use chroot::Chroot;
use initramfs::InitramfsError;
use stack::StackError;
use steps::StepFailure;
use tree::{Tree, TreeError};

pub use chroot::{ChrootError, ENTER, enter};

/// Three key pairs; RSA takes longest, up to a minute on an emulated processor.
const KEYGEN_LIMIT: Duration = Duration::from_secs(240);
/// What programs of steps change beside their own files.
const ACCOUNT_FILES: [&str; 4] = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"];
/// Where an installed system keeps what it was made from, for inventory and delta deployments.
const RECORD_FOLDER: &str = "/var/lib/esir";

/// Everything that making a system a machine's own needs to know.
#[derive(Debug)]
pub struct Personal<'a> {
    /// Where the installed system is mounted.
    pub root: &'a Path,
    /// Where its EFI system partition is mounted: its place inside `root`, or elsewhere.
    pub esp: Option<PathBuf>,
    /// The plan that the disk was made by.
    pub plan: &'a Plan,
    /// Keys of the plan's LUKS containers.
    pub disk_keys: &'a [DiskKey],
    /// Firmware that must be able to start it.
    pub firmware: FirmwareKind,
    /// Who the machine is.
    pub identity: &'a NodeIdentity,
    /// The image's manifest, as signed.
    pub manifest: &'a [u8],
    /// The image's table of contents, compressed as in the image.
    pub table: &'a [u8],
    /// Where the system comes from.
    pub origin: Origin<'a>,
}

/// What an installed system knows of its origin.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Name of the node that it was installed for.
    pub node: &'a str,
    /// Name of the image.
    pub image: &'a str,
    /// The image's id, hex.
    pub image_id: &'a str,
}

impl Origin<'_> {
    /// `/var/lib/esir/installed.json`
    fn record(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = serde_json::json!({
            "node": self.node,
            "image": self.image,
            "image_id": self.image_id,
            "installed_unix_s": now.as_secs(),
            "agent_version": env!("CARGO_PKG_VERSION"),
        });
        record.to_string()
    }
}

/// The installed system is complete, read back and boots.
#[derive(Debug)]
pub struct OwnSystem {
    /// Its public SSH host keys, one line each.
    pub host_keys: Vec<String>,
    /// What was written and run, one line each.
    pub changes: Vec<String>,
}

/// Why the disk could not be made a machine's own. It does not boot.
#[derive(Debug, thiserror::Error)]
pub enum PersonaliseError {
    /// A file could not be written or read back.
    #[error(transparent)]
    File(#[from] TreeError),
    /// The kernel's file systems or a program of the image.
    #[error(transparent)]
    Program(#[from] ChrootError),
    /// What the site wants beside names and keys.
    #[error(transparent)]
    Step(#[from] StepFailure),
    /// The image can't start from this layout.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// What the kernel starts from.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The boot loaders.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The disk did not take the data.
    #[error("flushing the installed system to its disk")]
    Sync(#[source] std::io::Error),
}

impl PersonaliseError {
    /// Short stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Program(_) => "personalise-program",
            Self::Step(StepFailure::Program(..)) => "step-program",
            Self::Step(_) => "step-file",
            Self::File(_) | Self::Stack(StackError::File(_)) => "personalise-file",
            Self::Stack(_) => "image-lacks",
            Self::Initramfs(_) => "initramfs",
            Self::Boot(BootError::NoLoader(_)) => "no-boot-loader",
            Self::Boot(BootError::NoPartition(_)) => "no-boot-partition",
            Self::Boot(_) => "boot-loader",
            Self::Sync(_) => "disk-sync",
        }
    }
}

/// Makes the system below `personal.root` a machine's own and bootable.
///
/// # Errors
/// [`PersonaliseError`]; the disk does not boot then.
pub async fn make_own(personal: &Personal<'_>) -> Result<OwnSystem, PersonaliseError> {
    let mut tree = Tree::open(personal.root)?;
    let mut outdated = stack::write(&mut tree, personal.plan)?;
    let appendix = containers::write(&mut tree, personal.plan, personal.disk_keys)?;
    outdated |= write_names(&mut tree, personal)?;
    make_host_keys(&mut tree, personal).await?;
    let mut changes = steps::follow(&mut tree, personal.root, &personal.identity.steps).await?;
    for path in tree.accept(&ACCOUNT_FILES) {
        changes.push(format!("a program changed {}", path.display()));
    }
    relabel_at_start(&mut tree)?;
    let chroot = Chroot::open(personal.root)?;
    let built = initramfs::fit(&mut tree, &chroot, outdated).await?;
    changes.extend(built.map(|why| format!("built the initramfs anew: {why}")));
    if let Some(appendix) = appendix.filter(|_| built.is_none()) {
        initramfs::append(&mut tree, &appendix)?;
    }

    let mut esp = personal.esp.as_deref().map(Tree::open).transpose()?;
    let place = BootPlace {
        plan: personal.plan,
        firmware: personal.firmware,
        chroot: &chroot,
        machine_id: &personal.identity.machine_id,
    };
    let prepared = boot::prepare(&place, &mut tree, esp.as_mut()).await?;
    flush(personal)?;
    read_back(&tree, esp.as_ref())?;
    boot::commit(prepared, &chroot, &tree, esp.as_mut()).await?;
    if personal.firmware == FirmwareKind::Uefi {
        match nvram::write_boot_entry(personal.plan, personal.identity.boot_order) {
            Ok(done) => changes.push(done),
            Err(error) => tracing::warn!("no boot entry, the removable path has to do: {error}"),
        }
    }
    flush(personal)?;
    read_back(&tree, esp.as_ref())?;
    changes.extend(tree.written().map(|path| path.display().to_string()));
    changes.extend(esp.iter().flat_map(Tree::written).map(|path| format!("ESP: {}", path.display())));
    tracing::info!("{} files and programs made it this node's own", changes.len());
    Ok(OwnSystem { host_keys: names::public_host_keys(&tree), changes })
}

/// Names, root's keys and the record; true if something changed that an initramfs was built with.
fn write_names(tree: &mut Tree, personal: &Personal<'_>) -> Result<bool, TreeError> {
    let (of_image, of_disk) = (tree.text("/etc/fstab")?, personal.plan.fstab());
    let renamed = references::rewrite(tree, &of_image, &of_disk)?;
    names::write_names(tree, personal.identity, &of_disk)?;
    names::write_authorized_keys(tree, &personal.identity.authorized_keys)?;
    tree.write(format!("{RECORD_FOLDER}/toc"), personal.table, 0o644)?;
    tree.write(format!("{RECORD_FOLDER}/installed.json"), personal.origin.record().as_bytes(), 0o644)?;
    Ok(renamed)
}

/// New host keys by the image's own ssh-keygen, so that no two nodes share one. Those that this stage made when it was
/// here before stay.
async fn make_host_keys(tree: &mut Tree, personal: &Personal<'_>) -> Result<(), PersonaliseError> {
    let mark = format!("{RECORD_FOLDER}/manifest");
    if tree.read(&mark)?.as_deref() == Some(personal.manifest) {
        return Ok(());
    }
    for name in tree.names("/etc/ssh").into_iter().filter(|name| name.starts_with("ssh_host_")) {
        tree.remove(format!("/etc/ssh/{name}"))?;
    }
    if tree.exists("/etc/ssh") {
        let chroot = Chroot::open(personal.root)?;
        if chroot.has("ssh-keygen") {
            chroot.run("ssh-keygen", &["-A"], KEYGEN_LIMIT).await?;
        }
    }
    let keys: Vec<String> =
        tree.names("/etc/ssh").into_iter().map(|name| format!("/etc/ssh/{name}")).collect();
    let made: Vec<&str> = keys.iter().map(String::as_str).filter(|key| key.contains("ssh_host_")).collect();
    tree.accept(&made);
    Ok(tree.write(mark, personal.manifest, 0o644)?)
}

/// What was written here has no SELinux label: this kernel knows no policy. The system gives all its files theirs at
/// its first start and starts again.
fn relabel_at_start(tree: &mut Tree) -> Result<(), TreeError> {
    let config = tree.text("/etc/selinux/config")?;
    let on = |line: &str| matches!(line.trim(), "SELINUX=enforcing" | "SELINUX=permissive");
    if config.lines().any(on) { tree.write("/.autorelabel", b"", 0o644) } else { Ok(()) }
}

/// Everything on the disk, and nothing of it in memory, so that reading it back reads the disk.
fn flush(personal: &Personal<'_>) -> Result<(), PersonaliseError> {
    for path in [Some(personal.root), personal.esp.as_deref()].into_iter().flatten() {
        disk_apply::flush_and_forget(path).map_err(PersonaliseError::Sync)?;
    }
    Ok(())
}

fn read_back(tree: &Tree, esp: Option<&Tree>) -> Result<(), PersonaliseError> {
    let files = tree.read_back()? + esp.map_or(Ok(0), Tree::read_back)?;
    tracing::info!("read back {files} files that are this node's own");
    Ok(())
}

/// What the default layout makes of a disk of 8 GiB.
#[cfg(test)]
fn default_plan() -> Plan {
    use disk_layout::{Disk, Layout, Seeds};
    let disk = Disk { name: "sda".into(), size_bytes: 8 << 30, logical_sector_bytes: 512, ..Disk::default() };
    Plan::make(&Layout::default(), &disk, &Seeds { image_id: [1; 32], fresh: [2; 32] }).unwrap()
}
