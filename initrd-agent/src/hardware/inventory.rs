//! What the machine has: memory, processors, disks, network interfaces, and every device with its driver or
//! with what is missing for one.

use std::collections::BTreeMap;
use std::path::Path;

use boot_bundle::{Lookup, ModuleIndex};
use node_api::{Device, Inventory, Nic};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::disks::disks_in;
use super::engine::is_left_out;
use super::kernel_messages::{MissingFirmware, missing_firmware};
use super::loader::LoadState;
use super::root::{Root, attribute, flag, link_name, names_in, number};
use super::uevent::all_devices;

/// A report must stay small; the largest servers have about 3,000 devices with an alias.
const DEVICES_MAX: usize = 8192;

/// A software loop, no interface of the machine.
const LOOPBACK: &str = "lo";

/// Everything, with what `index` and the module states tell of devices without a driver.
pub(crate) fn inventory(root: &Root, index: &ModuleIndex, states: &BTreeMap<String, LoadState>) -> Inventory {
    let kinds = RefreshKind::nothing()
        .with_memory(MemoryRefreshKind::nothing().with_ram())
        .with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(kinds)
        .inspect_err(|error| tracing::warn!("asking for memory: {error}"))
        .ok();
    let processors = system.as_ref().map(System::cpus).unwrap_or_default();
    let model = processors.first().map(|processor| processor.brand().trim().to_owned());
    Inventory {
        memory_bytes: system.as_ref().map_or(0, System::total_memory),
        processors: u32::try_from(processors.len()).unwrap_or(u32::MAX),
        processor_model: model.unwrap_or_default(),
        disks: disks_in(root),
        nics: nics(root),
        devices: devices(root, index, states),
    }
}

/// Every network interface but loopback, sorted by kernel name.
fn nics(root: &Root) -> Vec<Nic> {
    let class = root.at("sys/class/net");
    let names = names_in(&class).into_iter().filter(|name| name != LOOPBACK);
    names.filter_map(|name| nic(&class.join(&name), name)).collect()
}

fn nic(path: &Path, name: String) -> Option<Nic> {
    Some(Nic {
        name,
        mac: attribute(&path.join("address"))?,
        driver: link_name(&path.join("device/driver/module"))
            .or_else(|| link_name(&path.join("device/driver"))),
        // Unknown is -1, and reading it while the link is down is an error.
        speed_mbit_s: number(&path.join("speed")).and_then(|speed| u32::try_from(speed).ok()),
        carrier: flag(&path.join("carrier")),
    })
}

/// Whether an interface of hardware with this address is there.
pub(crate) fn has_nic(root: &Root, mac: [u8; 6]) -> bool {
    let text: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = text.join(":");
    let class = root.at("sys/class/net");
    let has_address = |name: &String| {
        let path = class.join(name);
        path.join("device").exists() && attribute(&path.join("address")).as_ref() == Some(&text)
    };
    names_in(&class).iter().any(has_address)
}

fn devices(root: &Root, index: &ModuleIndex, states: &BTreeMap<String, LoadState>) -> Vec<Device> {
    let firmware = missing_firmware(root);
    let base = root.at("sys/devices");
    let mut devices = Vec::new();
    all_devices(root, &mut |path| {
        let Some(modalias) = attribute(&path.join("modalias")) else { return };
        if devices.len() >= DEVICES_MAX {
            return;
        }
        let driver = link_name(&path.join("driver"));
        let missing = missing_files(path, &firmware).or_else(|| match driver {
            Some(_) => None,
            None => missing_driver(&modalias, index, states),
        });
        let path = path.strip_prefix(&base).unwrap_or(path).to_string_lossy().into_owned();
        devices.push(Device { path, modalias, driver, missing });
    });
    devices
}

fn missing_files(device: &Path, firmware: &[MissingFirmware]) -> Option<String> {
    let name = device.file_name()?.to_string_lossy();
    let files: Vec<&str> =
        firmware.iter().filter(|entry| entry.device == name).map(|entry| entry.file.as_str()).collect();
    (!files.is_empty()).then(|| format!("firmware missing: {}", files.join(", ")))
}

