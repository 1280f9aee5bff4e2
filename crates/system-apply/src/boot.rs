//! Makes the installed system bootable: GRUB for PC BIOS, the image's own signed loaders or systemd-boot for UEFI.
//!
//! In two halves. [`prepare`] puts everything in place that no firmware looks at by itself; [`commit`] then
//! writes what firmware does look at: the boot sector and the removable-path loader. A disk on which the power
//! went between the two does not boot.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk_layout::{PartitionRole, Plan};

use super::tree::{Tree, TreeError};
use crate::chroot::{Chroot, ChrootError};

mod systemd_boot;
mod uefi;

/// grub-mkconfig takes seconds on hardware and up to a minute on an emulated processor.
const MKCONFIG_LIMIT: Duration = Duration::from_secs(300);
/// grub-install writes some hundred small files.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// Removable-path loader for x86-64 (UEFI 2.10 section 3.5.1.1), relative to the ESP.
const REMOVABLE_LOADER: &str = "/EFI/BOOT/BOOTX64.EFI";
/// Where images have what belongs on the ESP.
const ESP_IN_IMAGE: [&str; 3] = ["/boot/efi", "/efi", "/boot"];
/// What makes GRUB's configuration, and where it belongs; Debian's own command knows by itself.
const MAKE_CONFIG: [(&str, &str); 3] = [
    ("update-grub", "/boot/grub/grub.cfg"),
    ("grub2-mkconfig", "/boot/grub2/grub.cfg"),
    ("grub-mkconfig", "/boot/grub/grub.cfg"),
];

/// Why a system could not be made bootable. The disk does not boot, which is what a failed deployment should do.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The image lacks what this firmware needs.
    #[error(
        "the image has no boot loader for {0} firmware; add grub-pc-bin (BIOS) or shim-signed and \
         grub-efi-amd64-signed or systemd-boot (UEFI) to the image"
    )]
    NoLoader(node_api::FirmwareKind),
    /// The layout lacks the partition that this firmware boots from.
    #[error("the layout has no {0} partition, which this firmware boots from")]
    NoPartition(&'static str),
    /// A program of the image failed.
    #[error(transparent)]
    Program(#[from] ChrootError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] TreeError),
    /// A link for GRUB's scripts could not be made.
    #[error("naming the root file system for the boot loader's scripts")]
    Link(#[source] io::Error),
}

/// What [`commit`] still has to do.
#[derive(Debug)]
pub(crate) struct PreparedBoot {
    /// Where in the image the removable-path loader is.
    removable_loader: Option<PathBuf>,
    /// `grub-install` by the image's name for it.
    bios_program: &'static str,
    bios_disks: Vec<PathBuf>,
}

/// Where the boot loaders go.
pub(crate) struct BootPlace<'a> {
    /// The plan that the disk was made by.
    pub(crate) plan: &'a Plan,
    /// Firmware that started this node; it must be able to boot the result.
    pub(crate) firmware: node_api::FirmwareKind,
    /// The mounted installed system.
    pub(crate) chroot: &'a Chroot,
    /// 32 hex digits.
    pub(crate) machine_id: &'a str,
}

/// Writes the boot configuration and every loader that no firmware starts by itself.
///
/// `esp` is the mounted EFI system partition.
pub(crate) async fn prepare(
    place: &BootPlace<'_>,
    tree: &mut Tree,
    esp: Option<&mut Tree>,
) -> Result<PreparedBoot, BootError> {
    link_by_uuid(place.plan)?;
    make_config(place.chroot, tree).await?;
    let removable_loader = match esp {
        Some(esp) => prepare_uefi(place, tree, esp)?,
        None => None,
    };
    let program = ["grub-install", "grub2-install"].into_iter().find(|program| place.chroot.has(program));
    let bios_program = program.filter(|_| tree.exists("/usr/lib/grub/i386-pc/boot.img"));
    // Each disk of an array gets its own, so that either boots.
    let bios_disks = place.plan.bios_disks().filter(|_| bios_program.is_some());
    let bios_disks: Vec<PathBuf> = bios_disks.map(|disk| Path::new("/dev").join(disk)).collect();
    match place.firmware {
        node_api::FirmwareKind::Bios if place.plan.find(PartitionRole::BiosBoot).is_none() => {
            Err(BootError::NoPartition("bios-boot"))
        }
        node_api::FirmwareKind::Uefi if place.plan.file_system(PartitionRole::Esp).is_none() => {
            Err(BootError::NoPartition("esp"))
        }
        node_api::FirmwareKind::Bios if bios_disks.is_empty() => Err(BootError::NoLoader(place.firmware)),
        node_api::FirmwareKind::Uefi if removable_loader.is_none() => {
            Err(BootError::NoLoader(place.firmware))
        }
        _ => {
            Ok(PreparedBoot { removable_loader, bios_program: bios_program.unwrap_or_default(), bios_disks })
        }
    }
}

/// The commit point: from here on the disk boots.
pub(crate) async fn commit(
    prepared: PreparedBoot,
    chroot: &Chroot,
    tree: &Tree,
    esp: Option<&mut Tree>,
) -> Result<(), BootError> {
    if let (Some(loader), Some(esp)) = (prepared.removable_loader, esp) {
        esp.copy(tree, &loader, Path::new(REMOVABLE_LOADER))?;
    }
    for disk in prepared.bios_disks {
        let disk = disk.to_string_lossy().into_owned();
        let arguments = ["--target=i386-pc", "--no-floppy", &disk];
        chroot.run(prepared.bios_program, &arguments, INSTALL_LIMIT).await?;
    }
    Ok(())
}

async fn make_config(chroot: &Chroot, tree: &mut Tree) -> Result<(), BootError> {
    let Some((program, config)) = MAKE_CONFIG.into_iter().find(|(program, _)| chroot.has(program)) else {
        return Ok(());
    };
    // No package owns the folder: on Debian the first grub-install makes it, which comes only at the commit point.
    tree.make_folder(Path::new(config).parent().unwrap_or(Path::new("/")))?;
    let arguments: &[&str] = if program == "update-grub" { &[] } else { &["-o", config] };
    chroot.run(program, arguments, MKCONFIG_LIMIT).await?;
    tree.accept(&[config]);
    Ok(())
}

/// Everything on the ESP but the removable-path loader, and where in the image that one is.
fn prepare_uefi(
    place: &BootPlace<'_>,
    tree: &mut Tree,
    esp: &mut Tree,
) -> Result<Option<PathBuf>, BootError> {
    if !MAKE_CONFIG.iter().any(|(program, _)| place.chroot.has(program))
        && let Some(loader) = systemd_boot::copy(&place.plan.fstab(), place.machine_id, tree, esp)?
    {
        return Ok(Some(loader));
    }
    Ok(uefi::copy(place.plan, tree, esp)?)
}

/// Something of os-release(5).
fn os_release(tree: &Tree, key: &str) -> Result<String, TreeError> {
    let text = tree.text("/etc/os-release")?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Ok(value.unwrap_or("linux").trim_matches('"').to_owned())
}

/// grub-mkconfig writes `root=UUID=` only if `/dev/disk/by-uuid` has the root; there is no udev to make it.
fn link_by_uuid(plan: &Plan) -> Result<(), BootError> {
    let folder = Path::new("/dev/disk/by-uuid");
    std::fs::create_dir_all(folder).map_err(BootError::Link)?;
    for one in plan.file_systems() {
        let link = folder.join(one.id.to_string());
        let device = Path::new("../..").join(&one.device);
        match symlink(device, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(BootError::Link(error)),
            _ => {}
        }
    }
    Ok(())
}
