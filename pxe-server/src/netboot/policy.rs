//! The seam to the control plane: what netboot tells it and what it decides.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use dhcp_wire::MacAddr;
use node_api::FirmwareKind;

pub(crate) use dhcp_engine::{Hint, Program, Seen as DhcpSeen};

/// Who a node is and what it boots. Calls but `hint` may block for milliseconds; none of those is made from a
/// socket's loop.
pub(crate) trait BootPolicy: Send + Sync {
    /// A node asked for an address (stage `discover`). Best effort: under a flood some are left out.
    fn saw_dhcp(&self, seen: &DhcpSeen);
    /// What DHCP has to know of a node before it answers. Called for each packet, so from memory and at once.
    fn hint(&self, _mac: MacAddr) -> Hint {
        Hint::default()
    }
    /// What the node that fetches its boot script shall do.
    fn decide(&self, request: &BootRequest) -> BootDecision;
    /// A node begins to fetch `vmlinuz` or `initrd.img` (stage `load`).
    fn saw_load(&self, mac: MacAddr, file: &str);
    /// The bundle that nodes boot now. Called for every boot object that is asked for, so it should be cheap.
    fn boot_files(&self) -> BootFiles;
}

/// A node fetches its boot script. Unauthenticated, as everything that firmware says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootRequest {
    /// The NIC that iPXE uses.
    pub(crate) mac: MacAddr,
    /// SMBIOS UUID in lower case; `None` where absent, all zeros or all ones.
    pub(crate) uuid: Option<String>,
    /// SMBIOS serial number, printable, at most 128 characters.
    pub(crate) serial: Option<String>,
    /// Which firmware iPXE runs on.
    pub(crate) platform: FirmwareKind,
    /// Where the request came from.
    pub(crate) address: Ipv4Addr,
}

/// What a node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BootDecision {
    /// Boot from its own disk.
    Local,
    /// Start the agent.
    Agent {
        /// Names this boot; letters, digits, `-` and `_` only.
        token: String,
        /// More words for the kernel command line, such as `console=ttyS1`; may be empty.
        extra_arguments: String,
    },
    /// Go back to the firmware as if there were no server.
    Ignore,
}

/// The boot bundle in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootFiles {
    /// Names the bundle in URLs; letters, digits, `-`, `_` and `.` only.
    pub(crate) bundle_id: String,
    /// The kernel.
    pub(crate) vmlinuz: PathBuf,
    /// The bundle's initrd.
    pub(crate) initrd: PathBuf,
    /// Uncompressed cpio with the site's trust, put before the initrd; padded to 512 bytes.
    pub(crate) site_cpio: std::sync::Arc<[u8]>,
}
