//! Who boots what: the netboot part asks, the nodes' records answer.

use std::sync::Arc;

use dhcp_wire::MacAddr;

use crate::bundle::Bundle;
use crate::netboot::{BootDecision, BootFiles, BootPolicy, BootRequest, DhcpSeen, Hint, Program};
use crate::nodes::{Boot, Nodes};

/// Answers for the nodes' records.
pub(crate) struct Policy {
    /// Every node.
    pub(crate) nodes: Arc<Nodes>,
    /// What the agent boots from.
    pub(crate) bundle: Arc<Bundle>,
    /// Of the site.
    pub(crate) boot_arguments: String,
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
                self.nodes.saw_dhcp(seen.mac);
            }
        }
    }

    fn hint(&self, mac: MacAddr) -> Hint {
        self.nodes.hint(mac)
    }

    fn decide(&self, request: &BootRequest) -> BootDecision {
        match self.nodes.decide(request.mac) {
            Ok(Boot::Local) => BootDecision::Local,
            Ok(Boot::Agent { token }) => {
                BootDecision::Agent { token, extra_arguments: self.boot_arguments.clone() }
            }
            Err(error) => {
                // Without its record nobody knows whether the node's disk may be touched.
                tracing::error!(mac = %request.mac, "{error:#}");
                BootDecision::Ignore
            }
        }
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
}
