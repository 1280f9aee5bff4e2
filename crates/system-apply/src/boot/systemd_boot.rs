//! systemd-boot: kernels and entries on the ESP, where kernel-install(8) of the installed system goes on keeping them.

use std::path::{Path, PathBuf};

use super::os_release;
use crate::initramfs::{initramfs_of, kernels};
use crate::references::{COMMAND_LINE, root_words};
use crate::tree::{Tree, TreeError};

/// Signed by Debian for its shim, then as systemd builds it.
const SIGNED: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi.signed";
const PLAIN: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const SHIM: &str = "/usr/lib/shim/shimx64.efi.signed";
/// An ESP of 512 MiB has room for a few kernels with their initramfs of up to 100 MiB.
const KERNELS_MAX: usize = 2;
/// Seconds that the menu is shown.
const LOADER_CONFIG: &str = "timeout 1\n";

/// Copies the newest kernels with their entries, and the loader to its own folder; says where in the image the
/// removable-path loader is, `None` if the image has no systemd-boot or no kernel for it.
pub(super) fn copy(
    fstab: &str,
    machine_id: &str,
    tree: &mut Tree,
    esp: &mut Tree,
) -> Result<Option<PathBuf>, TreeError> {
    let Some(loader) = tree.first(&[SIGNED, PLAIN]) else { return Ok(None) };
    let kernels = kernels(tree);
    let newest: Vec<&String> = kernels.iter().rev().take(KERNELS_MAX).collect();
    let Some(root) = root_words(fstab).filter(|_| !newest.is_empty()) else { return Ok(None) };
    let words = match tree.text(COMMAND_LINE)?.trim() {
        "" => format!("{root} ro"),
        words => words.to_owned(),
    };
    // The next kernel of the installed system gets the same words.
    tree.write(COMMAND_LINE, format!("{words}\n").as_bytes(), 0o644)?;
    let (title, id) = (os_release(tree, "PRETTY_NAME")?, os_release(tree, "ID")?);
    for kernel in newest {
        let folder = format!("/{machine_id}/{kernel}");
        esp.copy(tree, Path::new(&format!("/boot/vmlinuz-{kernel}")), Path::new(&format!("{folder}/linux")))?;
        let mut entry = format!(
            "title {title}\nversion {kernel}\nmachine-id {machine_id}\nsort-key {id}\noptions {words}\nlinux {folder}/linux\n"
        );
        if let Some(initramfs) = initramfs_of(tree, kernel) {
            let place = format!("{folder}/initrd.img-{kernel}");
            esp.copy(tree, Path::new(&initramfs), Path::new(&place))?;
            entry.push_str(&format!("initrd {place}\n"));
        }
        esp.write(format!("/loader/entries/{machine_id}-{kernel}.conf"), entry.as_bytes(), 0o700)?;
    }
    esp.write("/loader/loader.conf", LOADER_CONFIG.as_bytes(), 0o700)?;
    esp.copy(tree, Path::new(loader), Path::new("/EFI/systemd/systemd-bootx64.efi"))?;
    if loader == SIGNED && tree.exists(SHIM) {
        // Shim starts what lies beside it under GRUB's name.
        esp.copy(tree, Path::new(loader), Path::new("/EFI/BOOT/grubx64.efi"))?;
        return Ok(Some(SHIM.into()));
    }
    Ok(Some(loader.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        for (path, text) in files {
            tree.write(path, text.as_bytes(), 0o644).unwrap();
        }
        (root, tree)
    }

    const FSTAB: &str = "UUID=aa / ext4 defaults 0 1\n";
    const KERNELS: [(&str, &str); 5] = [
        ("/etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian 12\"\n"),
        ("/boot/vmlinuz-6.1.0-9", "old"),
        ("/boot/vmlinuz-6.1.0-10", "kernel"),
        ("/boot/initrd.img-6.1.0-10", "initramfs"),
        (PLAIN, "systemd-boot"),
    ];

    #[test]
    fn kernels_and_entries_are_where_kernel_install_keeps_them() {
        let (_root, mut tree) = image(&KERNELS);
        tree.write(COMMAND_LINE, b"root=UUID=aa ro console=ttyS0\n", 0o644).unwrap();
        let (_esp, mut esp) = image(&[]);
        for _ in 0..2 {
            let loader = copy(FSTAB, "m", &mut tree, &mut esp).unwrap();
            assert_eq!(loader.as_deref(), Some(Path::new(PLAIN)));
        }
        assert_eq!(esp.text("/m/6.1.0-10/linux").unwrap(), "kernel");
        assert_eq!(esp.text("/m/6.1.0-10/initrd.img-6.1.0-10").unwrap(), "initramfs");
        assert_eq!(esp.names("/loader/entries"), ["m-6.1.0-10.conf", "m-6.1.0-9.conf"]);
        let entry = esp.text("/loader/entries/m-6.1.0-10.conf").unwrap();
        assert!(
            entry.starts_with("title Debian 12\n")
                && entry.contains("\noptions root=UUID=aa ro console=ttyS0\n"),
            "{entry}"
        );
        assert!(
            entry.ends_with("linux /m/6.1.0-10/linux\ninitrd /m/6.1.0-10/initrd.img-6.1.0-10\n"),
            "{entry}"
        );
        assert!(!esp.exists("/EFI/BOOT/BOOTX64.EFI"));
    }

    #[test]
    fn signed_systemd_boot_is_started_by_shim() {
        let (_root, mut tree) = image(&KERNELS);
        tree.write(SIGNED, b"signed", 0o644).unwrap();
        tree.write(SHIM, b"shim", 0o644).unwrap();
        let (_esp, mut esp) = image(&[]);
        assert_eq!(copy(FSTAB, "m", &mut tree, &mut esp).unwrap().as_deref(), Some(Path::new(SHIM)));
        assert_eq!(esp.text("/EFI/BOOT/grubx64.efi").unwrap(), "signed");
        assert_eq!(tree.text(COMMAND_LINE).unwrap(), "root=UUID=aa ro\n");
    }

    #[test]
    fn an_image_without_it_or_without_a_kernel_has_none() {
        let (_root, mut tree) = image(&KERNELS[..4]);
        let (_esp, mut esp) = image(&[]);
        assert!(copy(FSTAB, "m", &mut tree, &mut esp).unwrap().is_none());
        let (_root, mut tree) = image(&[KERNELS[4]]);
        assert!(copy(FSTAB, "m", &mut tree, &mut esp).unwrap().is_none());
    }
}
