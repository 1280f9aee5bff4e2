//! An initramfs that fits any hardware: looked for in the image, and built again inside it where it was made for the
//! one machine that the image comes from.

use std::time::Duration;

use super::tree::{Tree, TreeError};
use crate::chroot::{Chroot, ChrootError};

/// A minute on hardware, two on an emulated processor, each kernel; more where that one is shared.
const BUILD_LIMIT: Duration = Duration::from_secs(900);
const DEBIAN_DROP_INS: &str = "/etc/initramfs-tools/conf.d";
/// Read last of its folder, so that it wins (initramfs.conf(5)).
const DEBIAN_OWN: &str = "/etc/initramfs-tools/conf.d/zz-esir";
/// In the order in which dracut reads them (dracut.conf(5)); of two files with the same name the second place wins.
const DRACUT_DROP_INS: [&str; 2] = ["/usr/lib/dracut/dracut.conf.d", "/etc/dracut.conf.d"];
const DRACUT_OWN: &str = "/etc/dracut.conf.d/zz-esir.conf";
const MKINITCPIO: &str = "/etc/mkinitcpio.conf";

/// What builds the image's initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Builder {
    InitramfsTools,
    Dracut,
    Mkinitcpio,
}

/// An initramfs that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    #[error(transparent)]
    File(#[from] TreeError),
    #[error("building an initramfs that fits this machine")]
    Program(#[from] ChrootError),
}

/// Builds the initramfs of every kernel again if one of them fits only other hardware, is missing, or if `changed`
/// says that it was built with other names of file systems or for another stack of devices below them; says why.
pub(super) async fn fit(
    tree: &mut Tree,
    chroot: &Chroot,
    changed: bool,
) -> Result<Option<&'static str>, InitramfsError> {
    let Some(builder) = find_builder(tree) else { return Ok(None) };
    let kernels = kernels(tree);
    let widened = widen(tree, builder)?;
    let why = if widened {
        "it was made for one machine's hardware"
    } else if changed {
        "it was made for other file systems"
    } else if kernels.iter().any(|kernel| initramfs_of(tree, kernel).is_none()) {
        "a kernel had none"
    } else {
        return Ok(None);
    };
    tracing::info!("building the initramfs anew: {why}");
    for kernel in &kernels {
        match builder {
            Builder::InitramfsTools => {
                let mode = if initramfs_of(tree, kernel).is_some() { "-u" } else { "-c" };
                chroot.run("update-initramfs", &[mode, "-k", kernel], BUILD_LIMIT).await?;
            }
            Builder::Dracut => {
                chroot.run("dracut", &["--force", "--no-hostonly", "--kver", kernel], BUILD_LIMIT).await?;
            }
            Builder::Mkinitcpio => {}
        }
    }
    if builder == Builder::Mkinitcpio {
        chroot.run("mkinitcpio", &["-P"], BUILD_LIMIT).await?;
    }
    Ok(Some(why))
}

/// Puts an archive behind every kernel's initramfs, which the kernel unpacks after it (buffer-format.rst), so that
/// nothing has to be built anew; nobody but root reads it then.
pub(super) fn append(tree: &mut Tree, archive: &[u8]) -> Result<(), TreeError> {
    for kernel in kernels(tree) {
        if let Some(path) = initramfs_of(tree, &kernel) {
            tree.append(path.as_ref(), archive, 0o600)?;
        }
    }
    Ok(())
}

/// Versions of the image's kernels, the newest last.
pub(super) fn kernels(tree: &Tree) -> Vec<String> {
    let names = tree.names("/boot").into_iter();
    let mut kernels: Vec<String> =
        names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).collect();
    kernels.retain(|kernel| !kernel.contains("rescue"));
    kernels.sort_by_cached_key(|kernel| numbers(kernel));
    kernels
}

/// Where the initramfs of a kernel is.
pub(super) fn initramfs_of(tree: &Tree, kernel: &str) -> Option<String> {
    let places = [
        format!("/boot/initrd.img-{kernel}"),
        format!("/boot/initramfs-{kernel}.img"),
        format!("/boot/initrd-{kernel}"),
    ];
    places.into_iter().find(|path| tree.exists(path))
}

/// `6.1.0-10-amd64` comes after `6.1.0-9-amd64`.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Whether what the image has builds an initramfs that assembles whatever the system's own files describe.
pub(super) fn assembles(tree: &Tree) -> bool {
    find_builder(tree) == Some(Builder::InitramfsTools)
}

fn find_builder(tree: &Tree) -> Option<Builder> {
    let has = |name: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin"].iter().any(|bin| tree.exists(format!("{bin}/{name}")))
    };
    // Debian's dracut brings an update-initramfs of its own, which knows no MODULES.
    if has("dracut") {
        Some(Builder::Dracut)
    } else if has("update-initramfs") {
        Some(Builder::InitramfsTools)
    } else if has("mkinitcpio") {
        Some(Builder::Mkinitcpio)
    } else {
        None
    }
}

