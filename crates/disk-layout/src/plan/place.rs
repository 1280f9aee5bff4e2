//! Where partitions lie: around what is kept, in the layout's order, on whole MiB.

use super::{MIB, PlanError};
use crate::disk::{Disk, human_bytes};
use crate::layout::{Layout, Part, Size};

/// A GPT that every firmware reads has 128 entries of 128 bytes (UEFI 2.10 section 5.3.1).
const GPT_ENTRY_ARRAY_BYTES: u64 = 128 * 128;

/// First MiB and number of MiB.
pub(super) type Extent = (u64, u64);

/// A stretch of the disk that nothing kept lies in.
struct Gap {
    first_mib: u64,
    free_mib: u64,
    /// Which of the wanted go here, in their order.
    taken: Vec<usize>,
}

impl Layout {
    /// The smallest disk that this layout's set of this number fits on, bytes: partitions, the least for a growing one,
    /// and both partition tables.
    #[must_use]
    pub fn size_min_bytes(&self, set: usize) -> u64 {
        let here = self.partitions.iter().filter(|part| self.set_of(part) == Some(set));
        let mib = here.fold(0_u64, |sum, part: &Part| sum.saturating_add(part.size.least_mib()));
        // One MiB before the first partition and, for the second table, one after the last.
        mib.saturating_add(2).saturating_mul(MIB)
    }
}

/// Places partitions of these sizes on `disk`, around the `kept` extents, in MiB.
///
/// Each goes into the first stretch with room for it; within a stretch the order is that of the layout. What grows goes
/// where most is left.
pub(super) fn place(wanted: &[Size], kept: &[Extent], disk: &Disk) -> Result<Vec<Extent>, PlanError> {
    let too_small = || {
        let least = wanted.iter().fold(2_u64, |sum, size| sum.saturating_add(size.least_mib()));
        let least = kept.iter().fold(least, |sum, (_, mib)| sum.saturating_add(*mib));
        PlanError::TooSmall {
            disk: disk.name.clone(),
            needed: human_bytes(least.saturating_mul(MIB)),
            have: human_bytes(disk.size_bytes),
        }
    };
    let mut gaps = gaps(kept, disk);
    let fixed_first = (0..wanted.len()).filter(|index| !grows(wanted, *index));
    let growing = (0..wanted.len()).filter(|index| grows(wanted, *index));
    for index in fixed_first.chain(growing) {
        let need = wanted.get(index).map_or(0, |size| size.least_mib());
        let roomy = |gap: &&mut Gap| gap.free_mib >= need;
        let gap = if grows(wanted, index) {
            gaps.iter_mut().filter(roomy).max_by_key(|gap| (gap.free_mib, std::cmp::Reverse(gap.first_mib)))
        } else {
            gaps.iter_mut().find(roomy)
        };
        let gap = gap.ok_or_else(too_small)?;
        gap.taken.push(index);
        gap.free_mib -= need;
    }
    let mut extents = vec![(0, 0); wanted.len()];
    for mut gap in gaps {
        gap.taken.sort_unstable();
        let mut next_mib = gap.first_mib;
        for index in gap.taken {
            let Some((size, extent)) = wanted.get(index).zip(extents.get_mut(index)) else { continue };
            let mib = size.least_mib() + if size.grows() { gap.free_mib } else { 0 };
            *extent = (next_mib, mib);
            next_mib += mib;
        }
    }
    Ok(extents)
}

fn grows(wanted: &[Size], index: usize) -> bool {
    wanted.get(index).is_some_and(|size| size.grows())
}

/// From the first MiB, which has the table, to the last whole one before the second table.
fn gaps(kept: &[Extent], disk: &Disk) -> Vec<Gap> {
    // The second table: entry array and one header sector at the very end.
    let tail_bytes = GPT_ENTRY_ARRAY_BYTES + u64::from(disk.logical_sector_bytes);
    let end_mib = disk.size_bytes.saturating_sub(tail_bytes) / MIB;
    let mut kept: Vec<Extent> = kept.to_vec();
    kept.sort_unstable();
    let mut gaps = Vec::new();
    let mut first_mib = 1;
    for (start, mib) in kept.into_iter().chain([(end_mib, 0)]) {
        let free_mib = start.saturating_sub(first_mib);
        gaps.push(Gap { first_mib, free_mib, taken: Vec::new() });
        first_mib = first_mib.max(start.saturating_add(mib));
    }
    gaps
}
