//! What the server is told before it starts, and of each node.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use dhcp_wire::MacAddr;

use crate::prefix::Prefix;
use crate::program::Program;

/// Addresses of one subnet's pools; bounds memory, and a broadcast domain of more is no good idea.
pub const POOL_ADDRESSES_MAX: u32 = 65_536;

/// Addresses in a pool.
#[must_use]
pub fn pool_size(pool: &RangeInclusive<Ipv4Addr>) -> u64 {
    u64::from(u32::from(*pool.end()).saturating_sub(u32::from(*pool.start()))).saturating_add(1)
}

/// What the server says of itself and gives.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's address: DHCP, TFTP and HTTP.
    pub server: Ipv4Addr,
    /// The NIC that the server itself asks with when it looks for other servers; never answered.
    pub own_mac: Option<MacAddr>,
    /// Whether addresses are given.
    pub mode: Mode,
    /// Whether the answers for networks that we serve are ours alone: a node that asks for an address that we
    /// don't know is told no, rather than nothing.
    pub authoritative: bool,
    /// Whether new dynamic addresses on our own link are probed before they are offered.
    pub probe: bool,
    /// How UEFI is answered in mode [`Mode::Proxy`].
    pub uefi_proxy: UefiProxy,
    /// What firmware is told to load.
    pub boot: BootNames,
    /// The networks that nodes are on, the server's own first.
    pub subnets: Vec<Subnet>,
    /// Addresses that belong to one node each.
    pub reservations: Vec<Reservation>,
}

/// Whether addresses are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Addresses and what to boot.
    #[default]
    Dhcp,
    /// Only what to boot, beside another server that gives the addresses (PXE 2.1 section 2.2.3).
    Proxy,
}

/// How UEFI is answered in mode [`Mode::Proxy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UefiProxy {
    /// Without option 43: the firmware asks for the file on port 4011. Most firmware takes this.
    #[default]
    Binl,
    /// With "no discovery, load the file" in option 43: for networks that pass no port 4011.
    Direct,
}

/// What each kind of firmware loads; `None` gives it an address and nothing to boot.
#[derive(Clone, Debug, Default)]
pub struct BootNames {
    /// For iPXE: the URL of the boot script; iPXE fills in its `${settings}`.
    pub script_url: String,
    /// For BIOS PXE ROMs, by TFTP.
    pub bios: Option<String>,
    /// For x64 UEFI PXE, by TFTP.
    pub x64: Option<String>,
    /// For x64 UEFI HTTP boot, the whole URL.
    pub x64_http_url: Option<String>,
    /// For x64 UEFI PXE that starts nothing unsigned, by TFTP; `None` gives it what others get.
    pub x64_signed: Option<String>,
}

/// One network of nodes, on the server's link or behind a relay.
#[derive(Clone, Debug)]
pub struct Subnet {
    /// Address and length.
    pub prefix: Prefix,
    /// Addresses for nodes, at most [`POOL_ADDRESSES_MAX`]; none where every node has a reservation.
    pub pools: Vec<RangeInclusive<Ipv4Addr>>,
    /// Addresses of `pools` that are somebody's already.
    pub excluded: Vec<Ipv4Addr>,
    /// Relays that ask for this network with an address that is not in it.
    pub relays: Vec<Ipv4Addr>,
    /// Router that nodes are told.
    pub router: Option<Ipv4Addr>,
    /// Name servers that nodes are told.
    pub dns: Vec<Ipv4Addr>,
    /// Domain that nodes are told.
    pub domain: Option<String>,
    /// How long a lease lasts.
    pub lease: Duration,
}

/// An address that only one node gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The node's NIC.
    pub mac: MacAddr,
    /// Its address, in one of the subnets, in a pool or not.
    pub address: Ipv4Addr,
}

/// What the control plane knows of a node that asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// One of the site's own nodes: strangers never get its address, and it gets one before they do.
    pub known: bool,
    /// It shall boot from its own disk now.
    pub boots_locally: bool,
    /// And its firmware is to get no offer then: it goes on to its next boot device, which it does not from every loader.
    pub left_alone: bool,
    /// What its firmware is given to load, if that is x64 UEFI.
    pub loader: UefiLoader,
}

/// What x64 UEFI is given to load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UefiLoader {
    /// iPXE, which nobody signed.
    #[default]
    Ipxe,
    /// It has fetched iPXE, which was not heard of since: firmware that asks again has refused it, and gets what is
    /// signed.
    IpxeFetched,
    /// What is signed: shim, which loads GRUB. Over HTTP nothing.
    Signed,
    /// It has fetched shim, which was not heard of since: firmware that asks again has refused that too.
    SignedFetched,
    /// It starts neither: no answer, so that it goes on to its next boot device.
    Nothing,
}

/// What firmware has fetched and not started, which shows when it asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// iPXE.
    Ipxe,
    /// Shim.
    Shim,
}

/// What a DHCP packet says of a node. All of it is unauthenticated text from the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The NIC that asked.
    pub mac: MacAddr,
    /// Firmware, iPXE or system, as far as the packet shows.
    pub program: Program,
    /// SMBIOS UUID (option 97).
    pub uuid: Option<String>,
    /// Vendor class (option 60), printable, at most 64 characters.
    pub vendor_class: Option<String>,
    /// The relay agent that forwarded it.
    pub relay: Option<Ipv4Addr>,
    /// The address that was offered or given, or that the node says it has; unspecified where it has none yet.
    pub address: Ipv4Addr,
    /// Its firmware asks again after it had fetched this, and did not start it.
    pub refused: Option<Refused>,
}
