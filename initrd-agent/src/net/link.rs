//! Changes to links, addresses and routes, through rtnetlink.

use std::net::{IpAddr, Ipv4Addr};

use dhcp_wire::Lease;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::nic::Interface;

/// A connection to the kernel's routing tables.
#[derive(Clone)]
pub(crate) struct Links {
    handle: Handle,
}

impl Links {
    pub(crate) fn open() -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        // Ends with the handle.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(crate) async fn set_up(&self, interface: &Interface) -> Result<(), rtnetlink::Error> {
        let message = LinkUnspec::new_with_index(interface.index).up().build();
        self.handle.link().set(message).execute().await
    }

    /// Gives the interface the lease's address, MTU and default route; repeating it changes nothing.
    pub(crate) async fn configure(
        &self,
        interface: &Interface,
        lease: &Lease,
    ) -> Result<(), rtnetlink::Error> {
        let index = interface.index;
        if let Some(mtu) = lease.mtu {
            let message = LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).build();
            // Some drivers take only their own sizes; the link then works with the one it has.
            if let Err(error) = self.handle.link().set(message).execute().await {
                tracing::warn!("{}: MTU {mtu} was refused: {error}", interface.name);
            }
        }
        let address = IpAddr::V4(lease.address);
        self.handle.address().add(index, address, lease.prefix_len).replace().execute().await?;
        if let Some(router) = lease.routers.first() {
            // On-link, because some networks give /32 addresses with a router outside of them.
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
                .gateway(*router)
                .output_interface(index)
                .onlink()
                .build();
            self.handle.route().add(route).replace().execute().await?;
        }
        Ok(())
    }
}
