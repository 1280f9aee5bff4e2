//! A plan for a person who has to agree to it: `{plan}` with the identities that it will make, `{plan:#}` without.

use std::fmt;

use super::{Layer, Plan, PlannedDisk};
use crate::disk::human_bytes;
use crate::layout::Unlock;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disks.iter().try_for_each(|disk| self.fmt_disk(f, disk))?;
        self.layers.iter().try_for_each(|layer| {
            writeln!(f, "{layer}{}", self.file_system_on(layer_device(layer), !f.alternate()))
        })?;
        Ok(())
    }
}

impl Plan {
    fn fmt_disk(&self, f: &mut fmt::Formatter<'_>, disk: &PlannedDisk) -> fmt::Result {
        let kept = disk.partitions.iter().any(|partition| partition.kept);
        let lost = if kept { "all data on it but what is kept is lost" } else { "all data on it is lost" };
        write!(f, "/dev/{}: {lost}", disk.description)?;
        if f.alternate() {
            writeln!(f)?;
        } else {
            writeln!(f, "; new GPT {}", disk.guid)?;
        }
        if !disk.contents.is_empty() {
            writeln!(f, "   now: {}", disk.contents)?;
        }
        for partition in &disk.partitions {
            let size = human_bytes(partition.size_bytes(disk.sector_bytes));
            let (number, name) = (partition.number, &partition.name);
            let (first, last) = (partition.first_lba, partition.last_lba);
            write!(f, "  {number:2} {name:<18} {size:>10}  LBA {first}..={last}")?;
            if partition.kept {
                write!(f, "  kept as it is")?;
            }
            let inside = self.layers.iter().find_map(|layer| part_of(layer, &partition.device));
            match inside {
                Some(text) => writeln!(f, "  {text}")?,
                None => writeln!(f, "{}", self.file_system_on(&partition.device, !f.alternate()))?,
            }
        }
        Ok(())
    }

    /// The file system on a device, if it has one.
    fn file_system_on(&self, device: &str, with_id: bool) -> String {
        let has = |one: &&super::PlannedFileSystem| {
            one.device == device || one.copies.iter().any(|copy| copy == device)
        };
        let Some(one) = self.file_systems.iter().find(has) else { return String::new() };
        let mut text = format!("  {}", one.fs.word());
        if with_id {
            text.push_str(&format!(" {}", one.id));
        }
        if let Some(mount) = &one.mount {
            text.push_str(&format!("  on {mount}"));
        }
        for subvolume in &one.subvolumes {
            text.push_str(&format!("  {} on {}", subvolume.name, subvolume.mount));
        }
        if one.device != device {
            text.push_str(&format!("  copy of {}", one.device));
        }
        text
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raid { device, name, metadata, members, .. } => {
                write!(
                    f,
                    "/dev/{device}: RAID1 `{name}`, metadata {}, of {}",
                    metadata.word(),
                    members.join(" ")
                )
            }
            Self::Luks { device, unlock, below, .. } => {
                let how = match unlock {
                    Unlock::Keyfile => "a key file that the system keeps",
                    Unlock::Passphrase => "a passphrase",
                };
                write!(f, "/dev/{device}: LUKS2 on {below}, opened by {how}")
            }
            Self::Group { name, members } => write!(f, "{name}: LVM group of {}", members.join(" ")),
            Self::Volume { device, size_mib, .. } => {
                let size = size_mib.map_or_else(|| "the rest".to_owned(), |mib| human_bytes(mib << 20));
                write!(f, "/dev/{device}: volume, {size}")
            }
        }
    }
}

fn layer_device(layer: &Layer) -> &str {
    match layer {
        Layer::Raid { device, .. } | Layer::Luks { device, .. } | Layer::Volume { device, .. } => device,
        Layer::Group { .. } => "",
    }
}

/// What a device is a part of, in words.
fn part_of(layer: &Layer, device: &str) -> Option<String> {
    match layer {
        Layer::Raid { device: array, members, .. } if members.iter().any(|member| member == device) => {
            Some(format!("member of {array}"))
        }
        Layer::Luks { name, below, .. } if below == device => Some(format!("LUKS container `{name}`")),
        Layer::Group { name, members } if members.iter().any(|member| member == device) => {
            Some(format!("LVM group `{name}`"))
        }
        _ => None,
    }
}
