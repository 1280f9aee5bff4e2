//! Makes the written disk this node's own and bootable: names, keys, network, boot loaders.
//!
//! Everything is read back before the last step, [`boot::commit`], which writes what firmware looks at. Until
//! then the disk does not boot.

mod boot;
mod names;
mod network;
mod nvram;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use disk_layout::Plan;
use node_api::{FirmwareKind, NodeIdentity, Recovery};

use crate::chroot::{Chroot, ChrootError};
use crate::disk;
use crate::failure::StageError;
use boot::{BootError, BootPlace};
use tree::{Tree, TreeError};

/// Three key pairs; RSA takes longest, up to a minute on an emulated processor.
const KEYGEN_LIMIT: Duration = Duration::from_secs(240);
/// Where an installed system keeps what it was made from, for inventory and delta deployments.
const RECORD_FOLDER: &str = "/var/lib/esir";

/// Everything that this stage needs to know.
#[derive(Debug)]
pub(crate) struct Personal<'a> {
    /// Where the installed system is mounted.
    pub(crate) root: &'a Path,
    /// Where its EFI system partition is mounted: its place inside `root`, or elsewhere.
    pub(crate) esp: Option<PathBuf>,
    /// The plan that the disk was made by.
    pub(crate) plan: &'a Plan,
    /// Firmware that started this node.
    pub(crate) firmware: FirmwareKind,
    /// From the task.
    pub(crate) identity: &'a NodeIdentity,
    /// Hardware address of the NIC that booted.
    pub(crate) boot_mac: [u8; 6],
    /// The image's manifest, as signed.
    pub(crate) manifest: &'a [u8],
    /// The image's table of contents, compressed as in the image.
    pub(crate) table: &'a [u8],
    /// What, when and by whom, as JSON for the installed system's own record.
    pub(crate) record: &'a str,
}

/// The installed system is complete, read back and boots.
#[derive(Debug)]
pub(crate) struct OwnSystem {
    /// Its public SSH host keys, one line each.
    pub(crate) host_keys: Vec<String>,
}

/// Why the disk could not be made this node's own. It does not boot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PersonaliseError {
    /// A file could not be written or read back.
    #[error(transparent)]
    File(#[from] TreeError),
    /// The kernel's file systems or a program of the image.
    #[error(transparent)]
    Program(#[from] ChrootError),
    /// The boot loaders.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The disk did not take the data.
    #[error("flushing the installed system to its disk")]
    Sync(#[source] std::io::Error),
}

impl StageError for PersonaliseError {
    fn code(&self) -> &'static str {
        match self {
            Self::File(_) => "personalise-file",
            Self::Program(_) => "personalise-program",
            Self::Boot(BootError::NoLoader(_)) => "no-boot-loader",
            Self::Boot(BootError::NoPartition(_)) => "no-boot-partition",
            Self::Boot(_) => "boot-loader",
            Self::Sync(_) => "disk-sync",
        }
    }

    fn recovery(&self) -> Recovery {
        // The image or the disk is at fault; neither gets better by itself.
        Recovery::Wait
    }
}

/// Makes the system below `personal.root` this node's own and bootable.
///
/// # Errors
/// [`PersonaliseError`]; the disk does not boot then.
pub(crate) async fn make_own(personal: &Personal<'_>) -> Result<OwnSystem, PersonaliseError> {
    let mut tree = Tree::open(personal.root)?;
    names::write_names(&mut tree, personal.identity, &personal.plan.fstab())?;
    names::write_authorized_keys(&mut tree, &personal.identity.authorized_keys)?;
    let manager = network::write_network(&mut tree, personal.boot_mac)?;
    tracing::info!("named {}, network by {manager:?}", personal.identity.hostname);
    tree.write(format!("{RECORD_FOLDER}/manifest"), personal.manifest, 0o644)?;
    tree.write(format!("{RECORD_FOLDER}/toc"), personal.table, 0o644)?;
    tree.write(format!("{RECORD_FOLDER}/installed.json"), personal.record.as_bytes(), 0o644)?;

    let chroot = Chroot::open(personal.root)?;
    make_host_keys(&tree, &chroot).await?;
    let mut esp = personal.esp.as_deref().map(Tree::open).transpose()?;
    let place = BootPlace { plan: personal.plan, firmware: personal.firmware, chroot: &chroot };
    let prepared = boot::prepare(&place, &tree, esp.as_mut()).await?;

    flush(personal)?;
    read_back(&tree, esp.as_ref())?;
    boot::commit(prepared, &chroot, esp.as_mut()).await?;
    if personal.firmware == FirmwareKind::Uefi {
        match nvram::write_boot_entry(personal.plan) {
            Ok(done) => tracing::info!("{done}"),
            Err(error) => tracing::warn!("no boot entry, the removable path has to do: {error}"),
        }
    }
    flush(personal)?;
    read_back(&tree, esp.as_ref())?;
    Ok(OwnSystem { host_keys: names::public_host_keys(&tree) })
}

/// New host keys by the image's own ssh-keygen, so that no two nodes share one.
async fn make_host_keys(tree: &Tree, chroot: &Chroot) -> Result<(), PersonaliseError> {
    for name in tree.names("/etc/ssh").into_iter().filter(|name| name.starts_with("ssh_host_")) {
        tree.remove(format!("/etc/ssh/{name}"))?;
    }
    if chroot.has("ssh-keygen") && tree.exists("/etc/ssh") {
        chroot.run("ssh-keygen", &["-A"], KEYGEN_LIMIT).await?;
    }
    Ok(())
}

/// Everything on the disk, and nothing of it in memory, so that reading it back reads the disk.
fn flush(personal: &Personal<'_>) -> Result<(), PersonaliseError> {
    for path in [Some(personal.root), personal.esp.as_deref()].into_iter().flatten() {
        disk::flush_and_forget(path).map_err(PersonaliseError::Sync)?;
    }
    Ok(())
}

fn read_back(tree: &Tree, esp: Option<&Tree>) -> Result<(), PersonaliseError> {
    let files = tree.read_back()? + esp.map_or(Ok(0), Tree::read_back)?;
    tracing::info!("read back {files} files that are this node's own");
    Ok(())
}
