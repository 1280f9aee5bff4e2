//! The installed system's network: DHCP on the interface that booted, in the words of whatever manages it.

use super::tree::{Tree, TreeError};

/// What manages the installed system's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "NetworkManager is that program's name")]
pub(super) enum Manager {
    /// netplan.
    Netplan,
    /// NetworkManager with keyfiles.
    NetworkManager,
    /// systemd-networkd, enabled.
    Networkd,
    /// ifupdown.
    Ifupdown,
    /// None that we know: the image brings its own network.
    Unknown,
}

/// Writes the configuration and says what it was written for.
pub(super) fn write_network(tree: &mut Tree, mac: [u8; 6]) -> Result<Manager, TreeError> {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let manager = find_manager(tree);
    match manager {
        Manager::Netplan => {
            let text = format!(
                "network:\n  version: 2\n  ethernets:\n    boot:\n      match:\n        macaddress: \"{mac}\"\n      dhcp4: true\n      dhcp-identifier: mac\n"
            );
            // netplan warns about files that others can read, as they may hold secrets.
            tree.write("/etc/netplan/60-esir.yaml", text.as_bytes(), 0o600)?;
        }
        Manager::NetworkManager => {
            let text = format!(
                "[connection]\nid=esir\ntype=ethernet\n\n[ethernet]\nmac-address={mac}\n\n[ipv4]\nmethod=auto\ndhcp-client-id=mac\n\n[ipv6]\nmethod=auto\n"
            );
            tree.write("/etc/NetworkManager/system-connections/esir.nmconnection", text.as_bytes(), 0o600)?;
        }
        Manager::Networkd => {
            let text = format!(
                "[Match]\nMACAddress={mac}\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nClientIdentifier=mac\nUseDomains=yes\n"
            );
            tree.write("/etc/systemd/network/10-esir.network", text.as_bytes(), 0o644)?;
        }
        Manager::Ifupdown => write_ifupdown(tree, &mac)?,
        Manager::Unknown => {}
    }
    Ok(manager)
}

/// ifupdown names interfaces, so the interface gets a name of its own by its address.
fn write_ifupdown(tree: &mut Tree, mac: &str) -> Result<(), TreeError> {
    let link = format!("[Match]\nMACAddress={mac}\n\n[Link]\nName=boot0\n");
    tree.write("/etc/systemd/network/10-esir.link", link.as_bytes(), 0o644)?;
    let text = "auto boot0\niface boot0 inet dhcp\n";
    tree.write("/etc/network/interfaces.d/esir", text.as_bytes(), 0o644)?;
    if tree.read("/etc/network/interfaces")?.is_none() {
        let text = "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n";
        tree.write("/etc/network/interfaces", text.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn find_manager(tree: &Tree) -> Manager {
    let networkd = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
    if tree.exists("/usr/sbin/netplan") {
        Manager::Netplan
    } else if tree.exists("/usr/sbin/NetworkManager") {
        Manager::NetworkManager
    } else if tree.exists(networkd) {
        Manager::Networkd
    } else if tree.exists("/sbin/ifup") {
        Manager::Ifupdown
    } else {
        Manager::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts which file an image with these programs gets, and that it names the interface.
    fn check(programs: &[&str], manager: Manager, file: &str) {
        let root = tempfile::tempdir().unwrap();
        for program in programs {
            let path = root.path().join(program.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut tree = Tree::open(root.path()).unwrap();
        assert_eq!(write_network(&mut tree, [0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]).unwrap(), manager);
        let text = String::from_utf8(tree.read(file).unwrap().unwrap()).unwrap();
        assert!(text.contains("52:54:00:aa:bb:cc"), "{text}");
    }

    #[test]
    fn each_manager_gets_its_own_words() {
        check(&["/usr/sbin/netplan", "/sbin/ifup"], Manager::Netplan, "/etc/netplan/60-esir.yaml");
        let keyfile = "/etc/NetworkManager/system-connections/esir.nmconnection";
        check(&["/usr/sbin/NetworkManager"], Manager::NetworkManager, keyfile);
        let networkd = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
        check(&[networkd, "/sbin/ifup"], Manager::Networkd, "/etc/systemd/network/10-esir.network");
        check(&["/sbin/ifup"], Manager::Ifupdown, "/etc/systemd/network/10-esir.link");
    }
}
