//! Writes the objects of a bundle's store.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use boot_bundle::ObjectRef;

/// zstd level of objects: made once, fetched by every node.
const LEVEL: i32 = 19;

/// The directory that holds `store/`.
#[derive(Clone, Debug)]
pub(super) struct StoreWriter {
    bundle: PathBuf,
}

impl StoreWriter {
    /// Writes below `bundle`.
    pub(super) fn new(bundle: &Path) -> Self {
        Self { bundle: bundle.to_owned() }
    }

    /// Packs `contents` into an object and writes it unless the store has it.
    pub(super) fn add(&self, contents: &[u8]) -> Result<ObjectRef> {
        let (object, bytes) = ObjectRef::pack(contents, LEVEL).context("packing an object")?;
        let path = self.bundle.join(object.hash.store_path());
        if !path.exists() {
            let directory = path.parent().context("an object lies in a directory")?;
            std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
            // Two workers may write the same contents; each replaces the name with the same bytes.
            let partial =
                path.with_extension(format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-"));
            std::fs::write(&partial, &bytes).with_context(|| format!("writing {}", partial.display()))?;
            std::fs::rename(&partial, &path).with_context(|| format!("naming {}", path.display()))?;
        }
        Ok(object)
    }
}

/// Does `work` for every item on all processors; the results are in the items' order.
pub(super) fn on_all_processors<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(position) else { return };
                    let result = work(item);
                    let failed = result.is_err();
                    if let Ok(mut results) = results.lock() {
                        results.push((position, result));
                    }
                    if failed {
                        next.store(items.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(position, _)| *position);
    results.into_iter().map(|(_, result)| result).collect()
}
