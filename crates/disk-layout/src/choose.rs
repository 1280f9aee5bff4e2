//! The disks that a layout may be put on, or the reason why there are none.

use crate::disk::{Disk, OURS_SIGNATURE, human_bytes};
use crate::glob;
use crate::layout::{Layout, Pick, Selector, WipePolicy};

/// At most so many disks are listed in a message; servers with more have a rule that names one.
const LISTED_DISKS_MAX: usize = 24;

/// No disk may be written. Nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// The node has no disk at all.
    #[error("no disk was found; check controllers, cabling and drivers in the inventory")]
    NoDisk,
    /// Too few disks meet the rule.
    #[error("{}; found: {found}. Change the rule or the disk", few(.set, *.wanted, *.count))]
    NoMatch {
        /// Name of the set of disks; empty where there is one.
        set: String,
        /// How many were asked for.
        wanted: usize,
        /// How many meet the rule.
        count: usize,
        /// Every disk with the reason why it was not taken.
        found: String,
    },
    /// More disks meet the rule than are asked for.
    #[error("the layout's rule{} fits {count} disks: {candidates}. Name {wanted} by serial, wwn, path or size", of(.set))]
    Ambiguous {
        /// Name of the set of disks; empty where there is one.
        set: String,
        /// How many were asked for, in words.
        wanted: String,
        /// How many.
        count: usize,
        /// Each with serial and size.
        candidates: String,
    },
    /// A disk that meets the rule holds data that the wipe policy protects.
    #[error(
        "{disk} holds {contents}, which the wipe policy `{policy}` protects. Clear it, or approve with wipe = \"any\""
    )]
    Occupied {
        /// The disk.
        disk: String,
        /// What is on it.
        contents: String,
        /// The policy's word.
        policy: &'static str,
    },
    /// An earlier layout kept a partition that this one does not.
    #[error(
        "{disk} holds the partition {name:?}, which an earlier layout kept and this one does not. Keep it by \
         `name = {name:?}` and `keep = true`, or approve with wipe = \"any\""
    )]
    Kept {
        /// The disk.
        disk: String,
        /// The partition's name.
        name: String,
    },
}

fn of(set: &str) -> String {
    if set.is_empty() { String::new() } else { format!(" for the disks `{set}`") }
}

fn few(set: &str, wanted: usize, count: usize) -> String {
    match (wanted, count) {
        (1, _) => format!("no disk meets the layout's rule{}", of(set)),
        (_, count) => format!("{count} of {wanted} disks meet the layout's rule{}", of(set)),
    }
}

impl ChooseError {
    /// Whether more disks could change it: those that come late, or after a person plugged one in.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::NoDisk | Self::NoMatch { .. })
    }

    /// A short stable word for events and tests.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoDisk => "disk-none",
            Self::NoMatch { .. } => "disk-no-match",
            Self::Ambiguous { .. } => "disk-ambiguous",
            Self::Occupied { .. } => "disk-occupied",
            Self::Kept { .. } => "disk-kept",
        }
    }
}

/// Disks by the sets of a layout. The only ways to one are [`choose`] and [`Chosen::roomy`], whose disks exist nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub(crate) sets: Vec<Vec<Disk>>,
}

impl Chosen {
    /// Every disk, set by set.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.sets.iter().flatten()
    }

    /// Disks that every layout fits on that fits any: to check a layout where there is no node.
    #[must_use]
    pub fn roomy(layout: &Layout) -> Self {
        const ROOMY_BYTES: u64 = 1 << 50;
        let disk = |set: usize, number: u32| Disk {
            name: format!("set{set}-disk{number}"),
            size_bytes: ROOMY_BYTES,
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
            ..Disk::default()
        };
        let set = |(index, selector): (usize, &Selector)| {
            (0..selector.count.0.min(crate::check::DISKS_MAX)).map(|number| disk(index, number)).collect()
        };
        Self { sets: layout.disks.iter().enumerate().map(set).collect() }
    }
}

