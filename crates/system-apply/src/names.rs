//! Who the installed system is: mounts, host name, machine id, keys.

use std::path::Path;

use node_api::NodeIdentity;

use super::tree::{ROOT, Tree, TreeError};

/// Writes `/etc/fstab`, the host name, `/etc/hosts` and the machine id.
pub(super) fn write_names(tree: &mut Tree, identity: &NodeIdentity, fstab: &str) -> Result<(), TreeError> {
    let header = "# Written at deployment. File systems are found by UUID.\n";
    let kept = kept_mounts(&tree.text("/etc/fstab")?, fstab);
    tree.write("/etc/fstab", format!("{header}{fstab}{kept}").as_bytes(), 0o644)?;
    tree.write("/etc/hostname", format!("{}\n", identity.hostname).as_bytes(), 0o644)?;
    let domain = identity.domain.as_ref().map(|domain| format!("{}.{domain} ", identity.hostname));
    let names = domain.unwrap_or_default() + &identity.hostname;
    let hosts = hosts_with_own_name(&tree.text("/etc/hosts")?, &names);
    tree.write("/etc/hosts", hosts.as_bytes(), 0o644)?;
    tree.write("/etc/machine-id", format!("{}\n", identity.machine_id).as_bytes(), 0o444)?;
    if tree.exists("/var/lib/dbus") {
        // A second copy goes stale; D-Bus itself links to the first (dbus-uuidgen(1)).
        tree.remove("/var/lib/dbus/machine-id")?;
        tree.write("/var/lib/dbus/machine-id", format!("{}\n", identity.machine_id).as_bytes(), 0o444)?;
    }
    Ok(())
}

/// The image's own mounts that are of no disk, such as NFS or tmpfs: all but what the layout mounts there.
fn kept_mounts(of_image: &str, of_layout: &str) -> String {
    const OF_DISKS: [&str; 5] = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/"];
    let place = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let taken: Vec<Option<String>> = of_layout.lines().map(place).collect();
    let kept = of_image.lines().filter(|line| {
        let line = line.trim_start();
        !line.is_empty()
            && !line.starts_with('#')
            && !OF_DISKS.iter().any(|prefix| line.starts_with(prefix))
            && !taken.contains(&place(line))
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// Adds the site's keys to root's.
pub(super) fn write_authorized_keys(tree: &mut Tree, keys: &[String]) -> Result<(), TreeError> {
    if keys.is_empty() {
        return Ok(());
    }
    let path = "/root/.ssh/authorized_keys";
    let mut lines: Vec<String> = tree.text(path)?.lines().map(str::to_owned).collect();
    for key in keys {
        if !lines.contains(key) {
            lines.push(key.clone());
        }
    }
    tree.make_folder_of(Path::new("/root/.ssh"), 0o700, ROOT)?;
    tree.write(path, (lines.join("\n") + "\n").as_bytes(), 0o600)
}

/// The public host keys of the installed system, one line each.
pub(super) fn public_host_keys(tree: &Tree) -> Vec<String> {
    let names = tree.names("/etc/ssh").into_iter();
    let names = names.filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key.pub"));
    let keys = names.filter_map(|name| tree.read(format!("/etc/ssh/{name}")).ok().flatten());
    keys.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).collect()
}

/// `127.0.1.1` is Debian's line for the own name (Debian Reference, section 5.1.1); others are kept.
fn hosts_with_own_name(hosts: &str, hostname: &str) -> String {
    let kept = hosts.lines().filter(|line| line.split_whitespace().next() != Some("127.0.1.1"));
    let mut lines: Vec<String> = kept.map(str::to_owned).collect();
    if !lines.iter().any(|line| line.starts_with("127.0.0.1")) {
        lines.insert(0, "127.0.0.1\tlocalhost".to_owned());
    }
    lines.push(format!("127.0.1.1\t{hostname}"));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_golden_node_does_not_stay_in_hosts() {
        let hosts = hosts_with_own_name("127.0.0.1 localhost\n127.0.1.1 golden\n::1 ip6-localhost\n", "n1");
        assert_eq!(hosts, "127.0.0.1 localhost\n::1 ip6-localhost\n127.0.1.1\tn1\n");
        assert_eq!(hosts_with_own_name("", "n1"), "127.0.0.1\tlocalhost\n127.0.1.1\tn1\n");
    }

    #[test]
    fn mounts_of_the_image_stay_unless_they_are_of_its_disk_or_the_layout_has_them() {
        let image = "# golden\nUUID=1 / ext4 defaults 0 1\nLABEL=x /srv xfs defaults 0 2\n/dev/sda2 none swap sw 0 0\n\
                     nfs:/home /home nfs4 defaults 0 0\ntmpfs /tmp tmpfs size=1G 0 0\nnfs:/data /data nfs ro 0 0\n";
        let layout = "UUID=2 / ext4 defaults 0 1\nUUID=3 /data xfs defaults 0 2\n";
        let kept = kept_mounts(image, layout);
        assert_eq!(kept, "nfs:/home /home nfs4 defaults 0 0\ntmpfs /tmp tmpfs size=1G 0 0\n");
        assert_eq!(kept_mounts(&format!("{layout}{kept}"), layout), kept, "a second time nothing changes");
    }

    #[test]
    fn keys_of_the_image_stay_beside_those_of_the_site() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        write_authorized_keys(&mut tree, &["ssh-ed25519 A a".into()]).unwrap();
        write_authorized_keys(&mut tree, &["ssh-ed25519 A a".into(), "ssh-ed25519 B b".into()]).unwrap();
        let keys = tree.read("/root/.ssh/authorized_keys").unwrap().unwrap();
        assert_eq!(keys, b"ssh-ed25519 A a\nssh-ed25519 B b\n");
    }
}
