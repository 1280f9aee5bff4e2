//! The machine's disks, as sysfs and their own first and last sectors tell.

use std::fs::File;
use std::path::Path;

use disk_layout::{Disk, Transport};

use super::root::{Root, attribute, clean_text, flag, names_in, number};
use super::signatures::{Contents, contents};

/// sysfs counts in these whatever the disk's sectors are.
const SYSFS_SECTOR_BYTES: u64 = 512;

/// `device/type` of a SCSI device that is a disk; others are tapes, CD drives, enclosures (SPC-5 table 150).
const SCSI_TYPES_OF_DISKS: [u64; 3] = [0, 7, 14];

/// What a disk is said to hold when it can't be read: it must not pass for blank.
const UNREADABLE: &str = "unreadable";

/// A VPD page begins with type, page code and length.
const VPD_HEADER_BYTES: usize = 4;

/// Every disk that has a size, sorted by kernel name. Reads the first and last sectors of each.
pub(crate) fn disks() -> Vec<Disk> {
    disks_in(&Root::real())
}

/// The disks of a machine whose files are below `root`.
pub(crate) fn disks_in(root: &Root) -> Vec<Disk> {
    names_in(&root.at("sys/block")).iter().filter_map(|name| disk(root, name)).collect()
}

fn disk(root: &Root, name: &str) -> Option<Disk> {
    let block = root.at("sys/block").join(name);
    let device = block.join("device");
    // Loop devices, RAID and device-mapper have no device; multipath NVMe has hidden ones beside the real one.
    if !device.exists() || flag(&block.join("hidden")) || is_no_disk(name, &device) {
        return None;
    }
    let size_bytes =
        number(&block.join("size"))?.checked_mul(SYSFS_SECTOR_BYTES).filter(|bytes| *bytes > 0)?;
    let sector_bytes =
        |name: &str| number(&block.join("queue").join(name)).and_then(|bytes| u32::try_from(bytes).ok());
    let logical_sector_bytes = sector_bytes("logical_block_size").unwrap_or(512);
    let path = path_of(root, &device);
    let transport = transport(name, &path);
    let Contents { signatures, partitions } = contents_of(root, name, size_bytes, logical_sector_bytes);
    let is_card = transport == Transport::Mmc && attribute(&device.join("type")).as_deref() != Some("MMC");
    Some(Disk {
        name: name.to_owned(),
        serial: serial(&block, &device),
        wwn: wwn(&block, &device),
        model: model(&device),
        size_bytes,
        logical_sector_bytes,
        physical_sector_bytes: sector_bytes("physical_block_size").unwrap_or(logical_sector_bytes),
        rotational: flag(&block.join("queue/rotational")),
        removable: flag(&block.join("removable")) || transport == Transport::Usb || is_card,
        read_only: flag(&block.join("ro")),
        transport,
        signatures,
        partitions,
        path,
    })
}

/// CD drives, floppies, boot partitions and protected areas of eMMC.
fn is_no_disk(name: &str, device: &Path) -> bool {
    let scsi_type = number(&device.join("type"));
    let other_scsi = scsi_type.is_some_and(|kind| !SCSI_TYPES_OF_DISKS.contains(&kind));
    let emmc_area = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    other_scsi || emmc_area || name.starts_with("sr") || name.starts_with("fd")
}

/// Below `/sys/devices`: what the disk is attached to, which stays the same as long as nobody moves a cable.
fn path_of(root: &Root, device: &Path) -> String {
    let devices = root.at("sys/devices").canonicalize().unwrap_or_default();
    let device = device.canonicalize().unwrap_or_default();
    device.strip_prefix(devices).unwrap_or(&device).to_string_lossy().into_owned()
}

fn transport(name: &str, path: &str) -> Transport {
    let has_part = |start: &str| {
        path.split('/').any(|part| {
            part.strip_prefix(start)
                .is_some_and(|number| number.starts_with(|digit: char| digit.is_ascii_digit()))
        })
    };
    if name.starts_with("nvme") {
        Transport::Nvme
    } else if name.starts_with("mmcblk") {
        Transport::Mmc
    } else if has_part("usb") {
        Transport::Usb
    } else if has_part("ata") {
        Transport::Ata
    } else if has_part("host") {
        Transport::Scsi
    } else if name.starts_with("vd") {
        Transport::Virtio
    } else {
        Transport::Other
    }
}

/// virtio has it beside the block device, NVMe and MMC at the device, SCSI and SATA in VPD page 0x80.
fn serial(block: &Path, device: &Path) -> Option<String> {
    let page = || clean_text(std::fs::read(device.join("vpd_pg80")).ok()?.get(VPD_HEADER_BYTES..)?);
    attribute(&block.join("serial")).or_else(|| attribute(&device.join("serial"))).or_else(page)
}

fn wwn(block: &Path, device: &Path) -> Option<String> {
    let wwid = attribute(&device.join("wwid")).or_else(|| attribute(&block.join("wwid")))?;
    Some(wwid.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

fn model(device: &Path) -> Option<String> {
    attribute(&device.join("model")).or_else(|| attribute(&device.join("name")))
}

fn contents_of(root: &Root, name: &str, size_bytes: u64, sector_bytes: u32) -> Contents {
    let read = || contents(&File::open(root.at("dev").join(name))?, size_bytes, sector_bytes);
    read().unwrap_or_else(|error: std::io::Error| {
        tracing::warn!("reading what is on /dev/{name}: {error}");
        Contents { signatures: vec![UNREADABLE.to_owned()], partitions: Vec::new() }
    })
}

#[cfg(test)]
mod tests;
