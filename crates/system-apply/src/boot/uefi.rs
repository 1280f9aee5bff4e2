//! Shim and GRUB as the image's distribution signed them, copied to the ESP with a configuration that finds the root.
//!
//! Never made anew: a fresh grub-install would replace a signed loader by one that Secure Boot refuses.

use std::path::{Path, PathBuf};

use disk_layout::Plan;

use super::{ESP_IN_IMAGE, REMOVABLE_LOADER, os_release};
use crate::tree::{Tree, TreeError};

/// Where distributions keep the loaders that they signed: shim first, then GRUB for shim to start.
const SIGNED_SHIM: [&str; 4] = [
    "/usr/lib/shim/shimx64.efi.signed",
    "/usr/lib/shim/shimx64.efi.signed.latest",
    "/usr/share/efi/x86_64/shim.efi",
    "/usr/lib64/efi/shim.efi",
];
const SIGNED_GRUB: [&str; 3] = [
    "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    "/usr/share/efi/x86_64/grub.efi",
    "/usr/lib64/efi/grub.efi",
];
const MOK_MANAGER: [&str; 4] = [
    "/usr/lib/shim/mmx64.efi.signed",
    "/usr/lib/shim/mmx64.efi",
    "/usr/share/efi/x86_64/MokManager.efi",
    "/usr/lib64/efi/MokManager.efi",
];
/// Used when the image has no signed pair: boots with Secure Boot off only.
const PLAIN_GRUB: [&str; 2] =
    ["/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi", "/usr/share/grub2/x86_64-efi/grub.efi"];
/// By which name shim looks for GRUB beside itself: the common one, and SUSE's.
const GRUB_NAMES: [&str; 2] = ["grubx64.efi", "grub.efi"];
/// Likewise for the manager of keys.
const MOK_MANAGER_NAMES: [&str; 2] = ["mmx64.efi", "MokManager.efi"];

/// Copies what the image has for its ESP and what it has in packages, but not the removable-path loader; says where in
/// the image that one is.
pub(super) fn copy(plan: &Plan, tree: &Tree, esp: &mut Tree) -> Result<Option<PathBuf>, TreeError> {
    let folder = if tree.exists("/boot/grub2") { "/boot/grub2" } else { "/boot/grub" };
    let Some((file_system, folder)) = plan.place_of(folder) else { return Ok(None) };
    let own = distribution_folder(tree)?;
    let of_image = ESP_IN_IMAGE.into_iter().find(|place| tree.exists(format!("{place}/EFI")));
    let removable = |path: &Path| path.to_string_lossy().eq_ignore_ascii_case(REMOVABLE_LOADER);
    if let Some(place) = of_image {
        esp.copy_all(tree, &Path::new(place).join("EFI"), Path::new("/EFI"), &removable)?;
    }
    let in_image = |name: &str| {
        of_image.map(|place| format!("{place}/EFI/{own}/{name}")).filter(|path| tree.exists(path))
    };
    let find = |packaged: &[&str], names: &[&str]| {
        tree.first(packaged).map(str::to_owned).or_else(|| names.iter().find_map(|name| in_image(name)))
    };
    let shim = find(&SIGNED_SHIM, &["shimx64.efi", "shim.efi"]);
    let grub = find(&SIGNED_GRUB, &GRUB_NAMES);
    let loader = match shim.zip(grub) {
        Some((shim, grub)) => {
            let mok_manager = find(&MOK_MANAGER, &MOK_MANAGER_NAMES);
            for folder in [&own, "BOOT"] {
                let mut put = |from: &str, name: &str| {
                    esp.copy(tree, Path::new(from), &Path::new("/EFI").join(folder).join(name))
                };
                GRUB_NAMES.iter().try_for_each(|name| put(&grub, name))?;
                if let Some(mok_manager) = &mok_manager {
                    MOK_MANAGER_NAMES.iter().try_for_each(|name| put(mok_manager, name))?;
                }
            }
            esp.copy(tree, Path::new(&shim), &Path::new("/EFI").join(&own).join("shimx64.efi"))?;
            Some(shim)
        }
        None => tree.first(&PLAIN_GRUB).map(str::to_owned).or_else(|| {
            let place = of_image.map(|place| format!("{place}{REMOVABLE_LOADER}"));
            place.filter(|path| tree.exists(path))
        }),
    };
    if loader.is_some() {
        // Signed GRUB looks for its configuration in the folder of its distribution, whichever path it was started by.
        let config = grub_stub(&file_system.id.to_string(), &folder);
        let mut folders = esp.names("/EFI");
        folders.extend([own, "BOOT".to_owned()]);
        folders.sort();
        folders.dedup();
        for folder in folders {
            esp.write(format!("/EFI/{folder}/grub.cfg"), config.as_bytes(), 0o700)?;
        }
    }
    Ok(loader.map(PathBuf::from))
}

