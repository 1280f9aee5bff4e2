//! A checked site.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use boot_menu::Menus;
use dhcp_wire::MacAddr;
use disk_layout::Layout;
use node_api::Handover;
use system_steps::Systems;

use crate::network::DhcpConfig;

/// One installation, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// For people.
    pub name: String,
    /// The interface that faces the nodes; `None` when this server boots nobody.
    pub interface: Option<String>,
    /// Address that nodes reach the server at; `None`: the interface's first.
    pub address: Option<Ipv4Addr>,
    /// Boot files and tracker.
    pub http_port: u16,
    /// Agent API.
    pub agent_port: u16,
    /// Seed of the first image.
    pub peer_port: u16,
    /// Whether peers take part that don't prove a deployment's secret.
    pub swarm_open: bool,
    /// Admin API and dashboard.
    pub admin: SocketAddr,
    /// Who gives addresses, and which.
    pub dhcp: DhcpConfig,
    /// Image files, the default first.
    pub images: Vec<PathBuf>,
    /// What becomes of images without a trusted signature.
    pub untrusted: Untrusted,
    /// Minisign public key files.
    pub trust: Vec<PathBuf>,
    /// Machines that need no person.
    pub approve: ApproveRules,
    /// Directory of iPXE's binaries; `None`: where the distribution puts them.
    pub boot_files: Option<PathBuf>,
    /// Added to the agent's kernel command line.
    pub boot_arguments: String,
    /// Whether nodes serve boot files to others.
    pub boot_from_peers: bool,
    /// Shape of every node's disk.
    pub layout: Layout,
    /// Lines for root's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// Seconds of seeding after the installation, at most.
    pub linger_max_s: u64,
    /// Whether nodes keep what their disk has of an older image.
    pub reuse: bool,
    /// How the agent ends.
    pub handover: Handover,
    /// Kernel modules that no node may load.
    pub module_deny: Vec<String>,
    /// Names given beforehand.
    pub nodes: Vec<SiteNode>,
    /// What nodes get beside what the server has for them.
    pub menus: Menus,
    /// Directory of the files that menus name.
    pub menu_files: Option<PathBuf>,
    /// What installed systems are beside their names and keys.
    pub systems: Systems,
}

impl Site {
    /// What of it can change while the server runs.
    #[must_use]
    pub fn changeable(&self) -> Changeable {
        Changeable {
            menus: self.menus.clone(),
            menu_files: self.menu_files.clone(),
            boot_arguments: self.boot_arguments.clone(),
            systems: self.systems.clone(),
        }
    }

    /// The sections in which another file differs beyond that.
    #[must_use]
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let server = |site: &Self| {
            let ports = (site.http_port, site.agent_port, site.peer_port);
            (site.interface.clone(), site.address, ports, site.admin)
        };
        let deploy = |site: &Self| (site.linger_max_s, site.reuse, site.handover, site.module_deny.clone());
        let image = |site: &Self| (site.images.clone(), site.untrusted, site.trust.clone());
        let checks = [
            ("name", self.name != other.name),
            ("server", server(self) != server(other)),
            ("dhcp.mode", self.dhcp.mode != other.dhcp.mode),
            ("dhcp.probe", self.dhcp.unprobed != other.dhcp.unprobed),
            ("image", image(self) != image(other)),
            ("approve", self.approve != other.approve),
            ("boot.files", self.boot_files != other.boot_files),
            ("boot.from_peers", self.boot_from_peers != other.boot_from_peers),
            ("swarm", self.swarm_open != other.swarm_open),
            ("layout", self.layout != other.layout),
            ("access", self.authorized_keys != other.authorized_keys),
            ("deploy", deploy(self) != deploy(other)),
        ];
        checks.into_iter().filter_map(|(section, differs)| differs.then_some(section)).collect()
    }
}

/// What of the site can change while the server runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changeable {
    /// What nodes get beside what the server has for them.
    pub menus: Menus,
    /// Directory of the files that menus name.
    pub menu_files: Option<PathBuf>,
    /// Added to the agent's kernel command line.
    pub boot_arguments: String,
    /// What installed systems are beside their names and keys.
    pub systems: Systems,
}

/// What becomes of an image that no trusted key signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Untrusted {
    /// The server does not start.
    #[default]
    Refuse,
    /// It is deployed, and nodes are told to let it through.
    Allow,
    /// It is offered as it is, and each node refuses it by itself: what a server in a stranger's hands would do, for
    /// the tests that show that this gains nothing.
    LeaveToNodes,
}

/// Machines that are approved by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApproveRules {
    /// Everybody.
    pub all: bool,
    /// By hardware address.
    pub macs: Vec<MacAddr>,
    /// By SMBIOS serial number.
    pub serials: Vec<String>,
}

/// A machine that the site knows beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteNode {
    /// The NIC that boots.
    pub mac: MacAddr,
    /// Name and host name.
    pub name: String,
}

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--interface`.
    pub interface: Option<String>,
    /// `--image`, each.
    pub images: Vec<PathBuf>,
    /// `--approve-all`.
    pub approve_all: bool,
    /// `--boot-files`.
    pub boot_files: Option<PathBuf>,
    /// `--boot-arguments`, which are kernel words.
    pub boot_arguments: Option<String>,
    /// `--trust`, each.
    pub trust: Vec<PathBuf>,
    /// `--allow-unsigned`.
    pub allow_unsigned: bool,
    /// `--leave-signatures-to-nodes`.
    pub leave_signatures_to_nodes: bool,
    /// `--admin`.
    pub admin: Option<SocketAddr>,
    /// `--no-netboot`.
    pub no_netboot: bool,
    /// The file alone is looked at: what the command line of `serve` may add is not missed.
    pub partial: bool,
}
