//! The checks of a site. Each problem says where it is, what is wrong and what to write instead.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use dhcp_wire::MacAddr;
use disk_layout::{Chosen, Layout, Plan, PlanError, Seeds};
use node_api::{Handover, paths};
use system_steps::Source;
use toml::Spanned;

use crate::raw::{RawNode, RawServer, RawSite};
use crate::{ApproveRules, Overrides, Site, SiteNode, Untrusted};

const DEFAULT_HTTP_PORT: u16 = 80;
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// The kernel's limit is 15 characters and a terminator (IFNAMSIZ).
const INTERFACE_BYTES_MAX: usize = 15;
/// Long enough for a second node to profit, short enough that nobody waits for a forgotten one.
const DEFAULT_LINGER_MAX_S: u64 = 300;
const LINGER_MAX_S: u64 = 86_400;

/// Collects problems while values are made.
pub(crate) struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    pub(crate) problems: Vec<String>,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, problems: Vec::new() }
    }

    /// Adds a problem at a place of the file.
    pub(crate) fn problem(&mut self, span: Option<Range<usize>>, what: impl std::fmt::Display) {
        let line = span.map(|span| {
            let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        });
        // An error message of the parser may have several lines, and it may quote what a terminal would obey.
        let what = what.to_string().replace(char::is_control, " ");
        let place = line.map_or_else(|| self.file.to_owned(), |line| format!("{}:{line}", self.file));
        self.problems.push(format!("{place}: {what}"));
    }

    /// The site, as far as it could be made; only good if no problem was found.
    pub(crate) fn check(
        &mut self,
        mut raw: RawSite,
        (base, beside): (Option<&Path>, &dyn Source),
        overrides: &Overrides,
    ) -> Site {
        let in_base = |path: PathBuf| base.map_or_else(|| path.clone(), |base| base.join(&path));
        let all_in_base =
            |paths: Option<Vec<PathBuf>>| paths.unwrap_or_default().into_iter().map(in_base).collect();
        let menus = self.menus(std::mem::take(&mut raw.menus), &raw.nodes);
        let systems = self.systems(&mut raw, &menus, beside);
        let menu_files = self.menu_files(raw.boot.menu_files, base);
        let layout = self.layout(raw.layout);
        let mut trust: Vec<PathBuf> = all_in_base(raw.image.trust);
        trust.extend(overrides.trust.iter().cloned());
        let dhcp = self.dhcp(&raw.dhcp, &raw.nodes);
        let site = Site {
            name: raw.name.map_or_else(|| "esir".to_owned(), Spanned::into_inner),
            interface: self.interface(&raw.server, overrides),
            address: self.parsed(
                raw.server.address.as_ref(),
                "server.address",
                "an address such as 10.77.0.1",
            ),
            http_port: raw.server.http_port.unwrap_or(DEFAULT_HTTP_PORT),
            agent_port: raw.server.agent_port.unwrap_or(paths::DEFAULT_AGENT_PORT),
            peer_port: raw.server.peer_port.unwrap_or(paths::DEFAULT_PEER_PORT),
            swarm_open: raw.swarm.open.unwrap_or(false),
            admin: self
                .parsed(raw.server.admin.as_ref(), "server.admin", "ADDRESS:PORT such as 127.0.0.1:8080")
                .unwrap_or(DEFAULT_ADMIN),
            dhcp,
            images: all_in_base(raw.image.files),
            untrusted: match overrides.allow_unsigned || raw.image.allow_unsigned.unwrap_or(false) {
                _ if overrides.leave_signatures_to_nodes => Untrusted::LeaveToNodes,
                true => Untrusted::Allow,
                false => Untrusted::Refuse,
            },
            trust,
            approve: ApproveRules {
                all: overrides.approve_all || raw.approve.all.unwrap_or(false),
                macs: raw.approve.macs.iter().filter_map(|mac| self.mac(mac, "approve.macs")).collect(),
                serials: raw.approve.serials.into_iter().map(Spanned::into_inner).collect(),
            },
            boot_files: overrides.boot_files.clone().or_else(|| raw.boot.files.map(in_base)),
            boot_from_peers: raw.boot.from_peers.unwrap_or(false),
            boot_arguments: self.boot_arguments(raw.boot.arguments, overrides),
            layout,
            authorized_keys: self.authorized_keys(&raw.access.authorized_keys),
            linger_max_s: self.linger(raw.deploy.linger_max_s),
            reuse: raw.deploy.reuse.unwrap_or(false),
            handover: raw.deploy.handover.unwrap_or(Handover::Reboot),
            module_deny: self.module_names(&raw.deploy.module_deny),
            nodes: self.nodes(&raw.nodes),
            menus,
            menu_files,
            systems,
        };
        self.with_overrides(site, overrides)
    }

    fn with_overrides(&mut self, mut site: Site, overrides: &Overrides) -> Site {
        if !overrides.images.is_empty() {
            site.images.clone_from(&overrides.images);
        }
        if let Some(admin) = overrides.admin {
            site.admin = admin;
        }
        if site.images.is_empty() && !overrides.partial {
            self.problem(
                None,
                "no image is named; give --image X.esir, or `files = [\"X.esir\"]` under [image]",
            );
        }
        let ports = BTreeSet::from([site.http_port, site.agent_port, site.peer_port]);
        if ports.len() < 3 || ports.contains(&0) {
            self.problem(
                None,
                "server.http_port, agent_port and peer_port must be three different ports above 0; the defaults \
                 are 80, 8443 and 6881",
            );
        }
        site
    }

    fn interface(&mut self, server: &RawServer, overrides: &Overrides) -> Option<String> {
        let off = match server.mode.as_ref().map(|mode| (mode.get_ref().as_str(), mode.span())) {
            None | Some(("on", _)) => false,
            Some(("off", _)) => true,
            Some((other, span)) => {
                self.problem(
                    Some(span),
                    format!("server.mode = \"{other}\" is unknown; write \"on\" or \"off\""),
                );
                false
            }
        };
        if off || overrides.no_netboot {
            return None;
        }
        let named = overrides.interface.clone();
        let Some(name) = named.or_else(|| server.interface.as_ref().map(|name| name.get_ref().clone()))
        else {
            if overrides.partial {
                return None;
            }
            self.problem(
                None,
                "no interface is named; give --interface NAME, or `interface = \"NAME\"` under [server] \
                 (`ip link` lists them)",
            );
            return None;
        };
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        if name.is_empty() || name.len() > INTERFACE_BYTES_MAX || !name.bytes().all(plain) {
            let span = server.interface.as_ref().map(Spanned::span);
            self.problem(span, format!("`{name}` cannot be an interface; write a name that `ip link` lists"));
        }
        Some(name)
    }

    fn boot_arguments(&mut self, of_file: Option<Spanned<String>>, overrides: &Overrides) -> String {
        let of_file = of_file.map(|words| ("boot.arguments", Some(words.span()), words.into_inner()));
        let given = overrides.boot_arguments.clone().map(|words| ("--boot-arguments", None, words));
        for (key, span, words) in [&of_file, &given].into_iter().flatten() {
            if let Some(problem) = boot_menu::kernel_words_problem(words) {
                self.problem(span.clone(), format!("{key}: {problem}"));
            }
        }
        given.or(of_file).map(|(.., words)| words).unwrap_or_default()
    }

    fn layout(&mut self, layout: Option<Spanned<Layout>>) -> Layout {
        let Some(layout) = layout else { return Layout::default() };
        let span = layout.span();
        let layout = layout.into_inner();
        match Plan::on(&layout, &Chosen::roomy(&layout), &Seeds::default()) {
            Ok(_) => {}
            Err(PlanError::Problems(problems)) => {
                problems
                    .iter()
                    .for_each(|problem| self.problem(Some(span.clone()), format!("layout: {problem}")));
            }
            Err(error) => self.problem(Some(span), format!("layout: {error}")),
        }
        layout
    }

    fn authorized_keys(&mut self, keys: &[Spanned<String>]) -> Vec<String> {
        for key in keys {
            let line = key.get_ref();
            if line.trim().is_empty() || line.chars().any(char::is_control) {
                self.problem(
                    Some(key.span()),
                    "access.authorized_keys has an entry that is no line; write one `ssh-ed25519 AAAA... name` each",
                );
            }
        }
        keys.iter().map(|key| key.get_ref().clone()).collect()
    }

    fn module_names(&mut self, names: &[Spanned<String>]) -> Vec<String> {
        for name in names {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            if name.get_ref().is_empty() || !name.get_ref().bytes().all(plain) {
                let text = name.get_ref();
                self.problem(
                    Some(name.span()),
                    format!("deploy.module_deny: `{text}` is no module; write a name such as ixgbe"),
                );
            }
        }
        names.iter().map(|name| name.get_ref().clone()).collect()
    }

    fn linger(&mut self, linger_max_s: Option<Spanned<u64>>) -> u64 {
        let Some(linger) = linger_max_s else { return DEFAULT_LINGER_MAX_S };
        if *linger.get_ref() > LINGER_MAX_S {
            let what =
                format!("deploy.linger_max_s = {} is too long; write 0 to {LINGER_MAX_S}", linger.get_ref());
            self.problem(Some(linger.span()), what);
        }
        linger.into_inner()
    }

    fn nodes(&mut self, raw: &[RawNode]) -> Vec<SiteNode> {
        let mut nodes: Vec<SiteNode> = Vec::new();
        for RawNode { mac, name, .. } in raw {
            if !node_api::is_host_label(name.get_ref()) {
                let what = format!(
                    "node.name = \"{}\" cannot be a host name; write up to 63 of a-z, 0-9 and -, not first or last",
                    name.get_ref()
                );
                self.problem(Some(name.span()), what);
            }
            let Some(mac_address) = self.mac(mac, "node.mac") else { continue };
            let node = SiteNode { mac: mac_address, name: name.get_ref().clone() };
            if nodes.iter().any(|other| other.name == node.name) {
                self.problem(
                    Some(name.span()),
                    format!("node.name = \"{}\" is there twice; remove one", node.name),
                );
            }
            if nodes.iter().any(|other| other.mac == node.mac) {
                self.problem(
                    Some(mac.span()),
                    format!("node.mac = \"{}\" is there twice; remove one", node.mac),
                );
            }
            nodes.push(node);
        }
        nodes
    }

    pub(crate) fn mac(&mut self, text: &Spanned<String>, field: &str) -> Option<MacAddr> {
        let mac = text.get_ref().parse::<MacAddr>().ok().filter(|mac| mac.is_unicast());
        if mac.is_none() {
            let what = format!(
                "{field}: \"{}\" is no hardware address of a NIC; write 52:54:00:aa:bb:cc",
                text.get_ref()
            );
            self.problem(Some(text.span()), what);
        }
        mac
    }

    pub(crate) fn parsed<T: std::str::FromStr>(
        &mut self,
        text: Option<&Spanned<String>>,
        field: &str,
        wanted: &str,
    ) -> Option<T> {
        let text = text?;
        let value = text.get_ref().parse().ok();
        if value.is_none() {
            self.problem(
                Some(text.span()),
                format!("{field} = \"{}\" cannot be read; write {wanted}", text.get_ref()),
            );
        }
        value
    }
}