/// GRUB's first configuration: find the file system that has its own, then go on with that.
fn grub_stub(uuid: &str, folder: &str) -> String {
    format!("search.fs_uuid {uuid} root\nset prefix=($root){folder}\nconfigfile $prefix/grub.cfg\n")
}

/// The name of the distribution's folder on the ESP: its `ID`, of which SUSE's lines share the first word.
fn distribution_folder(tree: &Tree) -> Result<String, TreeError> {
    let id = os_release(tree, "ID")?;
    let id = if id.starts_with("opensuse") { "opensuse" } else { &id };
    Ok(id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect())
}

#[cfg(test)]
mod tests {
    use disk_layout::PartitionRole;

    use super::*;
    use crate::default_plan as plan;

    fn root_uuid() -> String {
        plan().file_system(PartitionRole::Root).unwrap().id.to_string()
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
        let loader = copy(&plan(), &tree, &mut esp_tree).unwrap();
        assert_eq!(loader.as_deref(), Some(Path::new("/usr/lib/shim/shimx64.efi.signed")));
        assert!(!esp_tree.exists("/EFI/BOOT/BOOTX64.EFI"));
        for path in
            ["EFI/BOOT/grubx64.efi", "EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi", "EFI/BOOT/mmx64.efi"]
        {
            assert!(esp_tree.exists(path), "{path}");
        }
        let config = String::from_utf8(esp_tree.read("/EFI/debian/grub.cfg").unwrap().unwrap()).unwrap();
        assert!(config.contains(&root_uuid()), "{config}");
    }

    #[test]
    fn an_image_without_loaders_gives_none() {
        let root = image(&[("/etc/os-release", "ID=\"alpine\"\n")]);
        let esp = tempfile::tempdir().unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let mut esp_tree = Tree::open(esp.path()).unwrap();
        assert!(copy(&plan(), &tree, &mut esp_tree).unwrap().is_none());
    }

    #[test]
    fn a_fedora_like_image_gives_its_esp_and_each_of_its_loaders_finds_the_root() {
        let root = image(&[
            ("/etc/os-release", "ID=fedora\n"),
            ("/boot/efi/EFI/BOOT/BOOTX64.EFI", "shim"),
            ("/boot/efi/EFI/BOOT/fbx64.efi", "fallback"),
            ("/boot/efi/EFI/fedora/shimx64.efi", "shim"),
            ("/boot/efi/EFI/fedora/grubx64.efi", "grub"),
            ("/boot/efi/EFI/fedora/grub.cfg", "search of the golden node"),
            ("/boot/grub2/grubenv", ""),
        ]);
        let esp = tempfile::tempdir().unwrap();
        let mut esp_tree = Tree::open(esp.path()).unwrap();
        let loader = copy(&plan(), &Tree::open(root.path()).unwrap(), &mut esp_tree).unwrap();
        assert_eq!(loader.as_deref(), Some(Path::new("/boot/efi/EFI/fedora/shimx64.efi")));
        assert_eq!(esp_tree.text("/EFI/BOOT/fbx64.efi").unwrap(), "fallback");
        assert_eq!(esp_tree.text("/EFI/BOOT/grubx64.efi").unwrap(), "grub");
        assert!(!esp_tree.exists("/EFI/BOOT/BOOTX64.EFI"), "held back until the commit point");
        for folder in ["fedora", "BOOT"] {
            let config = esp_tree.text(format!("/EFI/{folder}/grub.cfg")).unwrap();
            assert!(config.contains(&root_uuid()) && config.contains("/boot/grub2"), "{config}");
        }
    }

    #[test]
    fn a_suse_like_image_gets_the_names_that_its_shim_looks_for() {
        let root = image(&[
            ("/etc/os-release", "ID=\"opensuse-leap\"\n"),
            ("/usr/share/efi/x86_64/shim.efi", "shim"),
            ("/usr/share/efi/x86_64/grub.efi", "grub"),
            ("/usr/share/efi/x86_64/MokManager.efi", "mok"),
        ]);
        let esp = tempfile::tempdir().unwrap();
        let mut esp_tree = Tree::open(esp.path()).unwrap();
        copy(&plan(), &Tree::open(root.path()).unwrap(), &mut esp_tree).unwrap().unwrap();
        for path in ["opensuse/grub.efi", "BOOT/grub.efi", "BOOT/MokManager.efi", "opensuse/grub.cfg"] {
            assert!(esp_tree.exists(format!("/EFI/{path}")), "{path}");
        }
    }
}
