//! `drivers`: all other modules and their firmware by hash from the boot bundle's store, until the disks have
//! settled; then the inventory.

use node_api::{Inventory, Recovery};

use super::Done;
use super::probe::describe;
use crate::failure::StageError;
use crate::hardware::{Hardware, ObjectSource, Summary};

/// Why the drivers can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriversError {
    /// The store's manifest or index is missing, damaged or of another bundle.
    #[error("fetching drivers from the boot bundle's store")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The blocking part died, which only a bug does.
    #[error("loading drivers stopped in the middle")]
    Stopped(#[from] tokio::task::JoinError),
}

impl StageError for DriversError {
    fn code(&self) -> &'static str {
        match self {
            Self::Store(_) => "drivers",
            Self::Stopped(_) => "drivers-internal",
        }
    }

    fn recovery(&self) -> Recovery {
        Recovery::Retry
    }
}

/// Loads what the machine's devices need, but nothing of `deny`, and says what the machine has.
///
/// Works on a thread of its own, so that reports go on: the server must hear which module is loaded before a
/// bad one stops the machine.
pub(crate) async fn run(
    hardware: &Hardware,
    objects: &(impl ObjectSource + Clone + 'static),
    deny: &[String],
) -> Result<Done<Inventory>, DriversError> {
    let (hardware, objects, deny) = (hardware.clone(), objects.clone(), deny.to_vec());
    let work = tokio::task::spawn_blocking(move || load(&hardware, &objects, &deny));
    let (summary, inventory) = work.await?.map_err(|error| DriversError::Store(error.into()))?;
    for device in inventory.devices.iter().filter(|device| is_storage_or_network(&device.modalias)) {
        if let Some(missing) = &device.missing {
            tracing::warn!("{} ({}): {missing}", device.path, device.modalias);
        }
    }
    let disks: Vec<String> = inventory.disks.iter().map(disk_layout::Disk::describe).collect();
    let disks = if disks.is_empty() { "no disk".to_owned() } else { disks.join(", ") };
    Ok(Done { detail: format!("{disks}; {}", describe(&summary)), value: inventory })
}

/// PCI base classes 01 and 02 (PCI Code and ID Assignment Specification): `pci:v...bc01sc06i01`. Without them
/// a node can't be installed; other devices may well go without a driver.
fn is_storage_or_network(modalias: &str) -> bool {
    modalias.starts_with("pci:") && (modalias.contains("bc01sc") || modalias.contains("bc02sc"))
}

fn load(
    hardware: &Hardware,
    objects: &dyn ObjectSource,
    deny: &[String],
) -> anyhow::Result<(Summary, Inventory)> {
    let summary = hardware.load_all(objects, deny)?;
    match hardware.free_initrd_modules() {
        Ok(bytes) => tracing::info!("{} MiB of memory freed from NIC modules", bytes >> 20),
        Err(error) => tracing::warn!("freeing the initrd's modules: {error:#}"),
    }
    Ok((summary, hardware.inventory()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_controllers_and_nics_are_told_from_the_rest() {
        assert!(is_storage_or_network("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"));
        assert!(is_storage_or_network("pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"));
        assert!(!is_storage_or_network("pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00"));
        assert!(!is_storage_or_network("acpi:PNP0C0C:"));
    }
}
