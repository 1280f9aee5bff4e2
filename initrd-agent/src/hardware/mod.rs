//! Devices, modules and firmware: what the machine has and what drives it.
//!
//! Never names a model: what a device needs is what the kernel's own aliases say. Never writes to a disk.
//!
//! Read first: [`Hardware`] (the calls of the stages), [`settle::Settle`] (when it is over),
//! [`loader::Loader`] (how modules get into the kernel), [`disks()`].

mod arguments;
mod catalog;
mod disks;
mod engine;
mod inventory;
mod kernel_messages;
mod loader;
mod modprobe;
mod root;
mod settle;
mod signatures;
mod tools;
mod uevent;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use boot_bundle::STORE_MANIFEST_HASH_PATH;
use disk_layout::Disk;
use node_api::Inventory;

pub(crate) use catalog::ObjectSource;
pub(crate) use disks::disks;
#[cfg(test)]
pub(crate) use disks::disks_in;
pub(crate) use engine::Summary;
pub(crate) use modprobe::modprobe;

use catalog::{InitrdCatalog, Store};
use engine::{Engine, Terms};
use loader::Announce;
pub(crate) use root::Root;
use uevent::KernelEvents;

/// Modules that devices need although no alias of theirs leads to them early enough: disks behind SCSI
/// appear while their controller is still being scanned.
const PRELOADED: [&str; 1] = ["sd_mod"];

/// File systems of every deployment and the character sets that the kernel asks for when it mounts them.
/// The kernel's own request comes by `/sbin/modprobe`, which can't reach the store.
const FILE_SYSTEMS: [&str; 4] = ["ext4", "vfat", "nls_cp437", "nls_ascii"];

/// On machines started by UEFI: its variables as files.
const UEFI_FILE_SYSTEM: &str = "efivarfs";

/// The drivers of a machine with sixty disks have settled by then; a hung one must not hold the node up.
const LOAD_ALL_LIMIT: Duration = Duration::from_secs(90);

/// Modules that are asked for by name.
const LOAD_NAMED_LIMIT: Duration = Duration::from_secs(60);

/// The machine's devices and their drivers. Cheap to clone; the calls block, so they belong on a thread of
/// their own.
#[derive(Clone)]
pub(crate) struct Hardware {
    engine: Arc<Mutex<Engine>>,
    store: Arc<Mutex<Option<Store>>>,
    root: Root,
}

impl Hardware {
    /// Begins to listen for device events, before anything is loaded. `announce` hears the name of each module
    /// just before the kernel gets it.
    ///
    /// # Errors
    /// No event socket, no thread, or an initrd without the running kernel's modules.
    pub(crate) fn start(announce: impl Fn(&str) + Send + Sync + 'static) -> Result<Self> {
        let events = KernelEvents::open().context("listening for device events")?;
        let root = Root::real();
        let announce: Arc<Announce> = Arc::new(announce);
        let insert = |_: &str, image: &[u8], parameters: &str| crate::sys::modules::insert(image, parameters);
        let engine = Engine::start(root.clone(), Box::new(events), Arc::new(insert), announce)?;
        Ok(Self { engine: Arc::new(Mutex::new(engine)), store: Arc::default(), root })
    }

    /// Loads the initrd's network drivers for the devices of this machine. Ends when they have settled, when
    /// the NIC with the hardware address `wanted` is there, or after `limit`.
    ///
    /// # Errors
    /// The event socket failed. Drivers that fail are named in the summary.
    pub(crate) fn probe_nics(&self, wanted: Option<[u8; 6]>, limit: Duration) -> Result<Summary> {
        let root = self.root.clone();
        let found = move || wanted.is_some_and(|mac| inventory::has_nic(&root, mac));
        self.engine().probe(Terms { found: &found, ..Terms::until(Instant::now() + limit) })
    }

    /// Loads a module for every device that still lacks one, and the file systems, from the boot bundle's
    /// store. `deny` are modules that this node must not load.
    ///
    /// # Errors
    /// The store's manifest or index can't be had or is not the one that the initrd trusts.
    pub(crate) fn load_all(&self, objects: &dyn ObjectSource, deny: &[String]) -> Result<Summary> {
        let path = self.root.at(STORE_MANIFEST_HASH_PATH.trim_start_matches('/'));
        let hash = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let store = Store::open(&self.root, &hash, objects)?;
        let catalog = store.catalog(objects)?;
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Some(store);
        let mut engine = self.engine();
        engine.use_catalog(Box::new(catalog), deny);
        for module in PRELOADED.iter().chain(&FILE_SYSTEMS) {
            engine.request(module, Some(objects));
        }
        if self.root.at("sys/firmware/efi").exists() {
            engine.request(UEFI_FILE_SYSTEM, Some(objects));
        }
        engine.probe(Terms { objects: Some(objects), ..Terms::until(Instant::now() + LOAD_ALL_LIMIT) })
    }

    /// Loads modules by name or alias, such as `xfs`, and waits for them.
    ///
    /// # Errors
    /// Names the ones that are not loaded.
    pub(crate) fn load_modules(&self, names: &[&str], objects: &dyn ObjectSource) -> Result<()> {
        let mut engine = self.engine();
        for name in names {
            engine.request(name, Some(objects));
        }
        engine.settle(Terms { objects: Some(objects), ..Terms::until(Instant::now() + LOAD_NAMED_LIMIT) })?;
        engine.check_loaded(names)
    }

    /// Waits until no more devices appear and `enough` holds of the disks, at most `limit`. Drivers for
    /// controllers that appear meanwhile are fetched from `objects`.
    pub(crate) fn wait_for_disks_until(
        &self,
        limit: Duration,
        objects: Option<&dyn ObjectSource>,
        enough: impl Fn(&[Disk]) -> bool,
    ) -> Vec<Disk> {
        let deadline = Instant::now() + limit;
        loop {
            let terms = Terms { objects, ..Terms::until(deadline) };
            if let Err(error) = self.engine().settle(terms) {
                tracing::warn!("waiting for disks: {error:#}");
            }
            let disks = disks();
            if enough(&disks) || Instant::now() >= deadline {
                return disks;
            }
        }
    }

    /// What the machine has, what drives it, and what is missing.
    pub(crate) fn inventory(&self) -> Inventory {
        let engine = self.engine();
        inventory::inventory(&self.root, engine.catalog().index(), &engine.states())
    }

    /// Puts a tool and its libraries in place and says where its program is.
    ///
    /// # Errors
    /// The store lacks it, or one of its files can't be had or written; called before [`Self::load_all`].
    pub(crate) fn install_tool(&self, name: &str, objects: &dyn ObjectSource) -> Result<PathBuf> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let store = store.context("tools come from the store, which is not open yet")?;
        tools::install(&self.root, store.manifest(), name, objects)
    }

    /// Deletes the initrd's modules, 40 MB of memory, and says how many bytes that gave. To be called when the
    /// network is up: from then on modules come from the store.
    ///
    /// # Errors
    /// The initrd's index can't be read.
    pub(crate) fn free_initrd_modules(&self) -> Result<u64> {
        InitrdCatalog::free(&self.root)
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        // A panic aborts the agent; a poisoned lock is never seen.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
