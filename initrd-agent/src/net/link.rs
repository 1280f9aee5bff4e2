//! Changes to links, addresses and routes.

use std::io;

use dhcp_wire::Lease;

use super::nic::Interface;
use crate::sys::interface::InterfaceControl;

/// Brings an interface up; its carrier follows later.
pub(crate) fn set_up(interface: &Interface) -> io::Result<()> {
    InterfaceControl::open()?.set_up(&interface.name)
}

/// Gives the interface the lease's address, MTU and default route; repeating it changes nothing.
pub(crate) fn configure(interface: &Interface, lease: &Lease) -> io::Result<()> {
    let control = InterfaceControl::open()?;
    let name = &interface.name;
    if let Some(mtu) = lease.mtu
        && let Err(error) = control.set_mtu(name, mtu)
    {
        // Some drivers take only their own sizes; the link then works with the one it has.
        tracing::warn!("{name}: MTU {mtu} was refused: {error}");
    }
    control.set_address(name, lease.address, lease.prefix_len)?;
    if let Some(router) = lease.routers.first() {
        if !same_network(lease, *router) {
            // Some networks give /32 addresses with a router outside of them.
            control.add_host_route(name, *router)?;
        }
        control.add_default_route(name, *router)?;
    }
    Ok(())
}

fn same_network(lease: &Lease, other: std::net::Ipv4Addr) -> bool {
    let host_bits = 32 - u32::from(lease.prefix_len.min(32));
    let network = |address: std::net::Ipv4Addr| u64::from(u32::from(address)) >> host_bits;
    network(lease.address) == network(other)
}
