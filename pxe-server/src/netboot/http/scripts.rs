//! Decisions become scripts: for iPXE over HTTP, for GRUB over TFTP or HTTP.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use boot_menu::{Firmware, Server, grub, pxelinux};
use dhcp_wire::MacAddr;
use node_api::FirmwareKind;
use tracing::{debug, info, warn};

use super::script::{self, Place, script_url};
use crate::netboot::policy::{Asks, BootDecision, BootPolicy, BootRequest, Loader};

/// What a node that asks for its script is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::netboot) enum Told {
    /// This script.
    Script(String),
    /// To prove a password first.
    Login,
}

/// What a server with this policy and these addresses would tell a node: the text, as the node gets it.
pub(crate) fn told(
    policy: Arc<dyn BootPolicy>,
    (http, agent): (SocketAddrV4, SocketAddrV4),
    request: &BootRequest,
) -> String {
    let scripts = Scripts::new(policy, http, agent);
    match request.loader {
        Loader::Ipxe => match scripts.ipxe(request) {
            Told::Script(script) => script,
            Told::Login => "401 Unauthorized: the node is asked for a password\n".to_owned(),
        },
        Loader::Grub => scripts.grub_for(request),
        Loader::Pxelinux => scripts.pxelinux_for(request),
    }
}

/// Makes scripts.
pub(in crate::netboot) struct Scripts {
    policy: Arc<dyn BootPolicy>,
    pub(super) place: Place,
    server: Server,
}

impl Scripts {
    pub(super) fn new(policy: Arc<dyn BootPolicy>, http: SocketAddrV4, agent: SocketAddrV4) -> Self {
        let server = Server { http, script_url: script_url(http) };
        Self { policy, place: Place { http, agent }, server }
    }

    /// The script for iPXE. Blocks for milliseconds.
    pub(super) fn ipxe(&self, request: &BootRequest) -> Told {
        let decision = self.decide(request);
        Told::Script(match decision {
            BootDecision::Login => return Told::Login,
            BootDecision::Script(script) => script,
            BootDecision::Local(style) => script::local(request.platform, style),
            BootDecision::Ignore => script::ignore(),
            BootDecision::Agent { token, extra_arguments } => {
                let bundle = self.policy.boot_files().bundle_id;
                script::agent(&self.place, &bundle, request.mac, &token, &extra_arguments).unwrap_or_else(
                    |error| {
                        warn!(node = %request.mac, %error, "the boot script cannot be written");
                        script::try_later(&self.place, &error.to_string())
                    },
                )
            }
        })
    }

    /// The configuration that a loader asks for by this name, if it is one of ours. Blocks for milliseconds.
    pub(in crate::netboot) fn named(&self, name: &str, address: Ipv4Addr) -> Option<String> {
        self.grub(name, address).or_else(|| self.pxelinux(name, address))
    }

    fn pxelinux(&self, name: &str, address: Ipv4Addr) -> Option<String> {
        // PXELINUX looks beside itself first, and it may lie among the files of menus.
        let (mac, asks) = match pxelinux::Name::parse(name.strip_prefix("files/").unwrap_or(name))? {
            pxelinux::Name::Node(mac) => (mac, Asks::Start),
            pxelinux::Name::Menu(mac, menu) => (mac, Asks::Menu(menu)),
            pxelinux::Name::Item(mac, item) => (mac, Asks::Item(item)),
        };
        let (platform, loader) = (FirmwareKind::Bios, Loader::Pxelinux);
        let request =
            BootRequest { mac, uuid: None, serial: None, platform, loader, address, asks, user: None };
        Some(self.pxelinux_for(&request))
    }

    fn pxelinux_for(&self, request: &BootRequest) -> String {
        match self.decide(request) {
            BootDecision::Script(config) => config,
            BootDecision::Local(style) => pxelinux::local(style),
            BootDecision::Ignore => pxelinux::message("nothing to boot from this server"),
            BootDecision::Login => pxelinux::message("this entry is behind a password"),
            BootDecision::Agent { token, extra_arguments } => {
                let bundle = self.policy.boot_files().bundle_id;
                let words = self.agent_words(request.mac, &token, &extra_arguments);
                words.and_then(|words| pxelinux::agent(&bundle, &words)).unwrap_or_else(|| {
                    warn!(node = %request.mac, "the boot script cannot be written for PXELINUX");
                    pxelinux::message(
                        "the kernel command line has characters that a boot script cannot carry",
                    )
                })
            }
        }
    }

    fn agent_words(&self, mac: MacAddr, token: &str, extra_arguments: &str) -> Option<Vec<String>> {
        let arguments = script::agent_arguments(&self.place, mac, token, extra_arguments).ok()?;
        Some(arguments.split_ascii_whitespace().map(str::to_owned).collect())
    }

    fn grub(&self, name: &str, address: Ipv4Addr) -> Option<String> {
        let (mac, asks) = match grub::Name::parse(name)? {
            grub::Name::Root => return Some(grub::root()),
            grub::Name::Node(mac) => (mac, Asks::Start),
            grub::Name::Menu(mac, menu) => (mac, Asks::Menu(menu)),
            grub::Name::Item(mac, item) => (mac, Asks::Item(item)),
        };
        let request = BootRequest {
            mac,
            uuid: None,
            serial: None,
            platform: FirmwareKind::Uefi,
            loader: Loader::Grub,
            address,
            asks,
            user: None,
        };
        Some(self.grub_for(&request))
    }

    fn grub_for(&self, request: &BootRequest) -> String {
        match self.decide(request) {
            BootDecision::Script(config) => config,
            BootDecision::Local(style) => grub::local(Firmware::SecureBoot, style),
            BootDecision::Ignore => grub::message("nothing to boot from this server"),
            BootDecision::Login => grub::message("this entry is behind a password"),
            BootDecision::Agent { token, extra_arguments } => {
                self.grub_agent(request.mac, &token, &extra_arguments)
            }
        }
    }

    fn grub_agent(&self, mac: MacAddr, token: &str, extra_arguments: &str) -> String {
        let bundle = self.policy.boot_files().bundle_id;
        let words = self.agent_words(mac, token, extra_arguments);
        words.and_then(|words| grub::agent(&bundle, &words)).unwrap_or_else(|| {
            warn!(node = %mac, "the boot script cannot be written for GRUB");
            grub::message("the kernel command line has characters that a boot script cannot carry")
        })
    }

    fn decide(&self, request: &BootRequest) -> BootDecision {
        let decision = self.policy.decide(request, &self.server);
        let said = match &decision {
            BootDecision::Local(_) => "local",
            BootDecision::Agent { .. } => "agent",
            BootDecision::Ignore => "ignore",
            BootDecision::Script(_) => "menu",
            BootDecision::Login => "login",
        };
        debug!(node = %request.mac, uuid = ?request.uuid, serial = ?request.serial, asks = ?request.asks, "boot script asked for");
        info!(node = %request.mac, address = %request.address, firmware = %request.platform, boot = said, "boot script");
        decision
    }
}