/// Why a device has no driver, where something is known to drive it.
fn missing_driver(
    modalias: &str,
    index: &ModuleIndex,
    states: &BTreeMap<String, LoadState>,
) -> Option<String> {
    if is_left_out(modalias) {
        return None;
    }
    let Lookup::Modules(modules) = index.lookup(modalias) else { return None };
    let reason = |module: &&str| match states.get(*module) {
        Some(LoadState::Loaded) => format!("{module} is loaded but does not take it"),
        Some(LoadState::Failed(reason)) => format!("{module}: {reason}"),
        Some(LoadState::Queued | LoadState::Loading) => format!("{module} has not finished loading"),
        None if index.contains(module) => format!("{module} was not asked for"),
        None => format!("the kernel has {module} for it, the boot bundle has not"),
    };
    let reasons: Vec<String> = modules.iter().map(reason).collect();
    Some(format!("no driver: {}", reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use boot_bundle::IndexTexts;

    use super::*;

    fn index() -> ModuleIndex {
        ModuleIndex::parse(&IndexTexts {
            dep: "kernel/e100.ko:\nkernel/ahci.ko:\n".into(),
            alias: "alias pci:v1* e100\nalias pci:v2* ahci\nalias pci:v3* radeon\n".into(),
            ..IndexTexts::default()
        })
    }

    fn machine() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::fake(directory.path());
        let add = |name: &str, alias: &str| {
            let device = root.at("sys/devices/pci0000:00").join(name);
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("uevent"), "").unwrap();
            std::fs::write(device.join("modalias"), format!("{alias}\n")).unwrap();
            device
        };
        let nic = add("0000:00:01.0", "pci:v1");
        symlink("../../../../bus/pci/drivers/e100", nic.join("driver")).unwrap();
        add("0000:00:02.0", "pci:v2");
        add("0000:00:03.0", "pci:v3");
        add("0000:00:04.0", "pci:v4");
        let eth = root.at("sys/class/net/eth0");
        std::fs::create_dir_all(eth.join("device")).unwrap();
        symlink("../../../../bus/pci/drivers/e100", eth.join("device/driver")).unwrap();
        for (name, text) in [("address", "52:54:00:aa:bb:cc\n"), ("speed", "-1\n"), ("carrier", "1\n")] {
            std::fs::write(eth.join(name), text).unwrap();
        }
        std::fs::create_dir_all(root.at("sys/class/net/lo")).unwrap();
        std::fs::create_dir_all(root.at("dev")).unwrap();
        (directory, root)
    }

    #[test]
    fn each_device_has_a_driver_or_the_reason_why_not() {
        let (_directory, root) = machine();
        let states = BTreeMap::from([("ahci".to_owned(), LoadState::Failed("needs libata".into()))]);
        let inventory = inventory(&root, &index(), &states);
        let missing: Vec<Option<&str>> =
            inventory.devices.iter().map(|device| device.missing.as_deref()).collect();
        let expected = [
            None,
            Some("no driver: ahci: needs libata"),
            Some("no driver: the kernel has radeon for it, the boot bundle has not"),
            None,
        ];
        assert_eq!(missing, expected);
        assert_eq!(inventory.devices[0].driver.as_deref(), Some("e100"));
        assert_eq!(inventory.devices[0].path, "pci0000:00/0000:00:01.0");
        assert!(inventory.memory_bytes > 0 && inventory.processors > 0);
    }

    #[test]
    fn firmware_that_the_kernel_missed_stands_at_its_device() {
        let (_directory, root) = machine();
        let line = "4,1,2,-;e100 0000:00:01.0: firmware: failed to load e100/ucode.bin (-2)\n";
        std::fs::write(root.at("dev/kmsg"), line).unwrap();
        let inventory = inventory(&root, &index(), &BTreeMap::new());
        assert_eq!(inventory.devices[0].missing.as_deref(), Some("firmware missing: e100/ucode.bin"));
    }

    #[test]
    fn interfaces_are_known_by_address() {
        let (_directory, root) = machine();
        let nic = Nic {
            name: "eth0".into(),
            mac: "52:54:00:aa:bb:cc".into(),
            driver: Some("e100".into()),
            speed_mbit_s: None,
            carrier: true,
        };
        assert_eq!(nics(&root), [nic]);
        assert!(has_nic(&root, [0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]));
        assert!(!has_nic(&root, [0x52, 0x54, 0, 0xaa, 0xbb, 0xcd]));
    }
}
