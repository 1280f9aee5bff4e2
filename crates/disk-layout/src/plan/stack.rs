//! Builds a plan from the partitions upwards: arrays, containers, groups, volumes, and a file system on what is left.

use uuid::{Uuid, uuid};

use super::place::{Extent, place};
use super::{
    FsId, Layer, MIB, Plan, PlanError, PlannedDisk, PlannedFileSystem, PlannedPartition, Seeds, derive_uuid,
    identity,
};
use crate::check::Kind;
use crate::choose::Chosen;
use crate::disk::{Disk, FoundPartition, KEPT_NAME_PREFIX, PARTITION_NAME_PREFIX, human_bytes};
use crate::layout::{FileSystem, Layout, Part, PartitionRole, Size};

/// mkfs.xfs refuses less.
const XFS_MIN_MIB: u64 = 300;
/// mkfs.btrfs wants 109 MiB for its two copies of metadata.
const BTRFS_MIN_MIB: u64 = 128;
/// FAT32 needs 65,525 clusters: 33 MiB with 512-byte sectors, 257 MiB with 4,096 (one sector each).
const FAT32_MIN_MIB_512: u64 = 34;
/// See [`FAT32_MIN_MIB_512`].
const FAT32_MIN_MIB_4096: u64 = 260;
/// Header and keys of a LUKS2 container.
const LUKS_MIB: u64 = 16;
/// Label and metadata of a physical volume, and what is lost to whole extents of 4 MiB.
const PV_MIB: u64 = 8;
/// md's superblock and bitmap, and at most 128 MiB that it keeps free in front of the data.
const RAID_MIB: u64 = 130;

/// A device that exists so far, for what lies on it.
struct Device {
    kind: Kind,
    index: usize,
    name: String,
    mib: u64,
    sector_bytes: u32,
    /// Of a partition.
    guid: Option<Uuid>,
    /// It is there already and stays as it is.
    kept: bool,
}

impl Device {
    /// One that is made of others, and never kept.
    const fn new(kind: Kind, index: usize, name: String, mib: u64, sector_bytes: u32) -> Self {
        Self { kind, index, name, mib, sector_bytes, guid: None, kept: false }
    }
}

