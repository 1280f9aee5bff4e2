//! What is known of one disk.

use serde::{Deserialize, Serialize};

/// One whole disk as the node found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name without `/dev/`, such as `sda` or `nvme0n1`. No identity: it changes with load order.
    pub name: String,
    /// Path of the device below `/sys/devices`, such as `pci0000:00/0000:00:1f.2/ata1/...`.
    pub path: String,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name, `naa.`, `eui.` or `t10.` form as in sysfs.
    pub wwn: Option<String>,
    /// Model text, trimmed.
    pub model: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector in bytes: 512 or 4096.
    pub logical_sector_bytes: u32,
    /// Physical sector in bytes.
    pub physical_sector_bytes: u32,
    /// Spinning.
    pub rotational: bool,
    /// Removable media or attached by USB, SD or a card reader: never chosen.
    pub removable: bool,
    /// Write-protected: never chosen.
    pub read_only: bool,
    /// How it is attached.
    pub transport: Transport,
    /// What is on it already, such as `gpt`, `dos`, `ext4`, `LVM2_member`; empty when blank.
    #[serde(default)]
    pub signatures: Vec<String>,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// NVM Express.
    Nvme,
    /// SATA or PATA.
    Ata,
    /// SAS, parallel SCSI, or a RAID controller.
    Scsi,
    /// virtio-blk.
    Virtio,
    /// USB.
    Usb,
    /// MMC or SD.
    Mmc,
    /// Anything else.
    #[default]
    Other,
}
