//! What is known of one disk.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
    /// What is on it already, such as `gpt`, `dos`, `ext4`, `LVM2_member`; empty when blank. Holds
    /// [`OURS_SIGNATURE`] when it has a GPT and [`is_our_partition_name`] holds for every partition of it.
    #[serde(default)]
    pub signatures: Vec<String>,
    /// The partitions of its GPT, if it has one.
    #[serde(default)]
    pub partitions: Vec<FoundPartition>,
}

/// A partition that is on a disk already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPartition {
    /// Its name in the table.
    pub name: String,
    /// Its own GUID, which stays when it is kept.
    pub guid: Uuid,
    /// First logical sector.
    pub first_lba: u64,
    /// Last logical sector, inclusive.
    pub last_lba: u64,
    /// What is in it, as [`Disk::signatures`].
    pub signatures: Vec<String>,
}

/// Stands among a disk's signatures when every GPT partition on it was made by this system.
pub const OURS_SIGNATURE: &str = "esir";

/// Every GPT partition that this system makes has a name that begins so.
pub const PARTITION_NAME_PREFIX: &str = "esir-";

/// A partition whose name begins so survives deployments as long as layouts keep it.
pub const KEPT_NAME_PREFIX: &str = "esir-keep-";

/// Whether a GPT partition of this name was made by this system.
#[must_use]
pub fn is_our_partition_name(name: &str) -> bool {
    name.starts_with(PARTITION_NAME_PREFIX)
}

impl Disk {
    /// One line for people: `sda (8.0 GiB, serial QM00001, QEMU HARDDISK)`.
    #[must_use]
    pub fn describe(&self) -> String {
        let serial = self.serial.as_deref().unwrap_or("unknown");
        let model = self.model.as_deref().map(|model| format!(", {model}")).unwrap_or_default();
        format!("{} ({}, serial {serial}{model})", self.name, human_bytes(self.size_bytes))
    }

    /// What is on it, for people: `gpt with "EFI" (vfat), "data" (LVM2_member)`.
    #[must_use]
    pub fn contents(&self) -> String {
        let known = |signature: &&String| signature.as_str() != OURS_SIGNATURE;
        let mut text = self.signatures.iter().filter(known).cloned().collect::<Vec<_>>().join(", ");
        for (index, partition) in self.partitions.iter().enumerate() {
            text.push_str(if index == 0 { " with " } else { ", " });
            let holds = match partition.signatures.as_slice() {
                [] => "nothing known".to_owned(),
                found => found.join(", "),
            };
            text.push_str(&format!("{:?} ({holds})", partition.name));
        }
        text
    }

    /// Names of the partitions that an earlier layout kept, without their prefix.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&str, &FoundPartition)> {
        self.partitions.iter().filter_map(|found| Some((found.name.strip_prefix(KEPT_NAME_PREFIX)?, found)))
    }
}

/// A size with one decimal place in the largest binary unit below it.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut text = format!("{bytes} B");
    let mut unit_bytes = 1024_u64;
    for unit in UNITS {
        if bytes < unit_bytes {
            break;
        }
        let tenths = u128::from(bytes) * 10 / u128::from(unit_bytes);
        text = format!("{}.{} {unit}", tenths / 10, tenths % 10);
        unit_bytes = unit_bytes.saturating_mul(1024);
    }
    text
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
