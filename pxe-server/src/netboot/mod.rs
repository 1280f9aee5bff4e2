//! Brings nodes from power-on to the kernel: DHCP, TFTP, boot scripts and boot files over HTTP.
//!
//! Never decides what a node boots: that is [`BootPolicy`]'s. Never changes the interface or its addresses.
//!
//! Read first: [`Netboot`], [`NetbootConfig`], [`BootPolicy`].

mod boot_files;
mod change;
mod dhcp;
mod http;
mod menu_files;
mod net;
mod node_files;
mod policy;
mod router;
mod tftp;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dhcp_engine::{BootNames, Mode, Settings};
use site_file::DhcpConfig;
use store::Store;
use tracing::{info, warn};

use self::boot_files::BootPrograms;
use self::dhcp::{Dhcp, Place};
use self::http::Http;
use self::router::{Booting, NoRouter};
use self::tftp::Tftp;

pub(crate) use self::boot_files::{KNOWN as BOOT_PROGRAMS, Known as BootProgram};
pub(crate) use self::http::{BootPeers, SharedPeers};
pub(crate) use change::{DhcpChange, DhcpChanges};
pub(crate) use http::{REALM, md5_hex, script_url, told};
pub(crate) use policy::{
    Asks, BootDecision, BootFiles, BootPolicy, BootRequest, DhcpSeen, FirstLoader, Hint, Loader, Program,
    Refused, UefiLoader,
};

/// Where Debian's package `ipxe` puts its boot programs.
pub(crate) const BOOT_FILES_DIR: &str = "/usr/lib/ipxe";
/// UDP port of boot programs; firmware knows no other.
const TFTP_PORT: u16 = 69;

/// How to serve one network.
#[derive(Clone, Debug)]
pub(crate) struct NetbootConfig {
    /// The interface that nodes are on, such as `eth1`. It must be up and have an IPv4 address.
    pub(crate) interface: String,
    /// The server's address on it; `None` takes the interface's first.
    pub(crate) address: Option<Ipv4Addr>,
    /// Who gives addresses, and which.
    pub(crate) dhcp: DhcpConfig,
    /// Directory with `undionly.kpxe`, `snponly.efi` and `ipxe.efi`; [`BOOT_FILES_DIR`]. It may have `shimx64.efi` and
    /// `grubx64.efi` too; without them those of Debian's packages are taken.
    pub(crate) boot_files: PathBuf,
    /// TCP port of scripts and boot files; 80 unless something else has it.
    pub(crate) http_port: u16,
    /// TCP port of the agent API, for the kernel command line.
    pub(crate) agent_port: u16,
    /// Whether nodes that came up serve kernel and initrd to others.
    pub(crate) boot_from_peers: bool,
}

/// The running netboot services. Dropping it stops them.
pub(crate) struct Netboot {
    dhcp: Option<Dhcp>,
    tftp: Tftp,
    http: Http,
    _no_router: Option<NoRouter>,
    http_address: SocketAddrV4,
    peers: Option<SharedPeers>,
    changes: Option<DhcpChanges>,
}

/// What the services have done since they began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetbootCounts {
    /// DHCP packets that came.
    pub(crate) dhcp_received: u64,
    /// DHCP answers that left.
    pub(crate) dhcp_answered: u64,
    /// DHCP packets dropped because the store was too slow.
    pub(crate) dhcp_overloaded: u64,
    /// New addresses that somebody else was found to use.
    pub(crate) dhcp_conflicts: u64,
    /// Other DHCP servers that were heard of.
    pub(crate) dhcp_other_servers: u64,
    /// TFTP transfers begun.
    pub(crate) tftp_started: u64,
    /// TFTP transfers that came to their end.
    pub(crate) tftp_complete: u64,
    /// TFTP transfers that ended when the node knew the size, as firmware begins.
    pub(crate) tftp_probed: u64,
    /// TFTP transfers that the node ended otherwise.
    pub(crate) tftp_aborted: u64,
    /// TFTP transfers whose node fell silent.
    pub(crate) tftp_timed_out: u64,
    /// TFTP transfers given up for another request.
    pub(crate) tftp_replaced: u64,
    /// TFTP requests for what there is not.
    pub(crate) tftp_refused: u64,
    /// TFTP requests left unanswered because too many transfers were under way.
    pub(crate) tftp_overloaded: u64,
    /// TFTP blocks sent again.
    pub(crate) tftp_resent_blocks: u64,
    /// Bytes that nodes have got by TFTP.
    pub(crate) tftp_bytes: u64,
    /// Boot scripts sent.
    pub(crate) scripts: u64,
    /// Kernels, initrds and boot programs begun to send over HTTP.
    pub(crate) http_files: u64,
    /// Large HTTP transfers put off because too many were under way.
    pub(crate) http_put_off: u64,
    /// Large HTTP transfers that nodes were sent to peers for.
    pub(crate) http_sent_to_peers: u64,
}

