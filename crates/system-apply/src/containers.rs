//! What an installed system and its initramfs have to know and to have to open its LUKS containers.

use std::io;
use std::path::Path;

use boot_bundle::NewcWriter;
use disk_layout::{CrypttabEntry, Plan, key_path};
use node_api::DiskKey;

use super::tree::{ROOT, Tree, TreeError};

const CRYPTTAB: &str = "/etc/crypttab";
/// Of Debian's cryptsetup-initramfs; a shell script.
const CONF_HOOK: &str = "/etc/cryptsetup-initramfs/conf-hook";
/// Puts the key files into the initramfs (README.initramfs of cryptsetup-initramfs, section 11).
const TAKES_KEYS: &str = "KEYFILE_PATTERN=\"/etc/cryptsetup-keys.d/*.key\"\n";
/// Makes an initramfs that holds keys root's alone (initramfs.conf(5)).
const PRIVATE: (&str, &[u8]) = ("/etc/initramfs-tools/conf.d/zz-esir-keys", b"UMASK=0077\n");
/// Where the hook of cryptsetup-initramfs puts them.
const EARLY_KEYS: &str = "cryptroot/keyfiles";

/// Writes `/etc/crypttab` in place of that of the machine which the image comes from, and the keys that stay here.
///
/// The archive that an initramfs needs behind it to open the containers below the root; `None` if there are none.
/// It holds what cryptsetup-initramfs would put into one that is built.
pub(super) fn write(tree: &mut Tree, plan: &Plan, keys: &[DiskKey]) -> Result<Option<Vec<u8>>, TreeError> {
    let entries: Vec<CrypttabEntry<'_>> = plan.crypttab().collect();
    if entries.is_empty() {
        return Ok(None);
    }
    let crypttab: String = entries.iter().map(|entry| entry.line(&key_path(entry.name))).collect();
    tree.write(CRYPTTAB, crypttab.as_bytes(), 0o644)?;
    let (mut early_lines, mut early_keys) = (String::new(), Vec::new());
    for entry in &entries {
        let early_path = format!("{EARLY_KEYS}/{}.key", entry.name);
        if entry.is_early {
            early_lines += &entry.line(&format!("/{early_path}"));
        }
        let key = keys.iter().find(|key| entry.has_key_file && key.name == entry.name);
        let Some(secret) = key.map(|key| key.secret.as_bytes()) else { continue };
        let path = key_path(entry.name);
        if let Some(folder) = Path::new(&path).parent() {
            tree.make_folder_of(folder, 0o700, ROOT)?;
        }
        tree.write(path, secret, 0o600)?;
        if entry.is_early {
            early_keys.push((early_path, secret));
        }
    }
    if !early_keys.is_empty() {
        let of_image = tree.text(CONF_HOOK)?;
        if !of_image.ends_with(TAKES_KEYS) {
            tree.write(CONF_HOOK, format!("{of_image}{TAKES_KEYS}").as_bytes(), 0o644)?;
        }
        tree.write(PRIVATE.0, PRIVATE.1, 0o644)?;
    }
    if early_lines.is_empty() {
        return Ok(None);
    }
    // Nothing that is written to memory fails.
    Ok(archive(&early_lines, &early_keys).ok())
}

