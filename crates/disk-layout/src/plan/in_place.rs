//! A plan for disks that are partitioned as it says already.

use uuid::Uuid;

use super::{FsId, Plan, PlannedDisk};
use crate::disk::Disk;
use crate::layout::PartitionRole;

impl Plan {
    /// The same plan with the partitions that `disks` have already, so that the root can stay; every other file system
    /// that is not kept is made anew. `root` is the UUID of the file system that the root has.
    ///
    /// `None` where anything of the table would have to change, and where the root is more than one file system on one
    /// partition: what lies below it then is made anew each time.
    #[must_use]
    pub fn in_place(mut self, disks: &[Disk], root: Uuid) -> Option<Self> {
        if self.is_stacked() {
            return None;
        }
        for planned in &mut self.disks {
            take_partitions(planned, disks.iter().find(|disk| disk.name == planned.name)?)?;
        }
        for one in &mut self.file_systems {
            match one.role {
                PartitionRole::Root if one.subvolumes.is_empty() && one.copies.is_empty() => {
                    one.id = FsId::Uuid(root);
                }
                PartitionRole::Esp | PartitionRole::Swap => {}
                _ if one.kept => {}
                _ => return None,
            }
        }
        Some(self)
    }
}

fn take_partitions(planned: &mut PlannedDisk, disk: &Disk) -> Option<()> {
    if planned.partitions.len() != disk.partitions.len() {
        return None;
    }
    for (one, found) in planned.partitions.iter_mut().zip(&disk.partitions) {
        let is_same = one.name == found.name
            && one.first_lba == found.first_lba
            && one.last_lba == found.last_lba
            && (!one.kept || one.guid == found.guid);
        if !is_same {
            return None;
        }
        one.guid = found.guid;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FoundPartition;
    use crate::layout::Layout;
    use crate::plan::Seeds;

    const ROOT: Uuid = Uuid::from_bytes([9; 16]);

    fn layout(text: &str) -> Layout {
        toml::from_str(text).unwrap()
    }

    fn disk() -> Disk {
        Disk { name: "sda".into(), size_bytes: 8 << 30, logical_sector_bytes: 512, ..Disk::default() }
    }

    fn plan(layout: &Layout, fresh: u8) -> Plan {
        Plan::make(layout, &disk(), &Seeds { image_id: [fresh; 32], fresh: [fresh; 32] }).unwrap()
    }

    /// A disk as this plan leaves it.
    fn after(plan: &Plan) -> Disk {
        let found = |one: &crate::PlannedPartition| FoundPartition {
            name: one.name.clone(),
            guid: one.guid,
            first_lba: one.first_lba,
            last_lba: one.last_lba,
            signatures: Vec::new(),
        };
        Disk { partitions: plan.partitions().map(found).collect(), ..disk() }
    }

    #[test]
    fn partitions_that_are_there_keep_their_guids_and_the_root_its_uuid() {
        let layout = Layout::default();
        let (old, new) = (plan(&layout, 1), plan(&layout, 2));
        let in_place = new.clone().in_place(&[after(&old)], ROOT).unwrap();
        let guids = |plan: &Plan| plan.partitions().map(|one| one.guid).collect::<Vec<_>>();
        assert_eq!(guids(&in_place), guids(&old));
        let id = |plan: &Plan, role| plan.file_system(role).unwrap().id;
        assert_eq!(id(&in_place, PartitionRole::Root), FsId::Uuid(ROOT));
        assert_eq!(id(&in_place, PartitionRole::Esp), id(&new, PartitionRole::Esp), "it is made anew");
        assert!(in_place.fstab().contains(&ROOT.to_string()));
    }

    #[test]
    fn another_table_or_another_shape_is_made_anew() {
        let layout_of_files = Layout::default();
        let old = after(&plan(&layout_of_files, 1));
        let check = |change: &dyn Fn(&mut Disk)| {
            let mut disk = old.clone();
            change(&mut disk);
            assert_eq!(plan(&layout_of_files, 2).in_place(&[disk], ROOT), None);
        };
        check(&|disk| drop(disk.partitions.pop()));
        check(&|disk| disk.partitions[0].name = "esir-esp".into());
        check(&|disk| disk.partitions[0].first_lba += 2048);
        check(&|disk| disk.partitions[1].last_lba -= 1);
        check(&|disk| disk.partitions.push(disk.partitions[0].clone()));
        check(&|disk| disk.name = "sdb".into());
        let boot = layout("partition = [{ role = \"boot\", size_mib = 512 }, { role = \"root\" }]");
        let plan = plan(&boot, 1);
        assert_eq!(plan.clone().in_place(&[after(&plan)], ROOT), None, "/boot is made anew");
    }
}
