//! Who boots what: the netboot part asks, the nodes' records answer.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use boot_menu::{Facts, Firmware, Local, Server};
use dhcp_wire::MacAddr;

use crate::bundle::Bundle;
use crate::clock::now_unix_ms;
use crate::fetches::Fetches;
use crate::menus::{self, Current, Give, OnceBook};
use crate::netboot::{
    BootDecision, BootFiles, BootPolicy, BootRequest, DhcpSeen, FirstLoader, Hint, Loader, Program, Refused,
    UefiLoader,
};
use crate::nodes::{Boot, Nodes};
use crate::recent::Recent;

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
    pub(crate) relays: Arc<Relays>,
    /// Who has fetched iPXE or shim and not been heard of since.
    pub(crate) fetches: Fetches,
}

/// Machines that are kept in mind; beyond it rules by relay don't hold for those that were longest not heard of.
const RELAYED_MAX: usize = 20_000;

/// Relays of nodes, from their last DHCP: loaders themselves don't know.
#[derive(Debug)]
pub(crate) struct Relays(Mutex<Recent<MacAddr, Ipv4Addr>>);

impl Default for Relays {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(RELAYED_MAX)))
    }
}

impl Relays {
    fn note(&self, mac: MacAddr, relay: Option<Ipv4Addr>) {
        let mut relays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match relay {
            Some(relay) => relays.insert(mac, relay).map(drop),
            None => relays.remove(&mac).map(drop),
        };
    }

    /// The relay in front of a machine.
    pub(crate) fn of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&mac).copied()
    }
}

impl Policy {
    fn try_decide(&self, request: &BootRequest, server: &Server) -> Result<BootDecision> {
        let site = self.site.get();
        let name = self.nodes.discover(request.mac)?;
        if request.loader == Loader::Ipxe {
            self.runs_ipxe(request.mac)?;
        }
        let known = self.nodes.known_identity(request.mac);
        let facts = Facts { relay: self.relays.of(request.mac), ..menus::facts(request, name, known) };
        let now_unix_ms = now_unix_ms();
        // Should the store fail, nothing is given a second time.
        let had = |rule: &str| self.once.had(request.mac, rule, now_unix_ms).unwrap_or(true);
        let answer = menus::answer(&site.menus, &facts, server, request, had);
        if let Some(rule) = &answer.once {
            // What is remembered of a machine is forgotten with it, so it has to be more than passing.
            self.nodes.keep_known(request.mac)?;
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

impl Policy {
    fn runs_ipxe(&self, mac: MacAddr) -> Result<()> {
        self.fetches.forget(mac);
        self.nodes.runs_ipxe(mac)
    }

    /// Stored before it is forgotten here, so that at no time nobody knows it.
    fn refused_ipxe(&self, mac: MacAddr) -> Result<()> {
        self.nodes.refused_ipxe(mac)?;
        self.fetches.forget(mac);
        Ok(())
    }

    /// Not at the first time; stored before it is forgotten here, as above.
    fn refused_shim(&self, mac: MacAddr) -> Result<()> {
        if self.fetches.refused_shim(mac) {
            self.nodes.refused_shim(mac)?;
            self.fetches.forget(mac);
        }
        Ok(())
    }

    /// What a node's UEFI loads, as far as it was found out.
    fn loader(&self, mac: MacAddr, stored: UefiLoader) -> UefiLoader {
        match (stored, self.fetches.has_fetched(Instant::now(), mac)) {
            (UefiLoader::Ipxe, Some(FirstLoader::Ipxe)) => UefiLoader::IpxeFetched,
            (UefiLoader::Signed, Some(FirstLoader::Shim)) => UefiLoader::SignedFetched,
            (stored, _) => stored,
        }
    }

    /// What is remembered of a machine that begins to boot over the network.
    fn begins(&self, seen: &DhcpSeen) -> Result<()> {
        self.nodes.discover(seen.mac)?;
        self.fetches.has_address(seen.mac, seen.address);
        match seen.program {
            Program::Ipxe => self.runs_ipxe(seen.mac),
            _ if seen.refused == Some(Refused::Ipxe) => self.refused_ipxe(seen.mac),
            _ if seen.refused == Some(Refused::Shim) => self.refused_shim(seen.mac),
            Program::PxeRom(_) | Program::UefiHttp(_) | Program::System => Ok(()),
        }
    }
}

impl BootPolicy for Policy {
    fn saw_dhcp(&self, seen: &DhcpSeen) {
        match seen.program {
            // An installed system, or our own agent, asks for its address: no network boot begins.
            Program::System => {}
            Program::Ipxe | Program::UefiHttp(_) | Program::PxeRom(_) => {
                if let Err(error) = self.begins(seen) {
                    tracing::warn!(mac = %seen.mac, "{error:#}");
                }
                self.relays.note(seen.mac, seen.relay);
                self.nodes.saw_dhcp(seen.mac);
            }
        }
    }

    fn hint(&self, mac: MacAddr) -> Hint {
        let (hint, site) = (self.nodes.hint(mac), self.site.get());
        let loader = self.loader(mac, hint.loader);
        if site.menus.is_silent() {
            return Hint { loader, ..hint };
        }
        // Where the site has menus, they decide, and a node that may choose must get as far as to ask.
        let (name, known, address) = self.nodes.before_boot(mac);
        let known = known.unwrap_or_default();
        let address = address.and_then(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let facts = Facts {
            mac,
            name,
            serial: known.serial,
            uuid: known.uuid,
            address,
            relay: self.relays.of(mac),
            // No rule asks for it.
            firmware: Firmware::Uefi,
        };
        let now_unix_ms = now_unix_ms();
        let had = |rule: &str| self.once.is_known_had(mac, rule, now_unix_ms);
        let local = site.menus.own_disk(&facts, hint.boots_locally, had);
        let loader = match site.menus.secure_boot(&facts) {
            Some(true) => self.loader(mac, UefiLoader::Signed),
            Some(false) => UefiLoader::Ipxe,
            None => loader,
        };
        let left_alone = local == Some(Local::Ignore);
        Hint { boots_locally: local.is_some(), left_alone, loader, ..hint }
    }

    fn saw_fetched(&self, address: Ipv4Addr, what: FirstLoader) {
        self.fetches.fetched(Instant::now(), address, what);
    }

    fn saw_shim_run(&self, address: Ipv4Addr) {
        let Some(mac) = self.fetches.machine(address) else { return };
        self.fetches.forget(mac);
        if let Err(error) = self.nodes.runs_shim(mac) {
            tracing::warn!(%mac, "{error:#}");
        }
    }

    fn node_at(&self, address: Ipv4Addr) -> Option<MacAddr> {
        self.fetches.machine(address).filter(|mac| self.nodes.hint(*mac).known)
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

#[cfg(test)]
mod tests;
