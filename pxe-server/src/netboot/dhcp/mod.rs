//! The DHCP server: addresses for nodes and, for firmware, what to load.
//!
//! [`dhcp_engine::Engine`] decides; this is its sockets, its clock, its way to the store and what the operator is
//! told. An ACK leaves only when its lease is in the store.

mod arp;
mod clock;
mod complaints;
mod config;
mod driver;
mod leases;

#[cfg(test)]
pub(super) mod tests;

pub(super) use config::{Place, nodes_on_link, pools_text, settings};
pub(super) use driver::Dhcp;

/// The hardware address of `interface`.
pub(super) fn own_mac(interface: &str) -> Option<dhcp_wire::MacAddr> {
    arp::nic(interface).map(|(_, mac)| mac)
}
