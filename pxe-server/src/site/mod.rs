//! The site: what one installation wants. Raw text -> checked value, all problems at once.
//!
//! Never reads a clock or a socket. Works with no file at all.
//!
//! Read first: [`Site`], [`RawSite`], [`Overrides`].

mod check;
mod dhcp;
mod menus;
mod raw;
mod systems;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use boot_menu::Menus;
use dhcp_wire::MacAddr;
use disk_layout::Layout;
use node_api::Handover;
use serde::de::DeserializeOwned;
use system_steps::{RawSystem, Systems};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::images::Untrusted;
use crate::menus::Changeable;
use crate::netboot::DhcpConfig;
use check::Checker;
pub(crate) use raw::RawSite;

/// A site file is a page or a few thousand nodes; anything larger is another file.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// One installation, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Site {
    /// For people.
    pub(crate) name: String,
    /// The interface that faces the nodes; `None` when this server boots nobody.
    pub(crate) interface: Option<String>,
    /// Address that nodes reach the server at; `None`: the interface's first.
    pub(crate) address: Option<Ipv4Addr>,
    /// Boot files and tracker.
    pub(crate) http_port: u16,
    /// Agent API.
    pub(crate) agent_port: u16,
    /// Seed of the first image.
    pub(crate) peer_port: u16,
    /// Whether peers take part that don't prove a deployment's secret.
    pub(crate) swarm_open: bool,
    /// Admin API and dashboard.
    pub(crate) admin: SocketAddr,
    /// Who gives addresses, and which.
    pub(crate) dhcp: DhcpConfig,
    /// Image files, the default first.
    pub(crate) images: Vec<PathBuf>,
    /// What becomes of images without a trusted signature.
    pub(crate) untrusted: Untrusted,
    /// Minisign public key files.
    pub(crate) trust: Vec<PathBuf>,
    /// Machines that need no person.
    pub(crate) approve: ApproveRules,
    /// Directory of iPXE's binaries; `None`: where the distribution puts them.
    pub(crate) boot_files: Option<PathBuf>,
    /// Added to the agent's kernel command line.
    pub(crate) boot_arguments: String,
    /// Whether nodes serve boot files to others.
    pub(crate) boot_from_peers: bool,
    /// Shape of every node's disk.
    pub(crate) layout: Layout,
    /// Lines for root's `authorized_keys`.
    pub(crate) authorized_keys: Vec<String>,
    /// Seconds of seeding after the installation, at most.
    pub(crate) linger_max_s: u64,
    /// Whether nodes keep what their disk has of an older image.
    pub(crate) reuse: bool,
    /// How the agent ends.
    pub(crate) handover: Handover,
    /// Kernel modules that no node may load.
    pub(crate) module_deny: Vec<String>,
    /// Names given beforehand.
    pub(crate) nodes: Vec<SiteNode>,
    /// What nodes get beside what the server has for them.
    pub(crate) menus: Menus,
    /// Directory of the files that menus name.
    pub(crate) menu_files: Option<PathBuf>,
    /// What installed systems are beside their names and keys.
    pub(crate) systems: Systems,
}

impl Site {
    /// What of it can change while the server runs.
    pub(crate) fn changeable(&self) -> Changeable {
        Changeable {
            menus: self.menus.clone(),
            menu_files: self.menu_files.clone(),
            boot_arguments: self.boot_arguments.clone(),
            systems: self.systems.clone(),
        }
    }

    /// The sections in which another file differs beyond that.
    pub(crate) fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
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

/// Machines that are approved by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApproveRules {
    /// Everybody.
    pub(crate) all: bool,
    /// By hardware address.
    pub(crate) macs: Vec<MacAddr>,
    /// By SMBIOS serial number.
    pub(crate) serials: Vec<String>,
}

/// A machine that the site knows beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SiteNode {
    /// The NIC that boots.
    pub(crate) mac: MacAddr,
    /// Name and host name.
    pub(crate) name: String,
}

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// `--interface`.
    pub(crate) interface: Option<String>,
    /// `--image`, each.
    pub(crate) images: Vec<PathBuf>,
    /// `--approve-all`.
    pub(crate) approve_all: bool,
    /// `--boot-files`.
    pub(crate) boot_files: Option<PathBuf>,
    /// `--trust`, each.
    pub(crate) trust: Vec<PathBuf>,
    /// `--allow-unsigned`.
    pub(crate) allow_unsigned: bool,
    /// `--leave-signatures-to-nodes`.
    pub(crate) leave_signatures_to_nodes: bool,
    /// `--admin`.
    pub(crate) admin: Option<SocketAddr>,
    /// `--no-netboot`.
    pub(crate) no_netboot: bool,
    /// The file alone is looked at: what the command line of `serve` may add is not missed.
    pub(crate) partial: bool,
}

