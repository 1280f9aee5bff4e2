//! File systems have other names on this disk than on the one that the image was made from: wherever the image names
//! them for its start, it gets their new names.

use super::tree::{Tree, TreeError};

/// Files in which a name is replaced wherever it stands.
const NAMING: [&str; 6] = [
    "/etc/default/grub",
    "/etc/crypttab",
    RESUME,
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub2/grubenv",
];
/// What initramfs-tools builds into its images.
const RESUME: &str = "/etc/initramfs-tools/conf.d/resume";
const GRUB_DROP_INS: &str = "/etc/default/grub.d";
/// Of kernel-install(8): the command line of kernels to come.
pub(super) const COMMAND_LINE: &str = "/etc/kernel/cmdline";
/// Boot Loader Specification, type 1.
const ENTRIES: &str = "/boot/loader/entries";
/// A grubenv is never of another size (GRUB manual, section 16.1).
const GRUBENV_BYTES: usize = 1024;

/// Rewrites everything that names file systems. `old` and `new` are the fstab of the image and of this disk.
///
/// True if something changed that an initramfs was built with.
pub(super) fn rewrite(tree: &mut Tree, old: &str, new: &str) -> Result<bool, TreeError> {
    let renames = renames(old, new);
    let drop_ins = tree.names(GRUB_DROP_INS).into_iter().map(|name| format!("{GRUB_DROP_INS}/{name}"));
    let mut built_in = false;
    for path in NAMING.map(str::to_owned).into_iter().chain(drop_ins) {
        let renamed = change(tree, &path, |text| {
            let text = renames.iter().fold(text.to_owned(), |text, (old, new)| replaced(&text, old, new));
            if path.ends_with("/grubenv") { padded(text) } else { text }
        })?;
        built_in |= renamed && (path == RESUME || path == "/etc/crypttab");
    }
    let Some(root) = root_words(new) else { return Ok(built_in) };
    change(tree, COMMAND_LINE, |text| with_root(text, &renames, &root) + "\n")?;
    for name in tree.names(ENTRIES) {
        change(tree, &format!("{ENTRIES}/{name}"), |text| {
            let line = |line: &str| match line.strip_prefix("options") {
                Some(words) => format!("options {}\n", with_root(words, &renames, &root)),
                None => format!("{line}\n"),
            };
            text.lines().map(line).collect()
        })?;
    }
    Ok(built_in)
}

/// Words of a kernel command line by which the root of this fstab is found.
pub(super) fn root_words(fstab: &str) -> Option<String> {
    let (name, .., options) = mounts(fstab).find(|(_, place, ..)| *place == "/")?;
    let subvolume = options.split(',').find(|option| option.starts_with("subvol="));
    let flags = subvolume.map(|option| format!(" rootflags={option}")).unwrap_or_default();
    Some(format!("root={name}{flags}"))
}

fn change(tree: &mut Tree, path: &str, change: impl FnOnce(&str) -> String) -> Result<bool, TreeError> {
    let text = tree.text(path)?;
    if text.is_empty() {
        return Ok(false);
    }
    let changed = change(&text);
    if changed != text {
        tree.write(path, changed.as_bytes(), 0o644)?;
    }
    Ok(changed != text)
}

/// What stood for a mount point's file system, and what does now. Swap that is no more is nothing to resume from.
fn renames(old: &str, new: &str) -> Vec<(String, String)> {
    let mut renames = Vec::new();
    for (name, place, kind, _) in mounts(old) {
        let same = |(_, now_place, now_kind, _): &(&str, &str, &str, &str)| {
            if kind == "swap" { *now_kind == "swap" } else { *now_place == place }
        };
        match mounts(new).find(same) {
            Some((now, ..)) if now != name => {
                // GRUB's `search` and many a script name the UUID alone.
                let bare = name.strip_prefix("UUID=").zip(now.strip_prefix("UUID="));
                let (name, now) = bare.unwrap_or((name, now));
                renames.push((name.to_owned(), now.to_owned()));
            }
            None if kind == "swap" => {
                renames.push((format!("resume={name}"), "noresume".to_owned()));
                renames.push((format!("RESUME={name}"), "RESUME=none".to_owned()));
            }
            _ => {}
        }
    }
    renames
}

/// Name, mount point, type and options of each line.
fn mounts(fstab: &str) -> impl Iterator<Item = (&str, &str, &str, &str)> {
    fstab.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().filter(|word| !word.starts_with('#'))?;
        Some((name, words.next()?, words.next()?, words.next().unwrap_or_default()))
    })
}