fn archive(crypttab: &str, keys: &[(String, &[u8])]) -> io::Result<Vec<u8>> {
    let mut archive = NewcWriter::new(Vec::new());
    archive.directory("cryptroot", 0o755)?;
    archive.file("cryptroot/crypttab", 0o644, crypttab.as_bytes())?;
    if !keys.is_empty() {
        archive.directory(EARLY_KEYS, 0o700)?;
    }
    for (path, secret) in keys {
        archive.file(path, 0o600, secret)?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use disk_layout::{Chosen, Layout, Seeds};
    use node_api::DiskSecret;

    use super::*;

    /// The tree after the keys of this layout were written twice, and what its initramfs gets: path, mode, text.
    fn written(layout: &str) -> (tempfile::TempDir, Tree, Vec<(String, u32, String)>) {
        let layout: Layout = serde_json::from_str(layout).unwrap();
        let plan = Plan::on(&layout, &Chosen::roomy(&layout), &Seeds::default()).unwrap();
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        tree.write(CRYPTTAB, b"golden /dev/sda5 none luks\n", 0o644).unwrap();
        tree.write(CONF_HOOK, b"#ASKPASS=\n", 0o644).unwrap();
        let keys = [("crypt", "abc"), ("vault", "def")];
        let keys = keys.map(|(name, key)| DiskKey { name: name.into(), secret: DiskSecret::new(key.into()) });
        let [first, second] = [(); 2].map(|()| write(&mut tree, &plan, &keys).unwrap());
        assert_eq!(first, second);
        let archive = first.unwrap_or_default();
        let entries = if archive.is_empty() { Vec::new() } else { boot_bundle::read_newc(&archive).unwrap() };
        let text = |data: &[u8]| String::from_utf8(data.to_vec()).unwrap();
        let early = entries.iter().map(|entry| (entry.path.to_owned(), entry.mode, text(entry.data)));
        (root, tree, early.collect())
    }

    #[test]
    fn keys_lie_where_they_are_read_and_nobody_else_reads_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let (root, tree, early) = written(
            r#"{ "partition": [{ "role": "boot", "size": "1GiB" }, { "luks": "crypt", "size": "4GiB" }, { "luks": "vault" }],
                 "luks": [{ "name": "crypt", "role": "root", "unlock": "keyfile" },
                          { "name": "vault", "mount": "/srv", "fs": "ext4" }] }"#,
        );
        let crypttab = tree.text(CRYPTTAB).unwrap();
        let lines: Vec<&str> = crypttab.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(lines, ["crypt", "vault"], "{crypttab}");
        assert_eq!(tree.text(key_path("crypt")).unwrap(), "abc");
        assert!(!tree.exists(key_path("vault")), "a key that is typed is nowhere on the disk");
        assert_eq!(tree.text(CONF_HOOK).unwrap(), format!("#ASKPASS=\n{TAKES_KEYS}"), "once");
        let mode = |path: &str| root.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("etc/cryptsetup-keys.d"), 0o700);
        assert_eq!(mode("etc/cryptsetup-keys.d/crypt.key"), 0o600);
        assert!(tree.exists(PRIVATE.0));
        let (paths, modes): (Vec<&str>, Vec<u32>) =
            early.iter().map(|(path, mode, _)| (path.as_str(), mode & 0o777)).unzip();
        let in_archive = ["cryptroot", "cryptroot/crypttab", EARLY_KEYS, "cryptroot/keyfiles/crypt.key"];
        assert_eq!((paths, modes), (in_archive.to_vec(), vec![0o755, 0o644, 0o700, 0o600]));
        let line = &early[1].2;
        assert!(
            line.starts_with("crypt UUID=") && line.lines().count() == 1,
            "only what the root needs: {line}"
        );
        assert!(line.ends_with(" /cryptroot/keyfiles/crypt.key luks,discard,initramfs\n"), "{line}");
        assert_eq!(early[3].2, "abc");
    }

    #[test]
    fn a_key_that_is_typed_is_not_in_the_initramfs_either() {
        let (_root, tree, early) = written(
            r#"{ "partition": [{ "role": "boot", "size": "1GiB" }, { "luks": "crypt" }],
                 "luks": [{ "name": "crypt", "role": "root" }] }"#,
        );
        assert_eq!(early.len(), 2);
        assert!(early[1].2.ends_with(" none luks,discard,initramfs\n"), "{early:?}");
        assert!(!tree.exists(PRIVATE.0));
    }

    #[test]
    fn an_initramfs_gets_no_key_that_only_the_system_needs() {
        let (_root, tree, early) = written(
            r#"{ "partition": [{ "role": "root", "size": "4GiB" }, { "luks": "vault" }],
                 "luks": [{ "name": "vault", "mount": "/srv", "fs": "ext4", "unlock": "keyfile" }] }"#,
        );
        assert_eq!(tree.text(key_path("vault")).unwrap(), "def");
        assert_eq!(tree.text(CONF_HOOK).unwrap(), "#ASKPASS=\n");
        assert!(!tree.exists(PRIVATE.0) && early.is_empty());
    }

    #[test]
    fn without_containers_the_image_keeps_its_crypttab() {
        let (_root, tree, _) = written("{}");
        assert_eq!(tree.text(CRYPTTAB).unwrap(), "golden /dev/sda5 none luks\n");
    }
}