pub(super) struct Builder<'a> {
    layout: &'a Layout,
    seeds: &'a Seeds,
    devices: Vec<Device>,
    layers: Vec<Layer>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(layout: &'a Layout, seeds: &'a Seeds) -> Self {
        Self { layout, seeds, devices: Vec::new(), layers: Vec::new() }
    }

    pub(super) fn build(mut self, chosen: &Chosen) -> Result<Plan, PlanError> {
        let mut disks = Vec::new();
        for (set, members) in chosen.sets.iter().enumerate() {
            for disk in members {
                let number = u32::try_from(disks.len()).unwrap_or(u32::MAX);
                disks.push(self.disk(set, number, disk)?);
            }
        }
        self.raids();
        self.containers_and_groups()?;
        let file_systems = self.file_systems()?;
        Ok(Plan { disks, layers: self.layers, file_systems })
    }

    fn disk(&mut self, set: usize, disk_number: u32, disk: &Disk) -> Result<PlannedDisk, PlanError> {
        let sector_bytes = disk.logical_sector_bytes;
        if !matches!(sector_bytes, 512 | 4096) {
            return Err(PlanError::SectorSize { disk: disk.name.clone(), bytes: sector_bytes });
        }
        let layout = self.layout;
        let here: Vec<(usize, &Part)> = layout
            .partitions
            .iter()
            .enumerate()
            .filter(|(_, part)| layout.set_of(part) == Some(set))
            .collect();
        let kept = |part: &Part| part.keep.then(|| find_kept(part, disk)).flatten();
        let sectors_per_mib = MIB / u64::from(sector_bytes);
        let mut kept_extents: Vec<Extent> = Vec::new();
        for (_, part) in &here {
            if let Some(found) = kept(part) {
                kept_extents.push(check_kept(part, found, disk, &kept_extents)?);
            }
        }
        let wanted: Vec<Size> =
            here.iter().filter(|(_, part)| kept(part).is_none()).map(|(_, part)| part.size).collect();
        let mut placed = place(&wanted, &kept_extents, disk)?.into_iter();
        let mut partitions = Vec::with_capacity(here.len());
        for (number, (index, part)) in (1_u32..).zip(here) {
            let found = kept(part);
            let (first_lba, last_lba, mib) = match found {
                Some(found) => {
                    let sectors = found.last_lba - found.first_lba + 1;
                    (found.first_lba, found.last_lba, sectors / sectors_per_mib)
                }
                None => {
                    let (first_mib, mib) = placed.next().unwrap_or_default();
                    (first_mib * sectors_per_mib, (first_mib + mib) * sectors_per_mib - 1, mib)
                }
            };
            let device = device_name(&disk.name, number);
            let ordinal = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
            // The first disk's partitions are numbered as ever, those of others apart from them.
            let fresh = || derive_uuid("partition", disk_number << 16 | ordinal, &self.seeds.fresh);
            let guid = found.map_or_else(fresh, |found| found.guid);
            self.devices.push(Device {
                kind: Kind::Partition,
                index,
                name: device.clone(),
                mib,
                sector_bytes,
                guid: Some(guid),
                kept: found.is_some(),
            });
            partitions.push(PlannedPartition {
                number,
                device,
                name: partition_name(part, ordinal),
                role: if part.member_of().is_some() { PartitionRole::Data } else { part.role },
                type_guid: type_guid(part),
                guid,
                first_lba,
                last_lba,
                kept: found.is_some(),
            });
        }
        Ok(PlannedDisk {
            name: disk.name.clone(),
            description: disk.describe(),
            contents: disk.contents(),
            size_bytes: disk.size_bytes,
            sector_bytes,
            guid: derive_uuid("disk", disk_number, &self.seeds.fresh),
            partitions,
        })
    }

    /// Devices that are a part of this: `("raid", "system")`.
    fn members(&self, of: (&str, &str)) -> Vec<&Device> {
        let is_member =
            |device: &&Device| self.part(device.kind, device.index).and_then(Part::member_of) == Some(of);
        self.devices.iter().filter(is_member).collect()
    }

    fn part(&self, kind: Kind, index: usize) -> Option<&'a Part> {
        let parts = match kind {
            Kind::Partition => &self.layout.partitions,
            Kind::Raid => &self.layout.raids,
            Kind::Luks => &self.layout.luks,
            Kind::Volume => &self.layout.volumes,
            Kind::Disk => return None,
        };
        parts.get(index)
    }

    fn raids(&mut self) {
        for (index, raid) in self.layout.raids.iter().enumerate() {
            let members = self.members(("raid", &raid.name));
            let mib = members.iter().map(|device| device.mib).min().unwrap_or(0);
            let sector_bytes = members.iter().map(|device| device.sector_bytes).max().unwrap_or(512);
            let members: Vec<String> = members.into_iter().map(|device| device.name.clone()).collect();
            let device = format!("md{index}");
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            self.layers.push(Layer::Raid {
                device: device.clone(),
                name: raid.name.clone(),
                metadata: raid.metadata,
                uuid: derive_uuid("raid", number, &self.seeds.fresh),
                members,
            });
            let mib = mib.saturating_sub(RAID_MIB.min(2 + mib / 512));
            self.devices.push(Device::new(Kind::Raid, index, device, mib, sector_bytes));
        }
    }

    /// Containers may lie in volumes and groups in containers, so both are made as soon as what holds them is there.
    fn containers_and_groups(&mut self) -> Result<(), PlanError> {
        let mut containers: Vec<usize> = (0..self.layout.luks.len()).collect();
        let mut groups: Vec<String> = Vec::new();
        for volume in &self.layout.volumes {
            let group = volume.group.clone().unwrap_or_default();
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        while !containers.is_empty() || !groups.is_empty() {
            let left = containers.len() + groups.len();
            let mut waiting = Vec::new();
            for index in containers {
                if !self.container(index) {
                    waiting.push(index);
                }
            }
            containers = waiting;
            let mut waiting = Vec::new();
            for group in groups {
                if self.is_whole(&group) {
                    self.group(&group)?;
                } else {
                    waiting.push(group);
                }
            }
            groups = waiting;
            if containers.len() + groups.len() == left {
                let luks = containers
                    .iter()
                    .filter_map(|index| self.layout.luks.get(*index))
                    .map(|part| part.name.clone());
                return Err(PlanError::Circle(luks.chain(groups).collect::<Vec<_>>().join(", ")));
            }
        }
        Ok(())
    }

    /// Whether the container could be made, because what holds it is there.
    fn container(&mut self, index: usize) -> bool {
        let Some(luks) = self.layout.luks.get(index) else { return true };
        let (below, mib, sector_bytes) = match self.members(("luks", &luks.name)).as_slice() {
            [device] => (device.name.clone(), device.mib.saturating_sub(LUKS_MIB), device.sector_bytes),
            _ => return false,
        };
        let in_group = |group: &str| {
            let inside =
                |volume: &Part| volume.group.as_deref() == Some(group) && volume.role == PartitionRole::Root;
            self.layout.volumes.iter().any(inside)
        };
        let device = format!("mapper/{}", luks.name);
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        self.layers.push(Layer::Luks {
            device: device.clone(),
            name: luks.name.clone(),
            uuid: derive_uuid("luks", number, &self.seeds.fresh),
            unlock: luks.unlock,
            below,
            holds_root: luks.lvm.as_deref().map_or(luks.role == PartitionRole::Root, in_group),
        });
        self.devices.push(Device::new(Kind::Luks, index, device, mib, sector_bytes));
        true
    }

    /// Whether every part that is in the group is there.
    fn is_whole(&self, group: &str) -> bool {
        let wanted = self.layout.parts().filter(|(_, _, part)| part.lvm.as_deref() == Some(group));
        wanted
            .into_iter()
            .all(|(kind, index, _)| self.devices.iter().any(|one| one.kind == kind && one.index == index))
    }

    fn group(&mut self, group: &str) -> Result<(), PlanError> {
        let members = self.members(("lvm", group));
        let have_mib: u64 = members.iter().map(|device| device.mib.saturating_sub(PV_MIB)).sum();
        let sector_bytes = members.iter().map(|device| device.sector_bytes).max().unwrap_or(512);
        let members: Vec<String> = members.into_iter().map(|device| device.name.clone()).collect();
        self.layers.push(Layer::Group { name: group.to_owned(), members });
        let inside = |part: &&Part| part.group.as_deref() == Some(group);
        let rounded = |part: &Part| part.size.least_mib().div_ceil(4).saturating_mul(4);
        let least_mib = self.layout.volumes.iter().filter(inside).map(rounded).fold(0, u64::saturating_add);
        if least_mib > have_mib {
            return Err(PlanError::TooSmall {
                disk: format!("the group {group}"),
                needed: human_bytes(least_mib.saturating_mul(MIB)),
                have: human_bytes(have_mib * MIB),
            });
        }
        // What takes the rest comes last, when the rest is known.
        let volumes = || self.layout.volumes.iter().enumerate().filter(|(_, part)| inside(part));
        let fixed = volumes().filter(|(_, part)| !part.size.grows());
        for (index, part) in fixed.chain(volumes().filter(|(_, part)| part.size.grows())) {
            // Device-mapper's name; neither part has a hyphen, which would be doubled.
            let device = format!("mapper/{group}-{}", part.name);
            let size_mib = (!part.size.grows()).then(|| part.size.least_mib());
            let mib = size_mib.unwrap_or_else(|| have_mib - least_mib + part.size.least_mib());
            self.layers.push(Layer::Volume {
                device: device.clone(),
                group: group.to_owned(),
                name: part.name.clone(),
                size_mib,
            });
            self.devices.push(Device::new(Kind::Volume, index, device, mib, sector_bytes));
        }
        Ok(())
    }

    fn file_systems(&self) -> Result<Vec<PlannedFileSystem>, PlanError> {
        let mut made: Vec<(Kind, usize, PlannedFileSystem)> = Vec::new();
        for device in &self.devices {
            let Some(part) = self.part(device.kind, device.index) else { continue };
            let Some(fs) = part.file_system() else { continue };
            let same = |(kind, index, _): &&mut (Kind, usize, PlannedFileSystem)| {
                *kind == device.kind && *index == device.index
            };
            if let Some((_, _, first)) = made.iter_mut().find(same) {
                first.copies.push(device.name.clone());
                continue;
            }
            let number = u32::try_from(device.index).unwrap_or(u32::MAX).saturating_add(1);
            let min_mib = min_mib(fs, device.sector_bytes);
            if device.mib < min_mib {
                let part = format!("{} {number}", device.kind.word());
                return Err(PlanError::FileSystemSize { part, fs: fs.word(), min_mib, mib: device.mib });
            }
            let purpose = match device.kind {
                Kind::Partition | Kind::Disk => "file-system",
                Kind::Raid => "file-system on raid",
                Kind::Luks => "file-system on luks",
                Kind::Volume => "file-system on volume",
            };
            let id = match device.guid {
                // The file system outlives images and its identity with them; the partition is what stays.
                Some(guid) if part.keep => FsId::Partition(guid),
                _ => identity(fs, purpose, number, part.uuid, self.seeds),
            };
            let planned = PlannedFileSystem {
                device: device.name.clone(),
                copies: Vec::new(),
                role: part.role,
                fs,
                id,
                mount: part.mount_point(),
                options: part.options.clone(),
                subvolumes: part.subvolumes.clone(),
                kept: device.kept,
            };
            made.push((device.kind, device.index, planned));
        }
        Ok(made.into_iter().map(|(_, _, planned)| planned).collect())
    }
}

