//! Makes the installed system bootable: GRUB for PC BIOS, the image's own signed loaders for UEFI.
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

/// grub-mkconfig takes seconds on hardware and up to a minute on an emulated processor.
const MKCONFIG_LIMIT: Duration = Duration::from_secs(300);
/// grub-install writes some hundred small files.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// Removable-path loader for x86-64 (UEFI 2.10 section 3.5.1.1), relative to the ESP.
const REMOVABLE_LOADER: &str = "EFI/BOOT/BOOTX64.EFI";

/// Where distributions keep the loaders that they signed: shim first, then GRUB for shim to start.
const SIGNED_SHIM: [&str; 3] = [
    "/usr/lib/shim/shimx64.efi.signed",
    "/usr/lib/shim/shimx64.efi.signed.latest",
    "/boot/efi/EFI/BOOT/BOOTX64.EFI",
];
const SIGNED_GRUB: [&str; 2] =
    ["/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "/boot/efi/EFI/debian/grubx64.efi"];
/// Used when the image has no signed pair: boots with Secure Boot off only.
const PLAIN_GRUB: &str = "/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi";
const MOK_MANAGER: [&str; 2] = ["/usr/lib/shim/mmx64.efi.signed", "/usr/lib/shim/mmx64.efi"];

/// Why a system could not be made bootable. The disk does not boot, which is what a failed deployment should do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The image lacks what this firmware needs.
    #[error(
        "the image has no boot loader for {0} firmware; add grub-pc-bin (BIOS) or shim-signed and \
         grub-efi-amd64-signed (UEFI) to the image"
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
    removable_loader: Option<Vec<u8>>,
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
}

/// Writes the boot configuration and every loader that no firmware starts by itself.
///
/// `esp` is the mounted EFI system partition.
pub(crate) async fn prepare(
    place: &BootPlace<'_>,
    tree: &Tree,
    esp: Option<&mut Tree>,
) -> Result<PreparedBoot, BootError> {
    link_by_uuid(place.plan)?;
    if place.chroot.has("update-grub") {
        // No package owns it: on Debian the first grub-install makes it, which comes only at the commit point.
        tree.make_folder("/boot/grub")?;
        place.chroot.run("update-grub", &[], MKCONFIG_LIMIT).await?;
    } else if place.chroot.has("grub2-mkconfig") {
        place.chroot.run("grub2-mkconfig", &["-o", "/boot/grub2/grub.cfg"], MKCONFIG_LIMIT).await?;
    }
    let removable_loader = match esp {
        Some(esp) => copy_uefi_loaders(place.plan, tree, esp)?,
        None => None,
    };
    let bios = place.chroot.has("grub-install") && tree.exists("/usr/lib/grub/i386-pc/boot.img");
    // Each disk of an array gets its own, so that either boots.
    let bios_disks = place.plan.bios_disks().filter(|_| bios).map(|disk| Path::new("/dev").join(disk));
    let bios_disks: Vec<PathBuf> = bios_disks.collect();
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
        _ => Ok(PreparedBoot { removable_loader, bios_disks }),
    }
}

/// The commit point: from here on the disk boots.
pub(crate) async fn commit(
    prepared: PreparedBoot,
    chroot: &Chroot,
    esp: Option<&mut Tree>,
) -> Result<(), BootError> {
    if let (Some(loader), Some(esp)) = (prepared.removable_loader, esp) {
        esp.write(Path::new("/").join(REMOVABLE_LOADER), &loader, 0o700)?;
    }
    for disk in prepared.bios_disks {
        let disk = disk.to_string_lossy().into_owned();
        chroot.run("grub-install", &["--target=i386-pc", "--no-floppy", &disk], INSTALL_LIMIT).await?;
    }
    Ok(())
}

