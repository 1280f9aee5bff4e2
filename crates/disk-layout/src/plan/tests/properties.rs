//! Any layout on any disk: aligned, apart, inside, the same every time.

use proptest::prelude::*;

use super::*;
use crate::{FoundPartition, Part, Size, choose};

fn any_layout() -> impl Strategy<Value = Layout> {
    let fixed = prop::collection::vec((0..4_u8, 260..3000_u64), 0..12);
    (fixed, 0..13_usize, prop::option::of(300..5000_u64)).prop_map(|(fixed, root_at, root_mib)| {
        let part = |role, mib| Part { role, size: Size::mib(mib), ..Part::default() };
        let mut singles = vec![PartitionRole::Swap, PartitionRole::Esp, PartitionRole::BiosBoot];
        let mut partitions: Vec<Part> = fixed
            .into_iter()
            .map(|(kind, mib)| match kind {
                0 => part(singles.pop().unwrap_or(PartitionRole::Data), mib),
                _ => part(PartitionRole::Data, mib),
            })
            .collect();
        partitions.insert(root_at.min(partitions.len()), part(PartitionRole::Root, root_mib.unwrap_or(0)));
        Layout { partitions, ..Layout::default() }
    })
}

/// A disk with a partition of an earlier deployment somewhere on it.
fn with_kept(size_bytes: u64, sector: u32, at: f64, mib: u64) -> Disk {
    let sectors_per_mib = MIB / u64::from(sector);
    let room = (size_bytes / MIB).saturating_sub(mib + 2);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let first_mib = 1 + (room as f64 * at) as u64;
    let kept = FoundPartition {
        name: "esir-keep-data".into(),
        guid: Uuid::from_bytes([5; 16]),
        first_lba: first_mib * sectors_per_mib,
        last_lba: (first_mib + mib) * sectors_per_mib - 1,
        signatures: vec!["ext4".into()],
    };
    Disk {
        signatures: vec!["esir".into(), "gpt".into()],
        partitions: vec![kept],
        ..disk(size_bytes / u64::from(sector) * u64::from(sector), sector)
    }
}

proptest! {
    #[test]
    fn partitions_are_aligned_apart_and_inside(
        layout in any_layout(),
        size_bytes in 0_u64..(64 << 30),
        sector in prop::sample::select(vec![512_u32, 4096]),
    ) {
        let disk = disk(size_bytes / u64::from(sector) * u64::from(sector), sector);
        match Plan::make(&layout, &disk, &SEEDS) {
            Err(error) => {
                // The oracle: a plan fails only for want of room.
                prop_assert!(matches!(error, PlanError::TooSmall { .. }), "{error}");
                prop_assert!(disk.size_bytes < layout.size_min_bytes(0));
            }
            Ok(plan) => {
                prop_assert_eq!(&plan, &Plan::make(&layout, &disk, &SEEDS).unwrap());
                let sectors = disk.size_bytes / u64::from(sector);
                let table = 16384 / u64::from(sector) + 1;
                let mut next_free = 1 + table;
                for (number, (planned, asked)) in plan.partitions().zip(&layout.partitions).enumerate() {
                    prop_assert_eq!(planned.number as usize, number + 1);
                    prop_assert!(planned.first_lba >= next_free);
                    prop_assert!(planned.last_lba >= planned.first_lba);
                    prop_assert_eq!(planned.first_lba * u64::from(sector) % MIB, 0);
                    if !asked.size.grows() {
                        prop_assert_eq!(planned.size_bytes(sector), asked.size.least_mib() * MIB);
                    }
                    next_free = planned.last_lba + 1;
                }
                prop_assert!(next_free <= sectors - table);
                if layout.partitions.iter().any(|part| part.size.grows()) {
                    // The growing one leaves less than an alignment step and the table.
                    prop_assert!(sectors - table - next_free < MIB / u64::from(sector));
                }
            }
        }
    }

    #[test]
    fn nothing_touches_what_is_kept(
        mut layout in any_layout(),
        size_mib in 2000_u64..(32 << 10),
        kept_mib in 1_u64..1900,
        at in 0.0..1.0,
        place_in_layout in 0..13_usize,
        sector in prop::sample::select(vec![512_u32, 4096]),
    ) {
        let part = Part { name: "data".into(), keep: true, size: Size::parse("1MiB..").unwrap(), ..Part::default() };
        for part in layout.partitions.iter_mut().filter(|part| part.size.grows()) {
            part.size = Size::mib(300);
        }
        layout.partitions.insert(place_in_layout.min(layout.partitions.len()), part);
        let disk = with_kept(size_mib * MIB, sector, at, kept_mib);
        let kept = &disk.partitions[0];
        let Ok(chosen) = choose(&layout, std::slice::from_ref(&disk)) else { return Ok(()) };
        match Plan::on(&layout, &chosen, &SEEDS) {
            Err(error) => prop_assert!(matches!(error, PlanError::TooSmall { .. }), "{error}"),
            Ok(plan) => {
                let mut extents: Vec<(u64, u64)> = plan.partitions().map(|one| (one.first_lba, one.last_lba)).collect();
                extents.sort_unstable();
                for pair in extents.windows(2) {
                    prop_assert!(pair[0].1 < pair[1].0, "{pair:?}");
                }
                prop_assert!(extents.last().unwrap().1 < disk.size_bytes / u64::from(sector) - 16384 / u64::from(sector) - 1);
                let stays = plan.partitions().find(|one| one.kept).unwrap();
                prop_assert_eq!((stays.first_lba, stays.last_lba, stays.guid), (kept.first_lba, kept.last_lba, kept.guid));
                prop_assert_eq!(stays.name.as_str(), "esir-keep-data");
            }
        }
    }

    #[test]
    fn layouts_survive_the_way_to_the_node(layout in any_layout()) {
        let text = serde_json::to_string(&layout).unwrap();
        prop_assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), layout);
    }

    #[test]
    fn derived_identities_differ_between_partitions(image_id: [u8; 32], fresh: [u8; 32]) {
        let layout = parse("partition = [{ role = 'root' }, { size_mib = 9 }, { role = 'esp', size_mib = 300 }]");
        let plan = Plan::make(&layout, &disk(8 << 30, 512), &Seeds { image_id, fresh }).unwrap();
        let mut ids: Vec<String> = plan.partitions().map(|one| one.guid.to_string()).collect();
        ids.extend(plan.file_systems().iter().map(|one| one.id.to_string()));
        let count = ids.len();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), count);
    }
}
