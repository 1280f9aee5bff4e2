//! Decisions become scripts: for iPXE over HTTP, for GRUB and PXELINUX over TFTP or HTTP.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use boot_menu::{Firmware, Local, Server, grub, pxelinux};
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
        Loader::Grub => scripts.configuration(&GRUB, request),
        Loader::Pxelinux => scripts.configuration(&PXELINUX, request),
    }
}

/// How to say something to a loader that asks for its configuration by name.
struct Language {
    loader: Loader,
    /// The only firmware that we have this loader for.
    platform: FirmwareKind,
    local: fn(Local) -> String,
    message: fn(&str) -> String,
    agent: fn(&str, &[String], &Server) -> Option<String>,
}

static GRUB: Language = Language {
    loader: Loader::Grub,
    platform: FirmwareKind::Uefi,
    local: |style| grub::local(Firmware::SecureBoot, style),
    message: grub::message,
    agent: grub::agent,
};

static PXELINUX: Language = Language {
    loader: Loader::Pxelinux,
    platform: FirmwareKind::Bios,
    local: pxelinux::local,
    message: pxelinux::message,
    agent: |bundle, words, _| pxelinux::agent(bundle, words),
};

/// Which node asks for what in which language; `None` for names that are none of ours, and for GRUB's root.
fn asked(name: &str) -> Option<(&'static Language, MacAddr, Asks)> {
    if let Some(name) = grub::Name::parse(name) {
        return match name {
            grub::Name::Root => None,
            grub::Name::Node(mac) => Some((&GRUB, mac, Asks::Start)),
            grub::Name::Menu(mac, menu) => Some((&GRUB, mac, Asks::Menu(menu))),
            grub::Name::Item(mac, item) => Some((&GRUB, mac, Asks::Item(item))),
        };
    }
    // PXELINUX looks beside itself first, and it may lie among the files of menus.
    Some(match pxelinux::Name::parse(name.strip_prefix("files/").unwrap_or(name))? {
        pxelinux::Name::Node(mac) => (&PXELINUX, mac, Asks::Start),
        pxelinux::Name::Menu(mac, menu) => (&PXELINUX, mac, Asks::Menu(menu)),
        pxelinux::Name::Item(mac, item) => (&PXELINUX, mac, Asks::Item(item)),
    })
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
        if grub::Name::parse(name) == Some(grub::Name::Root) {
            return Some(grub::root());
        }
        let (language, mac, asks) = asked(name)?;
        let (platform, loader) = (language.platform, language.loader);
        let request =
            BootRequest { mac, uuid: None, serial: None, platform, loader, address, asks, user: None };
        Some(self.configuration(language, &request))
    }

    fn configuration(&self, language: &Language, request: &BootRequest) -> String {
        match self.decide(request) {
            BootDecision::Script(config) => config,
            BootDecision::Local(style) => (language.local)(style),
            BootDecision::Ignore => (language.message)("nothing to boot from this server"),
            BootDecision::Login => (language.message)("this entry is behind a password"),
            BootDecision::Agent { token, extra_arguments } => {
                let bundle = self.policy.boot_files().bundle_id;
                let words = script::agent_arguments(&self.place, request.mac, &token, &extra_arguments).ok();
                let words =
                    words.map(|words| words.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>());
                words.and_then(|words| (language.agent)(&bundle, &words, &self.server)).unwrap_or_else(|| {
                    warn!(node = %request.mac, loader = ?request.loader, "the boot script cannot be written");
                    (language.message)(
                        "the kernel command line has characters that a boot script cannot carry",
                    )
                })
            }
        }
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
