//! What is wrong with a layout by itself, whatever the disks: every problem at once.

use std::fmt;

use crate::layout::{FileSystem, Layout, Metadata, Part, PartitionRole, UuidRule, WipePolicy};

/// Entries in a GPT that every firmware reads (UEFI 2.10 section 5.3.1).
const PARTITIONS_MAX: usize = 128;
/// More than any machine has in one shelf, and than any array should have members.
pub(crate) const DISKS_MAX: u32 = 64;
/// Arrays, containers and volumes of one layout.
const DEVICES_MAX: usize = 64;
/// A GPT name has 36 characters; `esir-keep-` and the like take eleven.
const NAME_MAX: usize = 24;
/// A line of fstab should stay readable.
const OPTIONS_MAX: usize = 200;

/// Which of a layout's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `[[layout.disk]]`
    Disk,
    /// `[[layout.partition]]`
    Partition,
    /// `[[layout.raid]]`
    Raid,
    /// `[[layout.luks]]`
    Luks,
    /// `[[layout.volume]]`
    Volume,
}

impl Kind {
    /// The table's name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Partition => "partition",
            Self::Raid => "raid",
            Self::Luks => "luks",
            Self::Volume => "volume",
        }
    }
}

/// One thing that is wrong with a layout, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which table; `None` for the layout as a whole.
    pub place: Option<(Kind, usize)>,
    /// Which word of it, empty for all of it.
    pub key: &'static str,
    /// In words.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((kind, index)) = self.place {
            write!(f, "{} {}: ", kind.word(), index + 1)?;
        }
        f.write_str(&self.text)
    }
}

impl Layout {
    /// Everything that is wrong with this layout by itself; empty if it can be planned on disks that are large enough.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check { layout: self, problems: Vec::new() };
        check.sets();
        check.names();
        for (kind, index, part) in self.parts() {
            check.words_of_kind(kind, index, part);
            check.content(kind, index, part);
        }
        check.references();
        check.arrays();
        check.counts();
        check.mounts();
        check.boot();
        check.problems.sort_by_key(|problem| problem.place);
        check.problems
    }

    /// Every part with its place, in the order in which they are made.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Kind, usize, &Part)> {
        numbered(Kind::Partition, &self.partitions)
            .chain(numbered(Kind::Raid, &self.raids))
            .chain(numbered(Kind::Luks, &self.luks))
            .chain(numbered(Kind::Volume, &self.volumes))
    }

    /// The set of disks that a partition is on.
    pub(crate) fn set_of(&self, part: &Part) -> Option<usize> {
        match &part.disk {
            None => Some(0),
            Some(name) => self.disks.iter().position(|set| set.name == *name),
        }
    }

    /// Whether a partition of this name is kept on this set of disks.
    pub(crate) fn keeps(&self, set: usize, name: &str) -> bool {
        self.partitions.iter().any(|part| part.keep && part.name == name && self.set_of(part) == Some(set))
    }

    /// What LUKS containers need to be asked keys for, by name.
    pub fn key_names(&self) -> impl Iterator<Item = &str> {
        self.luks.iter().map(|part| part.name.as_str())
    }
}

fn numbered(kind: Kind, parts: &[Part]) -> impl Iterator<Item = (Kind, usize, &Part)> {
    parts.iter().enumerate().map(move |(index, part)| (kind, index, part))
}

impl Part {
    /// What it is a part of, in place of a file system.
    pub(crate) fn member_of(&self) -> Option<(&'static str, &str)> {
        let words = [("raid", &self.raid), ("lvm", &self.lvm), ("luks", &self.luks)];
        words.into_iter().find_map(|(word, name)| Some((word, name.as_deref()?)))
    }

    /// The file system that is made on it, if it has one.
    pub(crate) fn file_system(&self) -> Option<FileSystem> {
        if self.member_of().is_some() {
            return None;
        }
        let usual = match self.role {
            PartitionRole::BiosBoot => return None,
            PartitionRole::Esp => FileSystem::Vfat,
            PartitionRole::Boot | PartitionRole::Root | PartitionRole::Data => FileSystem::Ext4,
            PartitionRole::Swap => FileSystem::Swap,
        };
        Some(self.fs.unwrap_or(usual))
    }

