//! Brings nodes from power-on to the kernel: DHCP, TFTP, boot scripts and boot files over HTTP.
//!
//! Never decides what a node boots: that is [`BootPolicy`]'s. Never changes the interface or its addresses.
//!
//! Read first: [`Netboot`], [`NetbootConfig`], [`BootPolicy`].
#![allow(dead_code, reason = "the control plane calls this module")]

mod policy;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use store::Store;

pub(crate) use policy::{Architecture, BootDecision, BootFiles, BootPolicy, BootRequest, DhcpSeen, Program};

/// Where Debian's package `ipxe` puts its boot programs.
pub(crate) const BOOT_FILES_DIR: &str = "/usr/lib/ipxe";
/// TCP port of scripts and boot files unless the site says otherwise.
pub(crate) const HTTP_PORT: u16 = 80;
/// How long a node keeps its address without asking again.
pub(crate) const LEASE_DEFAULT: Duration = Duration::from_secs(3600);

/// How to serve one network.
#[derive(Clone, Debug)]
pub(crate) struct NetbootConfig {
    /// The interface that nodes are on, such as `eth1`. It must be up and have an IPv4 address.
    pub(crate) interface: String,
    /// The server's address on it; `None` takes the interface's first.
    pub(crate) address: Option<Ipv4Addr>,
    /// Addresses for nodes; `None` takes the upper half of the interface's subnet.
    pub(crate) pool: Option<RangeInclusive<Ipv4Addr>>,
    /// How long a node keeps its address without asking again; [`LEASE_DEFAULT`].
    pub(crate) lease: Duration,
    /// Router that nodes are told; `None` tells none.
    pub(crate) router: Option<Ipv4Addr>,
    /// Name servers that nodes are told.
    pub(crate) dns: Vec<Ipv4Addr>,
    /// Directory with `undionly.kpxe`, `snponly.efi` and `ipxe.efi`; [`BOOT_FILES_DIR`].
    pub(crate) boot_files: PathBuf,
    /// TCP port of scripts and boot files; [`HTTP_PORT`].
    pub(crate) http_port: u16,
    /// TCP port of the agent API, for the kernel command line.
    pub(crate) agent_port: u16,
}

/// The running netboot services. Dropping it stops them.
pub(crate) struct Netboot {
    address: SocketAddrV4,
}

impl Netboot {
    /// Binds the sockets, reads the leases and starts to answer.
    ///
    /// # Errors
    /// An interface without address, a port in use, a pool outside the subnet, or a store that cannot be read;
    /// the message says what to do.
    pub(crate) async fn start(
        config: NetbootConfig,
        policy: Arc<dyn BootPolicy>,
        store: Store,
        extra_http: axum::Router,
    ) -> anyhow::Result<Self> {
        let _ = (config, policy, store, extra_http);
        anyhow::bail!("not yet")
    }

    /// Address and port of scripts and boot files, as nodes reach them.
    pub(crate) fn http_address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Stops every service and waits until its sockets are closed.
    pub(crate) async fn shutdown(self) {}
}