/// The disks that `layout` may be put on, set by set; within a set in the order of their paths.
///
/// Removable, write-protected and too small disks are never chosen, whatever the rule says.
///
/// # Errors
/// [`ChooseError`]: each a sentence that lists the disks in question and says what to do.
pub fn choose(layout: &Layout, disks: &[Disk]) -> Result<Chosen, ChooseError> {
    if disks.is_empty() {
        return Err(ChooseError::NoDisk);
    }
    let mut sets: Vec<Vec<Disk>> = Vec::new();
    for (index, selector) in layout.disks.iter().enumerate() {
        let taken = |disk: &Disk| sets.iter().flatten().any(|other| other.name == disk.name);
        let free: Vec<&Disk> = disks.iter().filter(|disk| !taken(disk)).collect();
        let chosen = choose_set(selector, layout.size_min_bytes(index), &free)?;
        for disk in &chosen {
            check_wipe(layout, index, disk)?;
        }
        sets.push(chosen);
    }
    Ok(Chosen { sets })
}

fn choose_set(selector: &Selector, bytes_min: u64, disks: &[&Disk]) -> Result<Vec<Disk>, ChooseError> {
    let wanted = selector.count.0 as usize;
    let mut fitting: Vec<&Disk> =
        disks.iter().copied().filter(|disk| objection(selector, bytes_min, disk).is_none()).collect();
    if fitting.len() < wanted {
        let found = list_with_reasons(selector, bytes_min, disks);
        return Err(ChooseError::NoMatch { set: selector.name.clone(), wanted, count: fitting.len(), found });
    }
    match selector.pick {
        Pick::Only => {}
        Pick::Smallest => fitting.sort_by_key(|disk| disk.size_bytes),
        Pick::Largest => fitting.sort_by_key(|disk| std::cmp::Reverse(disk.size_bytes)),
    }
    let bytes = |index: usize| fitting.get(index).map(|disk| disk.size_bytes);
    // One disk too many of the same size, and the choice would be a matter of chance.
    let last = wanted.checked_sub(1).and_then(bytes);
    let unclear = selector.pick == Pick::Only || bytes(wanted) == last;
    if fitting.len() > wanted && unclear {
        let candidates = match selector.pick {
            Pick::Only => fitting,
            // Those of another size were never in question.
            _ => fitting.into_iter().filter(|disk| Some(disk.size_bytes) == last).collect(),
        };
        return Err(ChooseError::Ambiguous {
            set: selector.name.clone(),
            wanted: if wanted == 1 { "one".to_owned() } else { wanted.to_string() },
            count: candidates.len(),
            candidates: list(&candidates),
        });
    }
    fitting.truncate(wanted);
    // Kernel names change with load order, paths with cables only.
    fitting.sort_by(|a, b| (&a.path, &a.name).cmp(&(&b.path, &b.name)));
    Ok(fitting.into_iter().cloned().collect())
}

/// Why a disk cannot be taken; `None` if it can.
fn objection(selector: &Selector, bytes_min: u64, disk: &Disk) -> Option<String> {
    let pattern = |pattern: &Option<String>, value: Option<&str>| {
        pattern.as_deref().is_none_or(|pattern| value.is_some_and(|value| glob::matches(pattern, value)))
    };
    let fails = |condition: bool, reason: &str| (!condition).then(|| reason.to_owned());
    fails(!disk.removable, "removable")
        .or_else(|| fails(!disk.read_only, "write-protected"))
        .or_else(|| {
            (disk.size_bytes < bytes_min)
                .then(|| format!("smaller than the {} that the layout needs", human_bytes(bytes_min)))
        })
        .or_else(|| fails(pattern(&selector.serial, disk.serial.as_deref()), "other serial"))
        .or_else(|| fails(pattern(&selector.wwn, disk.wwn.as_deref()), "other wwn"))
        .or_else(|| fails(pattern(&selector.model, disk.model.as_deref()), "other model"))
        .or_else(|| fails(pattern(&selector.path, Some(&disk.path)), "other path"))
        .or_else(|| {
            fails(selector.size_min_bytes.is_none_or(|min| disk.size_bytes >= min), "below size_min_bytes")
        })
        .or_else(|| {
            fails(selector.size_max_bytes.is_none_or(|max| disk.size_bytes <= max), "above size_max_bytes")
        })
        .or_else(|| {
            fails(selector.rotational.is_none_or(|wanted| disk.rotational == wanted), "other `rotational`")
        })
        .or_else(|| {
            fails(selector.transport.is_none_or(|wanted| disk.transport == wanted), "other transport")
        })
}

