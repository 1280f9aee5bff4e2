//! Who boots what: the netboot part asks, the nodes' records answer.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use boot_menu::{Facts, Server};
use dhcp_wire::MacAddr;

use crate::bundle::Bundle;
use crate::clock::now_unix_ms;
use crate::menus::{self, Current, Give, OnceBook};
use crate::netboot::{BootDecision, BootFiles, BootPolicy, BootRequest, DhcpSeen, Hint, Program};
use crate::nodes::{Boot, Nodes};

/// Answers for the nodes' records.
pub(crate) struct Policy {
    /// Every node.
    pub(crate) nodes: Arc<Nodes>,
    /// What the agent boots from.
    pub(crate) bundle: Arc<Bundle>,
    /// The newest good site file's menus.
    pub(crate) site: Arc<Current>,
    /// Who has had what is given only once.
    pub(crate) once: OnceBook,
    /// Behind which relay a node was seen.
    pub(crate) relays: Relays,
}

/// Machines that are kept in mind; beyond it rules by relay don't hold for those that come later.
const RELAYED_MAX: usize = 20_000;

/// Relays of nodes, from their last DHCP: loaders themselves don't know.
#[derive(Debug, Default)]
pub(crate) struct Relays(Mutex<HashMap<MacAddr, Ipv4Addr>>);

impl Relays {
    fn note(&self, mac: MacAddr, relay: Option<Ipv4Addr>) {
        let mut relays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(relay) = relay else {
            relays.remove(&mac);
            return;
        };
        if relays.len() < RELAYED_MAX || relays.contains_key(&mac) {
            relays.insert(mac, relay);
        }
    }

    fn of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&mac).copied()
    }
}

impl Policy {
    fn try_decide(&self, request: &BootRequest, server: &Server) -> Result<BootDecision> {
        let site = self.site.get();
        let name = self.nodes.discover(request.mac)?;
        let known = self.nodes.known_identity(request.mac);
        let facts = Facts { relay: self.relays.of(request.mac), ..menus::facts(request, name, known) };
        let now_unix_ms = now_unix_ms();
        // Should the store fail, nothing is given a second time.
        let had = |rule: &str| self.once.had(request.mac, rule, now_unix_ms).unwrap_or(true);
        let answer = menus::answer(&site.menus, &facts, server, request, had);
        if let Some(rule) = &answer.once {
            self.once.note(request.mac, rule, now_unix_ms)?;
        }
        let boot = match answer.give {
            Give::Script(script) => return Ok(BootDecision::Script(script)),
            Give::Login => return Ok(BootDecision::Login),
            Give::Task => self.nodes.decide(request.mac)?,
            Give::Inventory => self.nodes.boot_for_inventory(request.mac)?,
        };
        Ok(match boot {
            Boot::Local => BootDecision::Local(answer.local),
            Boot::Agent { token } => {
                BootDecision::Agent { token, extra_arguments: site.boot_arguments.clone() }
            }
        })
    }
}

impl BootPolicy for Policy {
    fn saw_dhcp(&self, seen: &DhcpSeen) {
        match seen.program {
            // An installed system, or our own agent, asks for its address: no network boot begins.
            Program::System => {}
            Program::Ipxe | Program::UefiHttp(_) | Program::PxeRom(_) => {
                if let Err(error) = self.nodes.discover(seen.mac) {
                    tracing::warn!(mac = %seen.mac, "{error:#}");
                }
                self.relays.note(seen.mac, seen.relay);
                self.nodes.saw_dhcp(seen.mac);
            }
        }
    }

    fn hint(&self, mac: MacAddr) -> Hint {
        let hint = self.nodes.hint(mac);
        // Where the site has menus, they decide, and the node must get as far as to ask.
        Hint { boots_locally: hint.boots_locally && self.site.get().menus.is_empty(), ..hint }
    }

    fn decide(&self, request: &BootRequest, server: &Server) -> BootDecision {
        self.try_decide(request, server).unwrap_or_else(|error| {
            // Without its record nobody knows whether the node's disk may be touched.
            tracing::error!(mac = %request.mac, "{error:#}");
            BootDecision::Ignore
        })
    }

    fn saw_load(&self, mac: MacAddr, _file: &str) {
        self.nodes.saw_load(mac);
    }

    fn boot_files(&self) -> BootFiles {
        BootFiles {
            bundle_id: self.bundle.id.clone(),
            vmlinuz: self.bundle.vmlinuz(),
            initrd: self.bundle.initrd(),
            site_cpio: Arc::clone(&self.bundle.site_cpio),
        }
    }

    fn menu_files(&self) -> Option<PathBuf> {
        self.site.get().menu_files.clone()
    }

    fn password_digest(&self, user: &str) -> Option<String> {
        self.site.get().menus.user(user).map(|user| user.digest.clone())
    }
}