/// Everything that is wrong with a site, each with what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct SiteProblems(pub(crate) Vec<String>);

/// Reads and checks a site file; without one, the defaults and the command line.
pub(crate) fn read_site(path: Option<&Path>, overrides: &Overrides) -> Result<Site> {
    let Some(path) = path else { return Ok(parse_site("the command line", "", None, overrides)?) };
    let reading = || format!("reading the site file {}", path.display());
    let bytes = std::fs::metadata(path).with_context(reading)?.len();
    anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{} has {bytes} bytes and is no site file", path.display());
    let text = std::fs::read_to_string(path).with_context(reading)?;
    Ok(parse_site(&path.display().to_string(), &text, path.parent(), overrides)?)
}

/// Checks the text of a site file. `file` is its name for messages, `base` what its paths are relative to.
///
/// # Errors
/// All problems at once, one line each: file, line, what is wrong, what to write instead.
pub(crate) fn parse_site(
    file: &str,
    text: &str,
    base: Option<&Path>,
    overrides: &Overrides,
) -> Result<Site, SiteProblems> {
    let mut checker = Checker::new(file, text);
    let raw = parse_raw(text, &mut checker);
    let site = checker.check(raw, base, overrides);
    if checker.problems.is_empty() { Ok(site) } else { Err(SiteProblems(checker.problems)) }
}

/// Each section by itself, so that a mistake in one does not hide those in the others.
fn parse_raw(text: &str, checker: &mut Checker<'_>) -> RawSite {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        checker.problem(error.span(), format!("{}; correct the TOML here", error.message()));
    }
    let mut raw = RawSite::default();
    if !errors.is_empty() {
        return raw;
    }
    for (key, value) in document.into_inner() {
        match key.get_ref().as_ref() {
            "name" => raw.name = section(value, checker),
            "server" => raw.server = section(value, checker).unwrap_or_default(),
            "dhcp" => raw.dhcp = section(value, checker).unwrap_or_default(),
            "image" => raw.image = section(value, checker).unwrap_or_default(),
            "approve" => raw.approve = section(value, checker).unwrap_or_default(),
            "boot" => raw.boot = section(value, checker).unwrap_or_default(),
            "swarm" => raw.swarm = section(value, checker).unwrap_or_default(),
            "layout" => raw.layout = section(value, checker),
            "access" => raw.access = section(value, checker).unwrap_or_default(),
            "deploy" => raw.deploy = section(value, checker).unwrap_or_default(),
            "node" => raw.nodes = section(value, checker).unwrap_or_default(),
            "system" => raw.system = section(value, checker),
            other => {
                let mut value = value;
                if other == "group" {
                    raw.group_systems = group_systems(&mut value, checker);
                }
                if raw.menus.take(other, value).is_some() {
                    checker.problem(
                        Some(key.span()),
                        format!(
                            "there is no section `{other}`; the sections are name, server, dhcp, image, approve, \
                             boot, swarm, layout, access, deploy, node, system, {}",
                            boot_menu::SECTIONS.join(", ")
                        ),
                    );
                }
            }
        }
    }
    raw
}

/// Takes the `system` tables out of `[group.NAME]`; the rest of a group is about menus.
fn group_systems(
    groups: &mut Spanned<DeValue<'_>>,
    checker: &mut Checker<'_>,
) -> Vec<(String, Spanned<RawSystem>)> {
    let DeValue::Table(groups) = groups.get_mut() else { return Vec::new() };
    let mut found = Vec::new();
    for (name, group) in groups.iter_mut() {
        let DeValue::Table(group) = group.get_mut() else { continue };
        if let Some(value) = group.remove("system")
            && let Some(system) = section(value, checker)
        {
            found.push((name.get_ref().clone().into_owned(), system));
        }
    }
    found
}

fn section<T: DeserializeOwned>(value: Spanned<DeValue<'_>>, checker: &mut Checker<'_>) -> Option<T> {
    let span = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(section) => Some(section),
        Err(error) => {
            checker.problem(error.span().or(Some(span)), error.message().to_owned());
            None
        }
    }
}

/// Whether a text can be the name of a node: a host name label (RFC 1123 section 2.1) in lower case.
pub(crate) fn is_node_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests;