    /// Where its file system as a whole is mounted.
    pub(crate) fn mount_point(&self) -> Option<String> {
        if self.file_system().is_none_or(|fs| fs == FileSystem::Swap) {
            return None;
        }
        let usual = match self.role {
            PartitionRole::Root => Some("/"),
            PartitionRole::Esp => Some("/boot/efi"),
            PartitionRole::Boot => Some("/boot"),
            _ => None,
        };
        let mount = self.mount.as_deref().or(usual)?;
        // A subvolume that is mounted there takes the place of the whole.
        (!self.subvolumes.iter().any(|subvolume| subvolume.mount == mount)).then(|| mount.to_owned())
    }
}

struct Check<'a> {
    layout: &'a Layout,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn add(&mut self, place: impl Into<Option<(Kind, usize)>>, key: &'static str, text: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), key, text: text.into() });
    }

    fn sets(&mut self) {
        let sets = &self.layout.disks;
        if sets.is_empty() {
            self.add(None, "", "the layout names no disk; leave `disk` out for the only one");
        }
        for (index, set) in sets.iter().enumerate() {
            let place = (Kind::Disk, index);
            let count = set.count.0;
            if count == 0 || count > DISKS_MAX {
                self.add(
                    place,
                    "count",
                    format!("count = {count} is no number of disks; write 1 to {DISKS_MAX}"),
                );
            }
            let again = sets.iter().take(index).any(|other| other.name == set.name);
            if sets.len() > 1 && (set.name.is_empty() || again) {
                self.add(place, "name", "each set of disks needs a name of its own; write name = \"data\"");
            }
        }
    }

    fn names(&mut self) {
        let mut seen: Vec<(Kind, &str)> = Vec::new();
        for (kind, index, part) in self.layout.parts() {
            let place = (kind, index);
            let name = part.name.as_str();
            if name.is_empty() {
                if kind != Kind::Partition {
                    self.add(
                        place,
                        "name",
                        format!("a {} needs a name; write name = \"system\"", kind.word()),
                    );
                } else if part.keep {
                    self.add(place, "name", "what is kept is found by its name; write name = \"data\"");
                }
                continue;
            }
            self.name(place, "name", name);
            if seen.contains(&(kind, name)) {
                self.add(
                    place,
                    "name",
                    format!("the name {name:?} is there twice; each {} has its own", kind.word()),
                );
            }
            seen.push((kind, name));
        }
        for (index, part) in self.layout.volumes.iter().enumerate() {
            match &part.group {
                Some(group) => self.name((Kind::Volume, index), "group", group),
                None => self.add(
                    (Kind::Volume, index),
                    "group",
                    "a volume needs its group; write group = \"vg0\"",
                ),
            }
        }
        if self.layout.raids.len() + self.layout.luks.len() + self.layout.volumes.len() > DEVICES_MAX {
            self.add(None, "", format!("a layout has at most {DEVICES_MAX} arrays, containers and volumes"));
        }
        if self.layout.partitions.len() > PARTITIONS_MAX {
            let count = self.layout.partitions.len();
            self.add(
                None,
                "",
                format!("the layout has {count} partitions, a partition table holds {PARTITIONS_MAX}"),
            );
        }
    }

    /// Names become those of devices and words of configuration files.
    fn name(&mut self, place: (Kind, usize), key: &'static str, name: &str) {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || name.len() > NAME_MAX || !name.bytes().all(plain) {
            self.add(
                place,
                key,
                format!("{key} = {name:?} cannot be a device; write up to {NAME_MAX} of a-z, 0-9 and _, a letter first"),
            );
        }
    }

    /// Words that mean something in another table only.
    fn words_of_kind(&mut self, kind: Kind, index: usize, part: &Part) {
        let is = |wanted: Kind| kind == wanted;
        let given = [
            ("disk", part.disk.is_some(), is(Kind::Partition)),
            ("group", part.group.is_some(), is(Kind::Volume)),
            ("size", part.size != crate::Size::REST, is(Kind::Partition) || is(Kind::Volume)),
            ("metadata", part.metadata != Metadata::default(), is(Kind::Raid)),
            ("unlock", part.unlock != crate::Unlock::default(), is(Kind::Luks)),
            ("keep", part.keep, is(Kind::Partition)),
        ];
        for (word, given, fits) in given {
            if given && !fits {
                self.add(
                    (kind, index),
                    word,
                    format!("`{word}` means nothing for a {}; remove it", kind.word()),
                );
            }
        }
        if let Some(name) = part.disk.as_ref().filter(|_| self.layout.set_of(part).is_none()) {
            let sets: Vec<&str> = self.layout.disks.iter().map(|set| set.name.as_str()).collect();
            let text = format!("disk = {name:?} is no set of disks of this layout; it has {sets:?}");
            self.add((kind, index), "disk", text);
        }
    }

    /// Either a file system that fits the role, or a part of one other thing.
    fn content(&mut self, kind: Kind, index: usize, part: &Part) {
        let place = (kind, index);
        let words = [("raid", &part.raid), ("lvm", &part.lvm), ("luks", &part.luks)];
        let members: Vec<&str> =
            words.iter().filter(|(_, name)| name.is_some()).map(|(word, _)| *word).collect();
        if let [first, more @ ..] = members.as_slice() {
            for word in more {
                self.add(place, word, format!("it is a part of `{first}` already; remove `{word}`"));
            }
            self.member(place, first, part);
            return;
        }
        let role = part.role;
        let fits = matches!(
            (role, part.file_system()),
            (PartitionRole::BiosBoot, _)
                | (PartitionRole::Esp, Some(FileSystem::Vfat))
                | (PartitionRole::Swap, Some(FileSystem::Swap))
                | (
                    PartitionRole::Boot | PartitionRole::Root,
                    Some(FileSystem::Ext4 | FileSystem::Xfs | FileSystem::Btrfs)
                )
                | (PartitionRole::Data, Some(_))
        );
        if let Some(fs) = part.fs.filter(|_| !fits || role == PartitionRole::BiosBoot) {
            let text = format!(
                "a {} of role `{}` cannot have the file system `{}`",
                kind.word(),
                role.word(),
                fs.word()
            );
            self.add(place, "fs", text);
        }
        let fs = part.file_system();
        if part.mount.is_some() && matches!(fs, None | Some(FileSystem::Swap)) {
            self.add(
                place,
                "mount",
                format!("mount: a {} of role `{}` is mounted nowhere", kind.word(), role.word()),
            );
        }
        if !part.subvolumes.is_empty() && fs != Some(FileSystem::Btrfs) {
            self.add(place, "subvolumes", "only btrfs has subvolumes; write fs = \"btrfs\"");
        }
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        if part
            .options
            .as_ref()
            .is_some_and(|text| text.is_empty() || text.len() > OPTIONS_MAX || !text.bytes().all(plain))
        {
            self.add(
                place,
                "options",
                "options cannot stand in fstab; write words with commas between, such as \"noatime\"",
            );
        }
        if part.keep && role != PartitionRole::Data {
            self.add(
                place,
                "keep",
                format!("a partition of role `{}` belongs to the system; only `data` is kept", role.word()),
            );
        }
    }

    fn member(&mut self, place: (Kind, usize), word: &str, part: &Part) {
        let given = [
            ("role", part.role != PartitionRole::Data),
            ("fs", part.fs.is_some()),
            ("mount", part.mount.is_some()),
            ("options", part.options.is_some()),
            ("uuid", part.uuid != UuidRule::Image),
            ("subvolumes", !part.subvolumes.is_empty()),
            ("keep", part.keep),
        ];
        for (key, _) in given.into_iter().filter(|(_, given)| *given) {
            self.add(place, key, format!("`{key}` belongs to what lies on `{word}`; move it there"));
        }
        let allowed = match place.0 {
            Kind::Partition => true,
            Kind::Raid => word != "raid",
            Kind::Luks => word == "lvm",
            Kind::Volume => word == "luks",
            Kind::Disk => false,
        };
        if !allowed {
            self.add(place, "", format!("a {} cannot be a part of `{word}`", place.0.word()));
        }
    }

    fn references(&mut self) {
        let layout = self.layout;
        for (kind, index, part) in layout.parts() {
            let Some((word, name)) = part.member_of() else { continue };
            let known = match word {
                "raid" => layout.raids.iter().any(|raid| raid.name == name),
                "luks" => layout.luks.iter().any(|luks| luks.name == name),
                _ => layout.volumes.iter().any(|volume| volume.group.as_deref() == Some(name)),
            };
            if !known {
                let table = if word == "lvm" { "volume" } else { word };
                let key = if word == "lvm" { "group" } else { "name" };
                let text =
                    format!("{word} = {name:?} is nowhere; add [[layout.{table}]] with {key} = {name:?}");
                self.add((kind, index), "", text);
            }
        }
        for (index, luks) in layout.luks.iter().enumerate() {
            let holders =
                layout.parts().filter(|(_, _, part)| part.luks.as_deref() == Some(&luks.name)).count();
            if holders != 1 {
                let text = format!("luks = {:?} is on {holders} parts; exactly one must hold it", luks.name);
                self.add((Kind::Luks, index), "", text);
            }
        }
        for (index, volume) in layout.volumes.iter().enumerate() {
            let Some(group) = volume.group.as_deref() else { continue };
            if !layout.parts().any(|(_, _, part)| part.lvm.as_deref() == Some(group)) {
                let text =
                    format!("the group {group:?} has no disk space; write lvm = {group:?} at a partition");
                self.add((Kind::Volume, index), "group", text);
            }
        }
    }

    fn arrays(&mut self) {
        let layout = self.layout;
        for (index, raid) in layout.raids.iter().enumerate() {
            let members = layout.partitions.iter().filter(|part| part.raid.as_deref() == Some(&raid.name));
            let sets: Vec<Option<usize>> = members.map(|part| layout.set_of(part)).collect();
            let count =
                |set: &Option<usize>| set.and_then(|set| layout.disks.get(set)).map_or(0, |set| set.count.0);
            let members: u32 = sets.iter().map(count).fold(0, u32::saturating_add);
            let same_disk =
                sets.iter().enumerate().any(|(at, set)| sets.iter().take(at).any(|other| other == set));
            if members < 2 || same_disk {
                let text = "an array needs a partition on each of two disks or more; write count = 2 for its disks and \
                            one partition for it";
                self.add((Kind::Raid, index), "", text);
            }
            if raid.role == PartitionRole::Esp && raid.metadata != Metadata::V1_0 {
                self.add(
                    (Kind::Raid, index),
                    "metadata",
                    "firmware reads each half of an ESP by itself; write metadata = \"1.0\"",
                );
            }
        }
        for (index, part) in layout.partitions.iter().enumerate() {
            let several =
                layout.set_of(part).and_then(|set| layout.disks.get(set)).is_some_and(|set| set.count.0 > 1);
            let copied = matches!(part.role, PartitionRole::Esp | PartitionRole::BiosBoot);
            if several && !copied && part.raid.is_none() && part.lvm.is_none() {
                let text = "it is on several disks, which hold one file system only as an array or a group; write raid = \
                            \"NAME\" or lvm = \"NAME\"";
                self.add((Kind::Partition, index), "", text);
            }
        }
    }

    fn counts(&mut self) {
        let layout = self.layout;
        let count = |role| {
            layout.parts().filter(|(_, _, part)| part.member_of().is_none() && part.role == role).count()
        };
        let roots = count(PartitionRole::Root);
        if roots != 1 {
            self.add(
                None,
                "",
                format!("the layout has {roots} partitions of role `root`, it must have exactly one"),
            );
        }
        for role in [PartitionRole::BiosBoot, PartitionRole::Esp, PartitionRole::Boot] {
            let count = count(role);
            if count > 1 {
                let text = format!(
                    "the layout has {count} partitions of role `{}`, it must have at most one",
                    role.word()
                );
                self.add(None, "", text);
            }
        }
        for (kind, index, part) in layout.parts() {
            let right = match part.role {
                PartitionRole::BiosBoot => kind == Kind::Partition,
                PartitionRole::Esp => matches!(kind, Kind::Partition | Kind::Raid),
                PartitionRole::Boot => kind != Kind::Luks,
                _ => true,
            };
            if !right {
                let text = format!(
                    "firmware and boot loaders find no `{}` on a {}; make it a partition",
                    part.role.word(),
                    kind.word()
                );
                self.add((kind, index), "role", text);
            }
        }
        let mut growing: Vec<(Kind, String, usize)> = Vec::new();
        for (kind, index, part) in layout.parts().filter(|(_, _, part)| part.size.grows()) {
            let whole = match kind {
                Kind::Partition => layout.set_of(part).unwrap_or(usize::MAX).to_string(),
                Kind::Volume => part.group.clone().unwrap_or_default(),
                _ => continue,
            };
            if let Some((_, _, first)) = growing.iter().find(|(of, name, _)| *of == kind && *name == whole) {
                let (first, word) = (first + 1, kind.word());
                let text = format!(
                    "{word}s {first} and {} both take the rest; only one can, write size = \"10GiB\"",
                    index + 1
                );
                self.add((kind, index), "size", text);
            } else {
                growing.push((kind, whole, index));
            }
        }
    }

    fn mounts(&mut self) {
        let layout = self.layout;
        let mut seen: Vec<String> = Vec::new();
        for (kind, index, part) in layout.parts() {
            let wanted = match (part.role, part.mount.as_deref()) {
                (PartitionRole::Root, Some(mount)) if mount != "/" => Some(("/", mount)),
                (PartitionRole::Boot, Some(mount)) if mount != "/boot" => Some(("/boot", mount)),
                _ => None,
            };
            if let Some((wanted, mount)) = wanted {
                let text = format!(
                    "mount = {mount:?}: role `{}` is mounted on {wanted}; remove it",
                    part.role.word()
                );
                self.add((kind, index), "mount", text);
                continue;
            }
            let whole = part.mount_point().map(|mount| ("mount", mount));
            let subvolumes = part.subvolumes.iter().map(|subvolume| ("subvolumes", subvolume.mount.clone()));
            for (key, mount) in whole.into_iter().chain(subvolumes) {
                let of_root = part.role == PartitionRole::Root && mount == "/";
                let problem = if seen.contains(&mount) {
                    Some("is used twice")
                } else if of_root {
                    None
                } else {
                    mount_problem(&mount)
                };
                if let Some(problem) = problem {
                    self.add((kind, index), key, format!("mount = {mount:?} {problem}"));
                }
                seen.push(mount);
            }
            for subvolume in &part.subvolumes {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@_-.".contains(&byte);
                let name = &subvolume.name;
                if name.is_empty()
                    || name.len() > NAME_MAX
                    || name.starts_with(['.', '-'])
                    || !name.bytes().all(plain)
                {
                    let text = format!(
                        "subvolume {name:?} needs another name; write letters, digits and @ _ - . such as \"@home\""
                    );
                    self.add((kind, index), "subvolumes", text);
                }
            }
        }
    }

    /// The boot loader has to get at kernels by itself.
    fn boot(&mut self) {
        let layout = self.layout;
        let has_boot =
            layout.parts().any(|(_, _, part)| part.role == PartitionRole::Boot && part.member_of().is_none());
        let root = layout
            .parts()
            .find(|(_, _, part)| part.role == PartitionRole::Root && part.member_of().is_none());
        if let Some((kind, index, part)) = root.filter(|_| !has_boot && self.is_encrypted(root)) {
            let _ = part;
            let text = "the boot loader cannot read an encrypted root; add a partition with role = \"boot\"";
            self.add((kind, index), "role", text);
        }
        let keeps = layout.partitions.iter().position(|part| part.keep);
        if let Some(index) = keeps.filter(|_| layout.wipe == WipePolicy::Blank) {
            let text = "`wipe = \"blank\"` lets no second deployment happen, so nothing can be kept; write wipe = \"ours\"";
            self.add((Kind::Partition, index), "keep", text);
        }
    }

    fn is_encrypted(&self, of: Option<(Kind, usize, &Part)>) -> bool {
        let Some((kind, _, part)) = of else { return false };
        match kind {
            Kind::Luks => true,
            Kind::Volume => self.layout.luks.iter().any(|luks| luks.lvm.is_some() && luks.lvm == part.group),
            _ => false,
        }
    }
}

/// fstab is a line of words, and the path is used beneath the new root: nothing else may get through.
fn mount_problem(mount: &str) -> Option<&'static str> {
    let Some(relative) = mount.strip_prefix('/') else {
        return Some("must begin with /");
    };
    if relative.is_empty() {
        return Some("belongs to the part of role `root`");
    }
    if relative.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Some("must be a plain path without empty parts, `.` or `..`");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    (!mount.chars().all(plain)).then_some("must consist of letters, digits and / . _ - + @ :")
}

#[cfg(test)]
mod tests;
