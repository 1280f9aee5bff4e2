//! The one disk that a layout may be put on, or the reason why there is none.

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
    /// No disk meets the rule.
    #[error("no disk meets the layout's rule; found: {found}. Change the rule or the disk")]
    NoMatch {
        /// Every disk with the reason why it was not taken.
        found: String,
    },
    /// Several disks meet the rule.
    #[error("the layout's rule fits {count} disks: {candidates}. Name one by serial, wwn, path or size")]
    Ambiguous {
        /// How many.
        count: usize,
        /// Each with serial and size.
        candidates: String,
    },
    /// The one disk that meets the rule holds data that the wipe policy protects.
    #[error(
        "{disk} holds {signatures}, which the wipe policy `{policy}` protects. Clear it, or approve with wipe = \"any\""
    )]
    Occupied {
        /// The disk.
        disk: String,
        /// What is on it.
        signatures: String,
        /// The policy's word.
        policy: &'static str,
    },
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
        }
    }
}

/// The one disk of `disks` that `layout` may be put on.
///
/// Removable, write-protected and too small disks are never chosen, whatever the rule says.
///
/// # Errors
/// [`ChooseError`]: each a sentence that lists the disks in question and says what to do.
pub fn choose<'a>(layout: &Layout, disks: &'a [Disk]) -> Result<&'a Disk, ChooseError> {
    if disks.is_empty() {
        return Err(ChooseError::NoDisk);
    }
    let bytes_min = layout.size_min_bytes();
    let fitting: Vec<&Disk> =
        disks.iter().filter(|disk| objection(&layout.disk, bytes_min, disk).is_none()).collect();
    let picked = pick(layout.disk.pick, fitting);
    match picked.as_slice() {
        [] => Err(ChooseError::NoMatch { found: list_with_reasons(&layout.disk, bytes_min, disks) }),
        [disk] => check_wipe(layout.wipe, disk).map(|()| *disk),
        several => Err(ChooseError::Ambiguous { count: several.len(), candidates: list(several) }),
    }
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

/// Those of `disks` that `pick` leaves; two of the same size both stay, so that the caller stops.
fn pick(pick: Pick, disks: Vec<&Disk>) -> Vec<&Disk> {
    let sizes = disks.iter().map(|disk| disk.size_bytes);
    let wanted = match pick {
        Pick::Only => return disks,
        Pick::Smallest => sizes.min(),
        Pick::Largest => sizes.max(),
    };
    disks.into_iter().filter(|disk| Some(disk.size_bytes) == wanted).collect()
}

fn check_wipe(policy: WipePolicy, disk: &Disk) -> Result<(), ChooseError> {
    let blank = disk.signatures.is_empty();
    let ours = disk.signatures.iter().any(|signature| signature == OURS_SIGNATURE);
    let (allowed, policy) = match policy {
        WipePolicy::Blank => (blank, "blank"),
        WipePolicy::Ours => (blank || ours, "ours"),
        WipePolicy::Any => (true, "any"),
    };
    if allowed {
        return Ok(());
    }
    Err(ChooseError::Occupied { disk: disk.describe(), signatures: disk.signatures.join(", "), policy })
}

fn list(disks: &[&Disk]) -> String {
    join_bounded(disks.iter().map(|disk| disk.describe()))
}

fn list_with_reasons(selector: &Selector, bytes_min: u64, disks: &[Disk]) -> String {
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
    use crate::Transport;

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

    /// Which disk a layout in TOML takes from these disks, or the code of the refusal.
    fn check(layout: &str, disks: &[Disk], expected: Result<&str, &str>) {
        let layout: Layout = toml::from_str(layout).unwrap();
        let chosen = choose(&layout, disks);
        assert_eq!(
            chosen.as_ref().map(|disk| disk.name.as_str()).map_err(|error| error.code()),
            expected,
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
}
