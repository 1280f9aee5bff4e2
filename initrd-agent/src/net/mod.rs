//! Links, addresses and leases.
//!
//! Read first: [`nic::list`], [`dhcp::acquire`], [`link::configure`].

pub(crate) mod dhcp;
pub(crate) mod link;
pub(crate) mod nic;

#[cfg(test)]
mod tests;
