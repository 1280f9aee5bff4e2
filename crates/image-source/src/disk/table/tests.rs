use super::{PartitionType, find_partitions};

/// Type, first sector, sectors.
type Entry = (u8, u32, u32);

/// A disk of 1 MiB with tables in these sectors.
fn mbr(entries: &[(u64, [Entry; 4])]) -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    for (sector, entries) in entries {
        let at = usize::try_from(sector * 512).unwrap();
        for (number, (kind, first, count)) in entries.iter().enumerate() {
            let at = at + 446 + 16 * number;
            disk[at + 4] = *kind;
            disk[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            disk[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        }
        disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xAA]);
    }
    disk[440..444].copy_from_slice(&0xDEAD_BEEF_u32.to_le_bytes());
    disk
}

fn found(disk: &[u8]) -> Result<Vec<(u32, u64, u64)>, String> {
    let read = |offset: u64, bytes: &mut [u8]| {
        let offset = usize::try_from(offset).unwrap();
        bytes.copy_from_slice(&disk[offset..offset + bytes.len()]);
        Ok(())
    };
    let text = |error: crate::SourceError| error.to_string();
    let table = find_partitions(&read, disk.len() as u64).map_err(text)?;
    Ok(table.partitions.iter().map(|it| (it.number, it.start / 512, it.len / 512)).collect())
}

#[test]
fn logical_partitions_are_numbered_from_five() {
    let none = (0, 0, 0);
    let disk = mbr(&[
        (0, [(0x83, 8, 8), (0x0F, 100, 1000), none, none]),
        (100, [(0x83, 2, 10), (0x05, 200, 100), none, none]),
        (300, [(0x82, 4, 20), none, none, none]),
    ]);
    assert_eq!(found(&disk), Ok(vec![(1, 8, 8), (5, 102, 10), (6, 304, 20)]));
    // A chain that leads to itself ends.
    let disk = mbr(&[(0, [(0x0F, 100, 1000), none, none, none]), (100, [none, (0x05, 0, 1), none, none])]);
    assert_eq!(found(&disk), Ok(vec![]));
}

#[test]
fn impossible_tables_are_refused_by_name() {
    let none = (0, 0, 0);
    let error = found(&mbr(&[(0, [(0x83, 8, 5000), none, none, none])])).unwrap_err();
    assert!(error.contains("partition 1 ends behind the disk's end"), "{error}");
    let error = found(&mbr(&[(0, [(0x83, 8, 50), (0x83, 20, 5), none, none])])).unwrap_err();
    assert!(error.contains("over each other"), "{error}");
    let error = found(&mbr(&[(0, [(0xEE, 1, 2047), none, none, none])])).unwrap_err();
    assert!(error.contains("no GPT"), "{error}");
    assert_eq!(found(&[0; 4096]), Ok(vec![(0, 0, 8)]));
    assert_eq!(PartitionType::Whole, super::whole(1).kind);
}
