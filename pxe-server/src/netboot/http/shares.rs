//! How many connections each address has.
//!
//! Never waits: who finds no room is told so at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

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