impl Netboot {
    /// Binds the sockets, reads the leases and starts to answer. `extra_http` must not have routes of ours:
    /// `/boot.ipxe`, `/boot/...` and the names of the boot programs.
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
        net::raise_file_limit();
        let (address, prefix) = net::interface_address(&config.interface, config.address)?;
        let http_address = SocketAddrV4::new(address, config.http_port);
        let agent_address = SocketAddrV4::new(address, config.agent_port);
        let (programs, missing) = BootPrograms::read(&config.boot_files)?;
        for sentence in missing {
            warn!("{sentence}");
        }
        let x64_http = programs.name(boot_files::UEFI_HTTP).or_else(|| programs.name(boot_files::UEFI));
        let boot = BootNames {
            script_url: http::script_url(http_address),
            bios: programs.name(boot_files::BIOS),
            x64: programs.name(boot_files::UEFI),
            x64_http_url: x64_http.map(|name| http::file_url(http_address, &name)),
            x64_signed: programs.signed(),
        };
        let place = Place { server: address, prefix, mac: dhcp::own_mac(&config.interface) };
        let settings = dhcp::settings(&config.dhcp, place, boot.clone())?;
        let racks = settings.as_ref().map_or_else(
            || vec![prefix],
            |settings| settings.subnets.iter().map(|subnet| subnet.prefix).collect(),
        );
        let peers = config.boot_from_peers.then(|| Arc::new(Mutex::new(BootPeers::new(racks))));
        // HTTP first: whoever is told an address by DHCP finds everything else there.
        let listener = net::bind_tcp(http_address)?;
        let http = Http::start(
            listener,
            (http_address, agent_address),
            programs,
            Arc::clone(&policy),
            (extra_http, peers.clone()),
        );
        let tftp = Tftp::start(
            &config.interface,
            SocketAddrV4::new(address, TFTP_PORT),
            Arc::new(http.node_files()),
        )?;
        let booting = Booting::default();
        let dhcp = match settings {
            Some(settings) => {
                tell_of(&settings);
                Some(Dhcp::start(&config.interface, settings, policy, store, booting.clone())?)
            }
            None => None,
        };
        let no_router = match NoRouter::start(&config.interface, booting) {
            Ok(no_router) => Some(no_router),
            Err(error) => {
                info!("nodes with iPXE will wait 16 s for an IPv6 router: {error:#}");
                None
            }
        };
        info!(
            interface = config.interface, %address, network = %prefix, http = %http_address, "waiting for nodes"
        );
        let changes = dhcp.as_ref().map(|dhcp| DhcpChanges {
            place,
            boot,
            to_server: dhcp.changes(),
            peers: peers.clone(),
        });
        Ok(Self { dhcp, tftp, http, _no_router: no_router, http_address, peers, changes })
    }

    /// Address and port of scripts and boot files, as nodes reach them.
    pub(crate) fn http_address(&self) -> SocketAddrV4 {
        self.http_address
    }

    /// Who serves boot files to others; `None` where nobody does.
    pub(crate) fn peers(&self) -> Option<&SharedPeers> {
        self.peers.as_ref()
    }

    /// How the running DHCP server gets other settings; `None` where there is none.
    pub(crate) fn dhcp_changes(&self) -> Option<DhcpChanges> {
        self.changes.clone()
    }

    /// What the services have done so far.
    pub(crate) fn counts(&self) -> NetbootCounts {
        let (tftp, http) = (self.tftp.counters(), self.http.counters());
        let no_dhcp = Arc::default();
        let dhcp = self.dhcp.as_ref().map_or(&no_dhcp, Dhcp::counters);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetbootCounts {
            dhcp_received: read(&dhcp.received),
            dhcp_answered: read(&dhcp.answered),
            dhcp_overloaded: read(&dhcp.overloaded),
            dhcp_conflicts: read(&dhcp.conflicts),
            dhcp_other_servers: read(&dhcp.other_servers),
            tftp_started: read(&tftp.started),
            tftp_complete: read(&tftp.complete),
            tftp_probed: read(&tftp.probed),
            tftp_aborted: read(&tftp.aborted),
            tftp_timed_out: read(&tftp.timed_out),
            tftp_replaced: read(&tftp.replaced),
            tftp_refused: read(&tftp.refused),
            tftp_overloaded: read(&tftp.overloaded),
            tftp_resent_blocks: read(&tftp.resent_blocks),
            tftp_bytes: read(&tftp.bytes),
            scripts: read(&http.scripts),
            http_files: read(&http.files),
            http_put_off: read(&http.put_off),
            http_sent_to_peers: read(&http.sent_to_peers),
        }
    }

    /// Stops every service and waits until its listening sockets are closed.
    pub(crate) async fn shutdown(self) {
        info!(counts = ?self.counts(), "netboot stops");
        if let Some(dhcp) = self.dhcp {
            dhcp.shutdown().await;
        }
        self.tftp.shutdown().await;
        self.http.shutdown().await;
    }
}

/// For the operator: who gives addresses, and which.
fn tell_of(settings: &Settings) {
    match settings.mode {
        Mode::Dhcp => {
            info!(
                pools = dhcp::pools_text(settings),
                reserved = settings.reservations.len(),
                "giving addresses"
            );
        }
        Mode::Proxy => info!("another DHCP server gives the addresses"),
    }
    if let Some(warning) = net::neighbour_table_warning(dhcp::nodes_on_link(settings)) {
        warn!("{warning}");
    }
}

/// The server's address on an interface: `wanted`, or the first; `None` if that is not to be had now.
pub(crate) fn server_address(interface: &str, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    net::interface_address(interface, wanted).ok().map(|(address, _)| address)
}

/// `dnsmasq (pid 812)`: who listens on a port, as far as /proc tells us.
pub(crate) fn port_user(is_tcp: bool, port: u16) -> Option<String> {
    net::port_user(is_tcp, port)
}

#[cfg(test)]
pub(crate) mod tests;