/// Copies shim, GRUB and a configuration that finds the root by UUID; gives back the removable-path loader.
///
/// The image's own signed files are copied, never made anew: a fresh grub-install would replace a signed
/// loader by one that Secure Boot refuses.
fn copy_uefi_loaders(plan: &Plan, tree: &Tree, esp: &mut Tree) -> Result<Option<Vec<u8>>, BootError> {
    let folder = if tree.exists("/boot/grub2") { "/boot/grub2" } else { "/boot/grub" };
    let Some((file_system, folder)) = plan.place_of(folder) else { return Ok(None) };
    let id = distribution_id(tree)?;
    let own = format!("/EFI/{id}");
    let config = grub_stub(&file_system.id.to_string(), &folder);
    let shim = first(tree, &SIGNED_SHIM)?;
    let grub = first(tree, &SIGNED_GRUB)?;
    let (Some(shim), Some(grub)) = (shim, grub) else {
        let Some(plain) = tree.read(PLAIN_GRUB)? else { return Ok(None) };
        esp.write(format!("{own}/grub.cfg"), config.as_bytes(), 0o700)?;
        esp.write("/EFI/BOOT/grub.cfg", config.as_bytes(), 0o700)?;
        return Ok(Some(plain));
    };
    let mok_manager = first(tree, &MOK_MANAGER)?;
    // Shim looks for GRUB beside itself; signed GRUB looks for its configuration in the folder of its
    // distribution, whichever path it was started by.
    for folder in [own.as_str(), "/EFI/BOOT"] {
        esp.write(format!("{folder}/grubx64.efi"), &grub, 0o700)?;
        esp.write(format!("{folder}/grub.cfg"), config.as_bytes(), 0o700)?;
        if let Some(mok_manager) = &mok_manager {
            esp.write(format!("{folder}/mmx64.efi"), mok_manager, 0o700)?;
        }
    }
    esp.write(format!("{own}/shimx64.efi"), &shim, 0o700)?;
    Ok(Some(shim))
}

/// GRUB's first configuration: find the file system that has its own, then go on with that.
fn grub_stub(uuid: &str, folder: &str) -> String {
    format!("search.fs_uuid {uuid} root\nset prefix=($root){folder}\nconfigfile $prefix/grub.cfg\n")
}

/// `ID` of os-release(5): the name of the distribution's folder on the ESP.
fn distribution_id(tree: &Tree) -> Result<String, TreeError> {
    let text = tree.read("/etc/os-release")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let id = text.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or("linux");
    let id: String =
        id.trim_matches('"').chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    Ok(id)
}

fn first(tree: &Tree, paths: &[&str]) -> Result<Option<Vec<u8>>, TreeError> {
    for path in paths {
        if let Some(bytes) = tree.read(path)? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use disk_layout::{Disk, Layout, Seeds};

    use super::*;

    fn plan() -> Plan {
        let disk =
            Disk { name: "sda".into(), size_bytes: 8 << 30, logical_sector_bytes: 512, ..Disk::default() };
        Plan::make(&Layout::default(), &disk, &Seeds { image_id: [1; 32], fresh: [2; 32] }).unwrap()
    }

    fn image(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, contents).unwrap();
        }
        root
    }

    #[test]
    fn signed_loaders_are_copied_and_the_removable_one_is_held_back() {
        let root = image(&[
            ("/etc/os-release", "NAME=x\nID=debian\n"),
            ("/usr/lib/shim/shimx64.efi.signed", "shim"),
            ("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "grub"),
            ("/usr/lib/shim/mmx64.efi.signed", "mok"),
        ]);
        let esp = tempfile::tempdir().unwrap();
        let mut esp_tree = Tree::open(esp.path()).unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let loader = copy_uefi_loaders(&plan(), &tree, &mut esp_tree).unwrap();
        assert_eq!(loader.as_deref(), Some(&b"shim"[..]));
        assert!(!esp_tree.exists("/EFI/BOOT/BOOTX64.EFI"));
        for path in
            ["EFI/BOOT/grubx64.efi", "EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi", "EFI/BOOT/mmx64.efi"]
        {
            assert!(esp_tree.exists(path), "{path}");
        }
        let config = String::from_utf8(esp_tree.read("/EFI/debian/grub.cfg").unwrap().unwrap()).unwrap();
        let root = plan().file_system(PartitionRole::Root).unwrap().id.to_string();
        assert!(config.contains(&root) && config.contains("($root)/boot/grub"), "{config}");
    }

    #[test]
    fn an_image_without_loaders_gives_none() {
        let root = image(&[("/etc/os-release", "ID=\"alpine\"\n")]);
        let esp = tempfile::tempdir().unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let mut esp_tree = Tree::open(esp.path()).unwrap();
        assert!(copy_uefi_loaders(&plan(), &tree, &mut esp_tree).unwrap().is_none());
    }
}