/// The partition of an earlier deployment that this part keeps.
fn find_kept<'d>(part: &Part, disk: &'d Disk) -> Option<&'d FoundPartition> {
    disk.kept().find(|(name, _)| *name == part.name).map(|(_, found)| found)
}

/// The MiB that a kept partition lies on, if it is what the layout says.
fn check_kept(
    part: &Part,
    found: &FoundPartition,
    disk: &Disk,
    others: &[Extent],
) -> Result<Extent, PlanError> {
    let wrong =
        |problem: String| PlanError::Kept { name: part.name.clone(), disk: disk.name.clone(), problem };
    let sector = u64::from(disk.logical_sector_bytes);
    let usable = found.first_lba <= found.last_lba && found.last_lba.saturating_mul(sector) < disk.size_bytes;
    let first_mib = found.first_lba.saturating_mul(sector) / MIB;
    let end_mib = found.last_lba.saturating_add(1).saturating_mul(sector).div_ceil(MIB);
    let extent = (first_mib, end_mib - first_mib.min(end_mib));
    let overlaps = others.iter().any(|(first, mib)| first_mib < first + mib && *first < end_mib);
    if !usable || first_mib == 0 || overlaps {
        return Err(wrong(
            "lies where no partition can; the table is damaged, look at it before anything else".to_owned(),
        ));
    }
    if !part.size.grows() && part.size.least_mib() != extent.1 || part.size.least_mib() > extent.1 {
        let (has, wants) = (extent.1, part.size);
        return Err(wrong(format!("has {has} MiB, the layout says {wants}; write size = \"{has}MiB\"")));
    }
    let fs = part.file_system().map_or("", FileSystem::word);
    if !found.signatures.iter().any(|signature| signature == fs) {
        let holds = if found.signatures.is_empty() {
            "nothing known".to_owned()
        } else {
            found.signatures.join(", ")
        };
        return Err(wrong(format!(
            "holds {holds}, the layout says {fs}; correct `fs`, or wipe the disk by hand"
        )));
    }
    Ok(extent)
}

