//! How much of what is scarce each address has: connections, and large transfers on their way.
//!
//! Never waits: who finds no room is told so at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Large transfers of one address at a time. A node needs one; a few more are of a loader that gave up and asks again, or
/// of machines behind one address. Whoever asks and does not read keeps no more than these from the others.
const LARGE_TRANSFERS_PER_ADDRESS_MAX: usize = 8;

/// Counts by address, none above a bound.
#[derive(Debug)]
pub(super) struct Shares {
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    each_max: usize,
}

/// One of those that an address may have; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Shares {
    pub(super) fn new(each_max: usize) -> Self {
        Self { by_address: Arc::default(), each_max }
    }

    /// `None` if the address has as many as it may.
    pub(super) fn take(&self, address: IpAddr) -> Option<Share> {
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        (*count < self.each_max).then(|| {
            *count += 1;
            Share { by_address: Arc::clone(&self.by_address), address }
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Places for large transfers: so many in all, and so many of one address.
#[derive(Debug)]
pub(super) struct LargePlaces {
    all: Arc<Semaphore>,
    shares: Shares,
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct LargePlace {
    _one: OwnedSemaphorePermit,
    _share: Share,
}

impl LargePlaces {
    pub(super) fn new(max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(max)), shares: Shares::new(LARGE_TRANSFERS_PER_ADDRESS_MAX) }
    }

    /// `None` if all are taken, or all that this address may have.
    pub(super) fn take(&self, address: IpAddr) -> Option<LargePlace> {
        let share = self.shares.take(address)?;
        let one = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(LargePlace { _one: one, _share: share })
    }
}
