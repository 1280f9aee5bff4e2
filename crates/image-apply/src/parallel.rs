//! Work on the entries of a table by several threads.

use std::num::NonZero;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use image_format::{Entry, EntryIndex, Toc};

use crate::applier::ApplyError;
use crate::beneath::Parents;

/// More threads only queue at the journal.
const THREADS_MAX: usize = 4;
/// Entries that a thread takes at once: neighbours share their directory.
const ENTRIES_AT_ONCE: usize = 256;

/// Calls `each` for every entry, neighbours in order; the first error of any thread ends it.
pub(crate) fn for_each_entry(
    root: BorrowedFd<'_>,
    toc: &Toc,
    each: &(dyn Fn(&mut Parents<'_>, EntryIndex, &Entry) -> Result<(), ApplyError> + Sync),
) -> Result<(), ApplyError> {
    let entries: Vec<(EntryIndex, &Entry)> = toc.entries().collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), ApplyError> {
        let mut parents = Parents::new(root, toc);
        loop {
            let from = next.fetch_add(ENTRIES_AT_ONCE, Ordering::Relaxed);
            let until = entries.len().min(from.saturating_add(ENTRIES_AT_ONCE));
            let Some(batch) = entries.get(from..until).filter(|batch| !batch.is_empty()) else {
                return Ok(());
            };
            for &(index, entry) in batch {
                each(&mut parents, index, entry)
                    .inspect_err(|_| next.store(entries.len(), Ordering::Relaxed))?;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}
