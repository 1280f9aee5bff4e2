//! The seam to the control plane: what netboot tells it and what it decides.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use dhcp_wire::MacAddr;
use node_api::FirmwareKind;

pub(crate) use dhcp_engine::{Hint, Program, Refused, Seen as DhcpSeen, UefiLoader};

/// Who a node is and what it boots. Calls but `hint` and `saw_fetched` may block for milliseconds; none of those
/// is made from a socket's loop.
pub(crate) trait BootPolicy: Send + Sync {
    /// A node asked for an address (stage `discover`). Best effort: under a flood some are left out.
    fn saw_dhcp(&self, seen: &DhcpSeen);
    /// What DHCP has to know of a node before it answers. Called for each packet, so from memory and at once.
    fn hint(&self, _mac: MacAddr) -> Hint {
        Hint::default()
    }
    /// The machine at this address has fetched what x64 UEFI loads first. Called from the loops of sockets, so from
    /// memory and at once.
    fn saw_fetched(&self, _address: Ipv4Addr, _what: FirstLoader) {}
    /// Shim runs on the machine at this address: it asks for what only shim asks for.
    fn saw_shim_run(&self, _address: Ipv4Addr) {}
    /// The one of the site's own nodes that has this address.
    fn node_at(&self, _address: Ipv4Addr) -> Option<MacAddr> {
        None
    }
    /// What the node that fetches its boot script shall do. `server` is where it finds more.
    fn decide(&self, request: &BootRequest, server: &boot_menu::Server) -> BootDecision;
    /// A node begins to fetch `vmlinuz` or `initrd.img` (stage `load`).
    fn saw_load(&self, mac: MacAddr, file: &str);
    /// The bundle that nodes boot now. Called for every boot object that is asked for, so it should be cheap.
    fn boot_files(&self) -> BootFiles;
    /// The directory with the files that menus name; `None`: there is none.
    fn menu_files(&self) -> Option<PathBuf> {
        None
    }
    /// MD5 of `USER:esir:PASSWORD` in hex, for users that may choose protected entries.
    fn password_digest(&self, _user: &str) -> Option<String> {
        None
    }
}

/// What x64 UEFI loads first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstLoader {
    /// iPXE, which is not signed.
    Ipxe,
    /// Shim, which Microsoft signed.
    Shim,
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
    /// Which firmware the loader runs on.
    pub(crate) platform: FirmwareKind,
    /// Which loader asks.
    pub(crate) loader: Loader,
    /// Where the request came from.
    pub(crate) address: Ipv4Addr,
    /// What of the node's menus is asked for.
    pub(crate) asks: Asks,
    /// Who proved a password with this request.
    pub(crate) user: Option<String>,
}

/// The program that reads the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loader {
    /// iPXE.
    Ipxe,
    /// A signed GRUB, behind Secure Boot's shim.
    Grub,
    /// PXELINUX on BIOS, which somebody else's DHCP gave it.
    Pxelinux,
}

/// What of a node's menus is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Where it begins.
    Start,
    /// An entry that was chosen, by name.
    Item(String),
    /// A menu behind another, by name.
    Menu(String),
}

/// What a node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BootDecision {
    /// Boot from its own disk, in the way that suits its firmware.
    Local(boot_menu::Local),
    /// Start the agent.
    Agent {
        /// Names this boot; letters, digits, `-` and `_` only.
        token: String,
        /// More words for the kernel command line, such as `console=ttyS1`; may be empty.
        extra_arguments: String,
    },
    /// Go back to the firmware as if there were no server.
    Ignore,
    /// Run this, in the language of the loader that asks.
    Script(String),
    /// Prove a password first.
    Login,
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
