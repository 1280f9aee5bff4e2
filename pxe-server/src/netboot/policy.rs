//! The seam to the control plane: what netboot tells it and what it decides.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use dhcp_wire::MacAddr;
use node_api::FirmwareKind;

/// Who a node is and what it boots. Calls may block for milliseconds; none is made from a socket's loop.
pub(crate) trait BootPolicy: Send + Sync {
    /// A node asked for an address (stage `discover`). Best effort: under a flood some are left out.
    fn saw_dhcp(&self, seen: &DhcpSeen);
    /// What the node that fetches its boot script shall do.
    fn decide(&self, request: &BootRequest) -> BootDecision;
    /// A node begins to fetch `vmlinuz` or `initrd.img` (stage `load`).
    fn saw_load(&self, mac: MacAddr, file: &str);
    /// The bundle that nodes boot now. Called for every boot object that is asked for, so it should be cheap.
    fn boot_files(&self) -> BootFiles;
}

/// What a DHCP packet says of a node. All of it is unauthenticated text from the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DhcpSeen {
    /// The NIC that asked.
    pub(crate) mac: MacAddr,
    /// Firmware, iPXE or system, as far as the packet shows.
    pub(crate) program: Program,
    /// SMBIOS UUID (option 97).
    pub(crate) uuid: Option<String>,
    /// Vendor class (option 60), printable, at most 64 characters.
    pub(crate) vendor_class: Option<String>,
    /// The address that was offered or given.
    pub(crate) address: Ipv4Addr,
}

/// The program on the node that sent a DHCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// iPXE, in a ROM or chained.
    Ipxe,
    /// UEFI firmware that boots over HTTP.
    UefiHttp(Architecture),
    /// A PXE ROM, BIOS or UEFI.
    PxeRom(Architecture),
    /// Anything else: our agent, an operating system.
    System,
}

/// What a node's firmware can start, as far as it matters to us (option 93, IANA processor architecture types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// PC BIOS.
    Bios,
    /// 64-bit UEFI on x86.
    X64,
    /// Nothing that we have boot files for: the number of the wire.
    Other(u16),
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