fn min_mib(fs: FileSystem, sector_bytes: u32) -> u64 {
    match fs {
        FileSystem::Ext4 | FileSystem::Swap => 1,
        FileSystem::Xfs => XFS_MIN_MIB,
        FileSystem::Btrfs => BTRFS_MIN_MIB,
        FileSystem::Vfat if sector_bytes == 4096 => FAT32_MIN_MIB_4096,
        FileSystem::Vfat => FAT32_MIN_MIB_512,
    }
}

/// Kernel name of a partition's block device.
fn device_name(disk: &str, number: u32) -> String {
    // The kernel puts a `p` between when the disk's name ends in a digit (block/partitions/core.c).
    let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{separator}{number}")
}

fn partition_name(part: &Part, number: u32) -> String {
    if part.keep {
        return format!("{KEPT_NAME_PREFIX}{}", part.name);
    }
    match part.member_of() {
        Some((word, name)) => format!("{PARTITION_NAME_PREFIX}{word}-{name}"),
        None if part.role == PartitionRole::Data => format!("{PARTITION_NAME_PREFIX}data-{number}"),
        None => format!("{PARTITION_NAME_PREFIX}{}", part.role.word()),
    }
}

/// UEFI specification 5.3.3, GRUB manual 3.4, Discoverable Partitions Specification, gdisk's list.
fn type_guid(part: &Part) -> Uuid {
    match (part.member_of(), part.role) {
        (Some(("raid", _)), _) => uuid!("a19d880f-05fc-4d3b-a006-743f0f84911e"),
        (Some(("lvm", _)), _) => uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928"),
        (Some(_), _) => uuid!("ca7d7ccb-63ed-4c53-861c-1742536059cc"),
        (None, PartitionRole::BiosBoot) => uuid!("21686148-6449-6e6f-744e-656564454649"),
        (None, PartitionRole::Esp) => uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
        (None, PartitionRole::Boot) => uuid!("bc13c2ff-59e6-4262-a352-b275fd6f7172"),
        (None, PartitionRole::Root) => uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
        (None, PartitionRole::Swap) => uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
        (None, PartitionRole::Data) => uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"),
    }
}