fn check_wipe(layout: &Layout, set: usize, disk: &Disk) -> Result<(), ChooseError> {
    let blank = disk.signatures.is_empty() && disk.partitions.is_empty();
    let ours = disk.signatures.iter().any(|signature| signature == OURS_SIGNATURE);
    let allowed = match layout.wipe {
        WipePolicy::Blank => blank,
        WipePolicy::Ours => blank || ours,
        WipePolicy::Any => true,
    };
    if !allowed {
        let policy = layout.wipe.word();
        return Err(ChooseError::Occupied { disk: disk.describe(), contents: disk.contents(), policy });
    }
    let forgotten = disk.kept().find(|(name, _)| !layout.keeps(set, name));
    match forgotten {
        Some((name, _)) if layout.wipe != WipePolicy::Any => {
            Err(ChooseError::Kept { disk: disk.describe(), name: name.to_owned() })
        }
        _ => Ok(()),
    }
}

fn list(disks: &[&Disk]) -> String {
    join_bounded(disks.iter().map(|disk| disk.describe()))
}

fn list_with_reasons(selector: &Selector, bytes_min: u64, disks: &[&Disk]) -> String {
    join_bounded(disks.iter().map(|disk| match objection(selector, bytes_min, disk) {
        Some(reason) => format!("{}: {reason}", disk.describe()),
        None => disk.describe(),
    }))
}