/// `text` with each whole occurrence of a name replaced: `/dev/sda1` is no part of `/dev/sda10`.
fn replaced(text: &str, old: &str, new: &str) -> String {
    let mut parts = text.split(old);
    let mut made = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let whole = !part.starts_with(goes_on) && !made.ends_with(goes_on);
        made.push_str(if whole { new } else { old });
        made.push_str(part);
    }
    made
}

/// A kernel command line with the new names, whatever it called its root.
fn with_root(words: &str, renames: &[(String, String)], root: &str) -> String {
    let words = renames.iter().fold(words.to_owned(), |text, (old, new)| replaced(&text, old, new));
    let other = |word: &&str| !word.starts_with("root=") && !word.starts_with("rootflags=");
    let others = words.split_whitespace().filter(other);
    std::iter::once(root).chain(others).collect::<Vec<_>>().join(" ")
}

fn padded(text: String) -> String {
    let text = text.trim_end_matches('#');
    format!("{text}{}", "#".repeat(GRUBENV_BYTES.saturating_sub(text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "UUID=aaaa-1 / xfs defaults 0 1\nUUID=bbbb-2 none swap sw 0 0\n";

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        for (path, text) in files {
            tree.write(path, text.as_bytes(), 0o644).unwrap();
        }
        (root, tree)
    }

    #[test]
    fn fedora_like_entries_and_environment_name_the_new_root() {
        let entry = "title Fedora\noptions root=UUID=0f-1 ro rootflags=subvol=root rhgb resume=UUID=0f-2 $kernelopts\nlinux /vmlinuz\n";
        let environment = padded("# GRUB Environment Block\nkernelopts=root=UUID=0f-1 ro\n".to_owned());
        let (_root, mut tree) = tree(&[
            ("/boot/loader/entries/m-6.8.conf", entry),
            ("/boot/grub2/grubenv", &environment),
            ("/etc/kernel/cmdline", "root=UUID=0f-1 ro rhgb\n"),
        ]);
        let old = "UUID=0f-1 / btrfs subvol=root 0 0\nUUID=0f-2 none swap sw 0 0\n";
        for _ in 0..2 {
            assert!(!rewrite(&mut tree, old, NEW).unwrap());
            assert_eq!(
                tree.text("/boot/loader/entries/m-6.8.conf").unwrap(),
                "title Fedora\noptions root=UUID=aaaa-1 ro rhgb resume=UUID=bbbb-2 $kernelopts\nlinux /vmlinuz\n"
            );
            let environment = tree.text("/boot/grub2/grubenv").unwrap();
            assert_eq!(environment.len(), 1024);
            assert!(environment.contains("\nkernelopts=root=UUID=aaaa-1 ro\n#"), "{environment}");
            assert_eq!(tree.text("/etc/kernel/cmdline").unwrap(), "root=UUID=aaaa-1 ro rhgb\n");
        }
    }

    #[test]
    fn ubuntu_like_labels_become_uuids_and_missing_swap_is_not_waited_for() {
        let (_root, mut tree) = tree(&[
            ("/boot/grub/grub.cfg", "linux /vmlinuz root=LABEL=cloudimg-rootfs ro resume=UUID=55\n"),
            ("/etc/initramfs-tools/conf.d/resume", "RESUME=UUID=55\n"),
        ]);
        let old = "LABEL=cloudimg-rootfs / ext4 defaults 0 1\nUUID=55 none swap sw 0 0\n";
        assert!(rewrite(&mut tree, old, "UUID=aaaa-1 / ext4 defaults 0 1\n").unwrap());
        assert_eq!(
            tree.text("/boot/grub/grub.cfg").unwrap(),
            "linux /vmlinuz root=UUID=aaaa-1 ro noresume\n"
        );
        assert_eq!(tree.text("/etc/initramfs-tools/conf.d/resume").unwrap(), "RESUME=none\n");
    }

    #[test]
    fn a_device_is_replaced_only_as_a_whole_and_an_image_without_fstab_gets_its_root_all_the_same() {
        let (_root, mut tree) = tree(&[
            ("/etc/default/grub", "A=/dev/sda1 /dev/sda10 x/dev/sda1\n"),
            ("/etc/kernel/cmdline", "quiet"),
        ]);
        rewrite(&mut tree, "/dev/sda1 / ext4 defaults 0 1\n", NEW).unwrap();
        assert_eq!(tree.text("/etc/default/grub").unwrap(), "A=UUID=aaaa-1 /dev/sda10 x/dev/sda1\n");
        assert_eq!(tree.text("/etc/kernel/cmdline").unwrap(), "root=UUID=aaaa-1 quiet\n");
        let subvolume = "UUID=a / btrfs noatime,subvol=@ 0 0\n";
        assert_eq!(root_words(subvolume).as_deref(), Some("root=UUID=a rootflags=subvol=@"));
    }
}
