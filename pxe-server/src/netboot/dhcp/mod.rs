//! The DHCP server: addresses for nodes and, for firmware, what to load.
//!
//! ```text
//!   packet -> Engine::handle -> Action::Send ------------------------> socket
//!                            -> Action::Store -> store (one thread) -> socket
//! ```
//! The engine never opens a socket, reads a clock or touches the store; the driver does nothing else.
//! An ACK leaves only when its lease is in the store.

mod driver;
mod engine;
mod leases;
mod limit;
mod program;
mod reply;

#[cfg(test)]
mod tests;

pub(super) use driver::Dhcp;
pub(super) use engine::{BootNames, Settings, Subnet};
pub(super) use leases::{POOL_ADDRESSES_MAX, Prefix};

/// Milliseconds since 1970 by a clock that never goes back while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    /// This much later.
    pub(super) fn after(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}