fn join_bounded(lines: impl ExactSizeIterator<Item = String>) -> String {
    let more = lines.len().saturating_sub(LISTED_DISKS_MAX);
    let mut lines: Vec<String> = lines.take(LISTED_DISKS_MAX).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FoundPartition, Transport};

    const GIB: u64 = 1 << 30;

    fn disk(name: &str, gib: u64) -> Disk {
        Disk {
            name: name.into(),
            serial: Some(format!("SER-{name}")),
            size_bytes: gib * GIB,
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
            transport: Transport::Ata,
            ..Disk::default()
        }
    }

    fn names(chosen: &Chosen) -> String {
        let set = |set: &Vec<Disk>| set.iter().map(|disk| disk.name.clone()).collect::<Vec<_>>().join(" ");
        chosen.sets.iter().map(set).collect::<Vec<_>>().join(" + ")
    }

    /// Which disk a layout in TOML takes from these disks, or the code of the refusal.
    fn check(layout: &str, disks: &[Disk], expected: Result<&str, &str>) {
        let layout: Layout = toml::from_str(layout).unwrap();
        let chosen = choose(&layout, disks);
        assert_eq!(
            chosen.as_ref().map(names).map_err(|error| error.code()),
            expected.map(str::to_owned),
            "{chosen:?}"
        );
    }

    #[test]
    fn one_fixed_disk_is_taken_without_any_rule() {
        check("", &[disk("sda", 8)], Ok("sda"));
        check("", &[], Err("disk-none"));
    }

    #[test]
    fn removable_protected_and_small_disks_are_never_taken() {
        let usb = Disk { removable: true, ..disk("sdb", 8) };
        let protected = Disk { read_only: true, ..disk("sdc", 8) };
        let small = Disk { size_bytes: GIB / 4, ..disk("sdd", 1) };
        check("", &[usb.clone(), disk("sda", 8), protected.clone(), small.clone()], Ok("sda"));
        check("", &[usb, protected, small], Err("disk-no-match"));
    }

    #[test]
    fn two_matches_stop_with_serial_and_size_of_both() {
        let disks = [disk("sda", 8), disk("sdb", 16)];
        check("", &disks, Err("disk-ambiguous"));
        let text = choose(&Layout::default(), &disks).unwrap_err().to_string();
        assert!(
            text.contains("sda (8.0 GiB, serial SER-sda)") && text.contains("sdb (16.0 GiB, serial SER-sdb)")
        );
        check("[disk]\npick = 'smallest'", &disks, Ok("sda"));
        check("[disk]\npick = 'largest'", &disks, Ok("sdb"));
        check("[disk]\npick = 'largest'", &[disk("sda", 8), disk("sdb", 8)], Err("disk-ambiguous"));
    }

    #[test]
    fn conditions_must_all_hold() {
        let disks = [disk("sda", 8), Disk { transport: Transport::Nvme, ..disk("nvme0n1", 8) }];
        check("[disk]\nserial = 'SER-sd*'", &disks, Ok("sda"));
        check("[disk]\ntransport = 'nvme'", &disks, Ok("nvme0n1"));
        check("[disk]\ntransport = 'nvme'\nserial = 'SER-sd*'", &disks, Err("disk-no-match"));
        check("[disk]\nwwn = 'eui.*'", &disks, Err("disk-no-match"));
        check("[disk]\nsize_min_bytes = 9000000000", &disks, Err("disk-no-match"));
    }

    #[test]
    fn foreign_data_needs_an_explicit_policy() {
        let with = |signatures: &[&str]| {
            [Disk { signatures: signatures.iter().map(|s| (*s).into()).collect(), ..disk("sda", 8) }]
        };
        check("wipe = 'blank'", &with(&[]), Ok("sda"));
        check("wipe = 'blank'", &with(&["gpt", "esir"]), Err("disk-occupied"));
        check("wipe = 'ours'", &with(&["gpt", "esir"]), Ok("sda"));
        check("wipe = 'ours'", &with(&["gpt"]), Err("disk-occupied"));
        check("wipe = 'any'", &with(&["LVM2_member"]), Ok("sda"));
    }

    #[test]
    fn sets_take_as_many_as_they_ask_for_and_no_disk_twice() {
        let nvme = |name: &str, gib| Disk { transport: Transport::Nvme, ..disk(name, gib) };
        let disks = [disk("sda", 16), nvme("nvme1n1", 8), disk("sdb", 64), nvme("nvme0n1", 8)];
        let two = "[[disk]]\nname = 'system'\ntransport = 'nvme'\ncount = 2\n";
        check(two, &disks, Ok("nvme0n1 nvme1n1"));
        check(
            &format!("{two}[[disk]]\nname = 'bulk'\npick = 'largest'\n"),
            &disks,
            Ok("nvme0n1 nvme1n1 + sdb"),
        );
        check(&format!("{two}[[disk]]\nname = 'bulk'\n"), &disks, Err("disk-ambiguous"));
        check("[disk]\ntransport = 'nvme'\ncount = 3\n", &disks, Err("disk-no-match"));
        check("[disk]\npick = 'smallest'\ncount = 2\n", &disks, Ok("nvme0n1 nvme1n1"));
        check("[disk]\npick = 'smallest'\ncount = 1\n", &disks, Err("disk-ambiguous"));
        check("[disk]\npick = 'smallest'\ncount = 3\n", &disks, Ok("nvme0n1 nvme1n1 sda"));
        check("[disk]\nsize_min = '60GB'\n", &disks, Ok("sdb"));
    }

    #[test]
    fn what_an_earlier_layout_kept_is_wiped_by_order_only() {
        let found = |name: &str| FoundPartition { name: name.into(), ..FoundPartition::default() };
        let kept = [Disk {
            signatures: vec!["esir".into(), "gpt".into()],
            partitions: vec![found("esir-root"), found("esir-keep-data")],
            ..disk("sda", 8)
        }];
        check("", &kept, Err("disk-kept"));
        check("wipe = 'any'", &kept, Ok("sda"));
        let keeps =
            "partition = [{ role = 'root' }, { name = 'data', keep = true, size = '1GiB', mount = '/data' }]";
        check(keeps, &kept, Ok("sda"));
    }

    #[test]
    fn what_is_found_on_a_disk_is_named() {
        let found = |name: &str, holds: &[&str]| FoundPartition {
            name: name.into(),
            signatures: holds.iter().map(|word| (*word).into()).collect(),
            ..FoundPartition::default()
        };
        let disk = Disk {
            signatures: vec!["gpt".into()],
            partitions: vec![found("EFI", &["vfat"]), found("", &["LVM2_member"]), found("x", &[])],
            ..disk("sda", 8)
        };
        let text = choose(&Layout::default(), &[disk]).unwrap_err().to_string();
        let wanted = "holds gpt with \"EFI\" (vfat), \"\" (LVM2_member), \"x\" (nothing known), which";
        assert!(text.contains(wanted), "{text}");
    }
}
