//! Tells UEFI firmware of the installed system: one boot entry, right behind the one that booted us.
//!
//! Best effort, because firmware loses or refuses entries and the removable path boots without one. The entry
//! that booted us, the network, stays first unless the task says otherwise: the server decides at each start what a
//! node boots.

use std::io;
use std::path::Path;

use disk_layout::{PartitionRole, Plan, PlannedPartition};
use node_api::BootOrder;

/// What firmware menus show; also how our entry is found again.
const LABEL: &str = "ESIR";
/// The removable-path loader, as firmware writes paths.
const LOADER: &str = "\\EFI\\BOOT\\BOOTX64.EFI";
/// Where the kernel shows the variables.
const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// `EFI_GLOBAL_VARIABLE` (UEFI 2.10 section 3.3).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, boot service and runtime access (section 8.2).
const ATTRIBUTES: u32 = 7;
/// `LOAD_OPTION_ACTIVE` (section 3.1.3).
const ACTIVE: u32 = 1;

/// Writes the entry and the boot order, and says in words what it did.
///
/// # Errors
/// The firmware shows no variables, has no room for more, or refuses.
pub(super) fn write_boot_entry(plan: &Plan, policy: BootOrder) -> io::Result<String> {
    write_boot_entry_below(Path::new(VARIABLES), plan, policy)
}

fn write_boot_entry_below(variables: &Path, plan: &Plan, policy: BootOrder) -> io::Result<String> {
    if policy == BootOrder::Untouched {
        return Ok("the boot order stays untouched".into());
    }
    let Some(esp) = plan.find(PartitionRole::Esp) else { return Ok("no ESP, so no boot entry".into()) };
    let option = load_option(esp);
    let order = words(&read(variables, "BootOrder")?.unwrap_or_default());
    let current = words(&read(variables, "BootCurrent")?.unwrap_or_default()).first().copied();
    let ours = our_number(variables)?;
    write_if_new(variables, &entry_name(ours), &option)?;
    let first = current.filter(|_| policy == BootOrder::NetworkFirst);
    let wanted = new_order(&order, first, ours);
    let bytes: Vec<u8> = wanted.iter().flat_map(|number| number.to_le_bytes()).collect();
    write_if_new(variables, "BootOrder", &bytes)?;
    let wanted: Vec<String> = wanted.iter().map(|number| format!("{number:04X}")).collect();
    Ok(format!("boot entry {ours:04X}, boot order {}", wanted.join(",")))
}

/// What is to stay first, then ours, then the rest as it was.
fn new_order(order: &[u16], current: Option<u16>, ours: u16) -> Vec<u16> {
    let current = current.filter(|number| *number != ours);
    let rest = order.iter().copied().filter(|number| *number != ours && Some(*number) != current);
    current.into_iter().chain([ours]).chain(rest).collect()
}

/// The number of an entry of ours, else the lowest that is free.
fn our_number(variables: &Path) -> io::Result<u16> {
    let label = ucs2(LABEL);
    let mut free = None;
    for number in 0..=u16::MAX {
        match read(variables, &entry_name(number))? {
            // Attributes and length of the path list take six bytes before the label.
            Some(option) if option.get(6..).is_some_and(|rest| rest.starts_with(&label)) => {
                return Ok(number);
            }
            Some(_) => {}
            None if free.is_none() => free = Some(number),
            // Firmware numbers its entries from 0 without large gaps; ours would be among the first.
            None if number > 0xff => break,
            None => {}
        }
    }
    free.ok_or_else(|| io::Error::other("all boot entries are taken"))
}

fn entry_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

/// `EFI_LOAD_OPTION` (section 3.1.3) with a path of two nodes: hard drive, file (section 10.3.5).
fn load_option(esp: &PlannedPartition) -> Vec<u8> {
    let mut drive = vec![4, 1, 42, 0];
    drive.extend(esp.number.to_le_bytes());
    drive.extend(esp.first_lba.to_le_bytes());
    drive.extend((esp.last_lba - esp.first_lba + 1).to_le_bytes());
    drive.extend(esp.guid.to_bytes_le());
    // Partition table: GPT; signature: GUID.
    drive.extend([2, 2]);
    let name = ucs2(LOADER);
    let length = u16::try_from(4 + name.len()).unwrap_or(u16::MAX).to_le_bytes();
    let end = [0x7f, 0xff, 4, 0];
    let path: Vec<u8> = [drive.as_slice(), &[4, 4], &length, &name, &end].concat();
    let path_length = u16::try_from(path.len()).unwrap_or(u16::MAX);
    [&ACTIVE.to_le_bytes()[..], &path_length.to_le_bytes(), &ucs2(LABEL), &path].concat()
}

/// UCS-2, little-endian, with the NUL.
fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).filter_map(|pair| pair.try_into().ok().map(u16::from_le_bytes)).collect()
}

/// A variable's value without its attributes, `None` where there is none.
fn read(variables: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(variables.join(format!("{name}-{GLOBAL}"))) {
        Ok(bytes) => Ok(Some(bytes.get(4..).unwrap_or_default().to_vec())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Flash wears out: what is there already is not written again.
fn write_if_new(variables: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    if read(variables, name)?.as_deref() == Some(value) {
        return Ok(());
    }
    // One write is one SetVariable; attributes first (kernel Documentation/filesystems/efivarfs.rst).
    let bytes = [&ATTRIBUTES.to_le_bytes()[..], value].concat();
    std::fs::write(variables.join(format!("{name}-{GLOBAL}")), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::default_plan as plan;

    fn order(variables: &Path) -> Vec<u16> {
        words(&read(variables, "BootOrder").unwrap().unwrap())
    }

    #[test]
    fn the_network_stays_first_and_a_second_deployment_takes_the_same_entry() {
        let folder = tempfile::tempdir().unwrap();
        write_if_new(folder.path(), "BootOrder", &[0, 0, 1, 0, 3, 0]).unwrap();
        write_if_new(folder.path(), "BootCurrent", &[3, 0]).unwrap();
        for number in [0, 1, 3] {
            write_if_new(folder.path(), &entry_name(number), &[1, 0, 0, 0, 0, 0, b'x', 0, 0, 0]).unwrap();
        }
        for _ in 0..2 {
            write_boot_entry_below(folder.path(), &plan(), BootOrder::NetworkFirst).unwrap();
            assert_eq!(order(folder.path()), [3, 2, 0, 1]);
        }
        write_boot_entry_below(folder.path(), &plan(), BootOrder::Untouched).unwrap();
        assert_eq!(order(folder.path()), [3, 2, 0, 1]);
        write_boot_entry_below(folder.path(), &plan(), BootOrder::DiskFirst).unwrap();
        assert_eq!(order(folder.path()), [2, 3, 0, 1]);
    }

    #[test]
    fn a_firmware_without_any_order_gets_one() {
        let folder = tempfile::tempdir().unwrap();
        write_boot_entry_below(folder.path(), &plan(), BootOrder::default()).unwrap();
        assert_eq!(order(folder.path()), [0]);
    }

    #[test]
    fn the_entry_names_the_partition_by_its_guid() {
        let plan = plan();
        let esp = plan.find(PartitionRole::Esp).unwrap();
        let option = load_option(esp);
        let path_length = usize::from(u16::from_le_bytes([option[4], option[5]]));
        assert_eq!(option.len(), 6 + ucs2(LABEL).len() + path_length);
        assert!(option.windows(16).any(|bytes| bytes == esp.guid.to_bytes_le()));
        assert!(option.ends_with(&[0x7f, 0xff, 4, 0]));
    }
}
