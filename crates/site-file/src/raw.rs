//! The site file as written: every value optional, with its place in the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use disk_layout::Layout;
use node_api::Handover;
use serde::Deserialize;
use system_steps::RawSystem;
use toml::Spanned;

use crate::dhcp::RawDhcp;

/// The sections of `site.toml`; what is absent keeps its default.
#[derive(Debug, Default)]
pub(crate) struct RawSite {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) server: RawServer,
    pub(crate) dhcp: RawDhcp,
    pub(crate) image: RawImage,
    pub(crate) approve: RawApprove,
    pub(crate) boot: RawBoot,
    pub(crate) swarm: RawSwarm,
    pub(crate) layout: Option<Spanned<Layout>>,
    pub(crate) access: RawAccess,
    pub(crate) deploy: RawDeploy,
    pub(crate) nodes: Vec<RawNode>,
    pub(crate) menus: boot_menu::Sections,
    pub(crate) system: Option<Spanned<RawSystem>>,
    /// `[group.NAME.system]`, by the group's name.
    pub(crate) group_systems: Vec<(String, Spanned<RawSystem>)>,
}

/// `[server]`: where this server is reached.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawServer {
    /// `on` (default): DHCP, TFTP and boot scripts on `interface`. `off`: only the APIs and the swarm, for sites
    /// that boot the agent by other means.
    pub(crate) mode: Option<Spanned<String>>,
    /// Network interface that faces the nodes. Needed unless `mode = "off"`.
    pub(crate) interface: Option<Spanned<String>>,
    /// Address that nodes reach the server at. Default: the interface's first IPv4 address.
    pub(crate) address: Option<Spanned<String>>,
    /// Boot files and tracker, plain HTTP. Default 80.
    pub(crate) http_port: Option<u16>,
    /// Agent API, HTTPS. Default 8443.
    pub(crate) agent_port: Option<u16>,
    /// The server's seed. Default 6881; each further image takes the next port.
    pub(crate) peer_port: Option<u16>,
    /// Admin API and dashboard. Default `127.0.0.1:8080`; it has no login, so keep it on loopback.
    pub(crate) admin: Option<Spanned<String>>,
}

/// `[image]`: what is deployed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawImage {
    /// Image files; the first is the default. Relative paths are relative to the site file.
    pub(crate) files: Option<Vec<PathBuf>>,
    /// Lets images without a trusted signature through. Default false.
    pub(crate) allow_unsigned: Option<bool>,
    /// Minisign public key files, beside those in `STATE/trusted`.
    pub(crate) trust: Option<Vec<PathBuf>>,
}

/// `[approve]`: machines that need no person.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawApprove {
    /// Every machine. Default false.
    pub(crate) all: Option<bool>,
    /// Hardware addresses.
    #[serde(default)]
    pub(crate) macs: Vec<Spanned<String>>,
    /// SMBIOS serial numbers, exact.
    #[serde(default)]
    pub(crate) serials: Vec<Spanned<String>>,
}

/// `[boot]`: how nodes get the agent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawBoot {
    /// Directory with `undionly.kpxe` and `snponly.efi`. Default: where Debian's `ipxe` package puts them.
    pub(crate) files: Option<PathBuf>,
    /// Added to the agent's kernel command line.
    pub(crate) arguments: Option<Spanned<String>>,
    /// Lets nodes that came up serve kernel and initrd to others of their subnet, so that a thousand nodes cost the
    /// server the copies of a few. Firmware cannot check what it loads: whoever can pose as a node then decides what
    /// others boot, as whoever can pose as the server always does. Default false.
    pub(crate) from_peers: Option<bool>,
    /// Directory of the files that menus name: kernels, initrds, programs. Relative to the site file. Default: none.
    pub(crate) menu_files: Option<Spanned<PathBuf>>,
}

/// `[swarm]`: who exchanges pieces.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSwarm {
    /// Lets everybody take part, so that stock BitTorrent clients can fetch and seed images: the server and its nodes
    /// then exchange pieces with peers that don't prove the deployment's secret, the tracker answers every address,
    /// and torrents are served under `/torrents/`. Nodes still install nothing that the signed manifest does not
    /// name, but whoever reaches the network can read the images. Default false.
    pub(crate) open: Option<bool>,
}

/// `[access]`: who may log in to installed systems.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAccess {
    /// Lines for root's `authorized_keys`.
    #[serde(default)]
    pub(crate) authorized_keys: Vec<Spanned<String>>,
}

/// `[deploy]`: how a deployment runs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDeploy {
    /// Seconds that an installed node goes on seeding at most, up to 86400. Default 300.
    pub(crate) linger_max_s: Option<Spanned<u64>>,
    /// `reboot` (default) or `power_off`.
    pub(crate) handover: Option<Handover>,
    /// Lets a node keep the files of an older image of this server that it has on its disk, and fetch only what is new.
    /// The older image must be listed under `[image]`, behind the one that nodes get; the first node that has it makes
    /// the server work out the difference, with `image-tools` from beside it. What a node gets is the same as without.
    /// Default false.
    pub(crate) reuse: Option<bool>,
    /// Kernel modules that no node may load.
    #[serde(default)]
    pub(crate) module_deny: Vec<Spanned<String>>,
}

/// `[[node]]`: one machine that the site knows beforehand.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNode {
    /// Hardware address of the NIC that boots.
    pub(crate) mac: Spanned<String>,
    /// Its name and host name.
    pub(crate) name: Spanned<String>,
    /// The address that it always gets, and nobody else.
    pub(crate) address: Option<Spanned<String>>,
    /// The group that it is in, beside those whose `match` means it.
    pub(crate) group: Option<Spanned<String>>,
    /// The menu that it is shown.
    pub(crate) menu: Option<Spanned<String>>,
    /// The entry that it boots without a menu.
    pub(crate) boot: Option<Spanned<String>>,
    /// An entry, or `>menu`, for its next boot only.
    pub(crate) once: Option<Spanned<String>>,
    /// An entry, or `>menu`, after `once`.
    pub(crate) then: Option<Spanned<String>>,
    /// `auto`, `exit1`, `exit0`, `sanboot` or `ignore`: how it gets to its own disk.
    pub(crate) local: Option<Spanned<String>>,
    /// Whether its UEFI gets only loaders that are signed. Default: found out.
    pub(crate) secure_boot: Option<bool>,
    /// Variables of its menus and templates.
    #[serde(default)]
    pub(crate) vars: BTreeMap<String, Spanned<String>>,
    /// What its installed system is beside what `[system]` and its groups say.
    pub(crate) system: Option<Spanned<RawSystem>>,
}
