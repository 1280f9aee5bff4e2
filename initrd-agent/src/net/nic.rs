//! The network interfaces of this machine, as sysfs tells (Documentation/ABI/testing/sysfs-class-net).

use std::fs;
use std::path::{Path, PathBuf};

use dhcp_wire::MacAddr;

/// Where the kernel lists interfaces.
pub(crate) const CLASS_NET: &str = "/sys/class/net";
/// ARPHRD_ETHER.
const TYPE_ETHERNET: &str = "1";
/// QUIRK(BMC): management controllers show a USB NIC that answers DHCP itself; a node that takes it never
/// reaches its server. They are used only when BOOTIF names one.
const MANAGEMENT_DRIVERS: [&str; 4] = ["cdc_ether", "cdc_subset", "rndis_host", "cdc_eem"];

/// One Ethernet interface that stands for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Kernel name; no identity, it changes with load order.
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: MacAddr,
    /// Whether it may belong to a management controller.
    pub(crate) management: bool,
    pub(super) directory: PathBuf,
}

impl Interface {
    /// Whether the link is up now. An interface that is down has no carrier file to read.
    pub(crate) fn has_carrier(&self) -> bool {
        read(&self.directory, "carrier").as_deref() == Some("1")
    }
}

/// Every Ethernet interface with a device behind it, by name.
pub(crate) fn list(class_net: &Path) -> Vec<Interface> {
    let Ok(entries) = fs::read_dir(class_net) else { return Vec::new() };
    let mut interfaces: Vec<Interface> =
        entries.flatten().filter_map(|entry| read_one(entry.path())).collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    interfaces
}

fn read_one(directory: PathBuf) -> Option<Interface> {
    // Bridges, bonds and tunnels have no device.
    if !directory.join("device").exists() || read(&directory, "type")? != TYPE_ETHERNET {
        return None;
    }
    let mac: MacAddr = read(&directory, "address")?.parse().ok()?;
    let driver = fs::read_link(directory.join("device/driver")).ok();
    let driver =
        driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    Some(Interface {
        name: directory.file_name()?.to_str()?.to_owned(),
        index: read(&directory, "ifindex")?.parse().ok()?,
        mac,
        management: MANAGEMENT_DRIVERS.contains(&driver),
        directory,
    })
}

fn read(directory: &Path, name: &str) -> Option<String> {
    fs::read_to_string(directory.join(name)).ok().map(|text| text.trim().to_owned())
}

/// The order in which interfaces are tried: the one that booted, then the others, without those of management
/// controllers. A management interface comes only first, when it booted.
pub(crate) fn order(mut interfaces: Vec<Interface>, boot_mac: Option<MacAddr>) -> Vec<Interface> {
    let booted = |interface: &Interface| Some(interface.mac) == boot_mac;
    interfaces.retain(|interface| !interface.management || booted(interface));
    interfaces.sort_by_key(|interface| !booted(interface));
    interfaces
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn interface(class_net: &Path, name: &str, last: u8, driver: Option<&str>) {
        let directory = class_net.join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("type"), "1\n").unwrap();
        fs::write(directory.join("address"), format!("52:54:00:00:00:{last:02x}\n")).unwrap();
        fs::write(directory.join("ifindex"), format!("{last}\n")).unwrap();
        if let Some(driver) = driver {
            fs::create_dir_all(directory.join("device")).unwrap();
            symlink(format!("../../drivers/{driver}"), directory.join("device/driver")).unwrap();
        }
    }

    #[test]
    fn boot_interface_comes_first_and_management_never_by_accident() {
        let class_net = tempfile::tempdir().unwrap();
        let class_net = class_net.path();
        interface(class_net, "eth0", 1, Some("cdc_ether"));
        interface(class_net, "eth1", 2, Some("e1000"));
        interface(class_net, "eth2", 3, Some("virtio_net"));
        interface(class_net, "br0", 4, None);
        let names = |boot: Option<&str>| {
            order(list(class_net), boot.map(|mac| mac.parse().unwrap()))
                .into_iter()
                .map(|interface| interface.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["eth1", "eth2"]);
        assert_eq!(names(Some("52:54:00:00:00:03")), ["eth2", "eth1"]);
        assert_eq!(names(Some("52:54:00:00:00:01")), ["eth0", "eth1", "eth2"]);
    }

    #[test]
    fn carrier_is_read_when_it_can_be() {
        let class_net = tempfile::tempdir().unwrap();
        interface(class_net.path(), "eth0", 1, Some("e1000"));
        let interfaces = list(class_net.path());
        assert!(!interfaces[0].has_carrier());
        fs::write(class_net.path().join("eth0/carrier"), "1\n").unwrap();
        assert!(interfaces[0].has_carrier());
    }
}
