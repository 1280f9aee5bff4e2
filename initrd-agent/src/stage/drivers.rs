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
    for device in &inventory.devices {
        if let Some(missing) = &device.missing {
            tracing::debug!("{}: {missing}", device.path);
        }
    }
    let disks: Vec<String> = inventory.disks.iter().map(disk_layout::Disk::describe).collect();
    let disks = if disks.is_empty() { "no disk".to_owned() } else { disks.join(", ") };
    Ok(Done { detail: format!("{disks}; {}", describe(&summary)), value: inventory })
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