/// Changes the image's rule if it takes only what the machine needs on which it is built; whether it did.
fn widen(tree: &mut Tree, builder: Builder) -> Result<bool, TreeError> {
    match builder {
        Builder::InitramfsTools => {
            let own = tree.names(DEBIAN_DROP_INS).into_iter().map(|name| format!("{DEBIAN_DROP_INS}/{name}"));
            let files = std::iter::once("/etc/initramfs-tools/initramfs.conf".to_owned()).chain(own);
            let narrow = last_value(tree, files, "MODULES")?.is_some_and(|value| value == "dep");
            if narrow {
                tree.write(DEBIAN_OWN, b"MODULES=most\n", 0o644)?;
            }
            Ok(narrow)
        }
        Builder::Dracut => {
            let [vendor, local] = DRACUT_DROP_INS;
            let mut files = vec![(String::new(), "/etc/dracut.conf".to_owned())];
            let mut named = |folder: &str| {
                for name in tree.names(folder) {
                    files.retain(|(known, _)| *known != name);
                    files.push((name.clone(), format!("{folder}/{name}")));
                }
            };
            named(vendor);
            named(local);
            files.sort();
            let files = files.into_iter().map(|(_, path)| path);
            let narrow = last_value(tree, files, "hostonly")?.is_some_and(|value| value == "yes");
            if narrow {
                tree.write(DRACUT_OWN, b"hostonly=\"no\"\n", 0o644)?;
            }
            Ok(narrow)
        }
        Builder::Mkinitcpio => {
            let text = tree.text(MKINITCPIO)?;
            let wide = |line: &str| match line.starts_with("HOOKS=") {
                true => line.replace(" autodetect", "") + "\n",
                false => format!("{line}\n"),
            };
            let widened: String = text.lines().map(wide).collect();
            if widened != text {
                tree.write(MKINITCPIO, widened.as_bytes(), 0o644)?;
            }
            Ok(widened != text)
        }
    }
}

/// What the last of these files sets a shell variable to.
fn last_value(
    tree: &Tree,
    files: impl Iterator<Item = String>,
    name: &str,
) -> Result<Option<String>, TreeError> {
    let mut last = None;
    for file in files {
        for line in tree.text(file)?.lines() {
            if let Some(value) = line.trim().strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                let value = value.split_whitespace().next().unwrap_or_default();
                last = Some(value.trim_matches(['"', '\'']).to_owned());
            }
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is widened in an image of these files, and what of it a second look still finds narrow.
    fn check(files: &[(&str, &str)], builder: Builder, widens: bool, file: &str, text: &str) {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        for (path, text) in files {
            tree.write(path, text.as_bytes(), 0o755).unwrap();
        }
        assert_eq!(find_builder(&tree), Some(builder));
        assert_eq!(widen(&mut tree, builder).unwrap(), widens);
        assert_eq!(tree.text(file).unwrap(), text);
        assert!(!widen(&mut tree, builder).unwrap(), "what is wide stays so");
    }

    #[test]
    fn an_initramfs_of_one_machine_is_found_by_its_rules() {
        let debian = ("/usr/sbin/update-initramfs", "");
        let most = ("/etc/initramfs-tools/initramfs.conf", "# x\nMODULES=most\n");
        check(&[debian, most], Builder::InitramfsTools, false, DEBIAN_OWN, "");
        // What Debian's installer writes when it is asked for a small one.
        let policy = ("/etc/initramfs-tools/conf.d/driver-policy", "MODULES=dep\n");
        check(&[debian, most, policy], Builder::InitramfsTools, true, DEBIAN_OWN, "MODULES=most\n");
        let dracut = ("/usr/bin/dracut", "");
        let fedora = ("/usr/lib/dracut/dracut.conf.d/01-dist.conf", "hostonly=\"yes\"\n");
        check(&[dracut, fedora], Builder::Dracut, true, DRACUT_OWN, "hostonly=\"no\"\n");
        let generic = ("/usr/lib/dracut/dracut.conf.d/02-generic-image.conf", "hostonly=\"no\"\n");
        check(&[dracut, fedora, generic], Builder::Dracut, false, DRACUT_OWN, "");
        let overridden = ("/etc/dracut.conf.d/01-dist.conf", "# nothing\n");
        check(&[dracut, fedora, overridden], Builder::Dracut, false, DRACUT_OWN, "");
        let arch = ("/usr/bin/mkinitcpio", "");
        let hooks = (MKINITCPIO, "HOOKS=(base udev autodetect block)\n");
        check(&[arch, hooks], Builder::Mkinitcpio, true, MKINITCPIO, "HOOKS=(base udev block)\n");
    }

    #[test]
    fn kernels_are_in_the_order_of_their_numbers() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        for name in [
            "vmlinuz-6.1.0-10-amd64",
            "vmlinuz-6.1.0-9-amd64",
            "vmlinuz-0-rescue-ab",
            "initrd.img-6.1.0-9-amd64",
        ] {
            tree.write(format!("/boot/{name}"), b"", 0o644).unwrap();
        }
        assert_eq!(kernels(&tree), ["6.1.0-9-amd64", "6.1.0-10-amd64"]);
        assert!(
            initramfs_of(&tree, "6.1.0-9-amd64").is_some() && initramfs_of(&tree, "6.1.0-10-amd64").is_none()
        );
    }
}
