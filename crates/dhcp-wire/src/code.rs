//! Option codes by the names of their RFCs.

/// RFC 2132 section 3.3.
pub const SUBNET_MASK: u8 = 1;
/// RFC 2132 section 3.5.
pub const ROUTER: u8 = 3;
/// RFC 2132 section 3.8.
pub const DNS_SERVER: u8 = 6;
/// RFC 2132 section 3.14.
pub const HOST_NAME: u8 = 12;
/// RFC 2132 section 3.17.
pub const DOMAIN_NAME: u8 = 15;
/// RFC 2132 section 5.1.
pub const INTERFACE_MTU: u8 = 26;
/// RFC 2132 section 5.3.
pub const BROADCAST: u8 = 28;
/// RFC 2132 section 8.3.
pub const NTP_SERVER: u8 = 42;
/// RFC 2132 section 8.4; for PXE its sub-options are those of PXE 2.1.
pub const VENDOR: u8 = 43;
/// RFC 2132 section 9.1.
pub const REQUESTED_ADDRESS: u8 = 50;
/// RFC 2132 section 9.2.
pub const LEASE_TIME: u8 = 51;
/// RFC 2132 section 9.3.
pub const OVERLOAD: u8 = 52;
/// RFC 2132 section 9.6.
pub const MESSAGE_KIND: u8 = 53;
/// RFC 2132 section 9.7.
pub const SERVER_ID: u8 = 54;
/// RFC 2132 section 9.8.
pub const PARAMETERS: u8 = 55;
/// RFC 2132 section 9.9.
pub const ERROR_TEXT: u8 = 56;
/// RFC 2132 section 9.10.
pub const SIZE_MAX: u8 = 57;
/// RFC 2132 section 9.11.
pub const RENEWAL_TIME: u8 = 58;
/// RFC 2132 section 9.12.
pub const REBINDING_TIME: u8 = 59;
/// RFC 2132 section 9.13.
pub const VENDOR_CLASS: u8 = 60;
/// RFC 2132 section 9.14.
pub const CLIENT_ID: u8 = 61;
/// RFC 2132 section 9.4.
pub const TFTP_SERVER: u8 = 66;
/// RFC 2132 section 9.5.
pub const BOOT_FILE: u8 = 67;
/// RFC 3004; iPXE sends the bare text `iPXE`.
pub const USER_CLASS: u8 = 77;
/// RFC 3046.
pub const RELAY_AGENT: u8 = 82;
/// RFC 4578 section 2.1.
pub const ARCHITECTURE: u8 = 93;
/// RFC 4578 section 2.2.
pub const NETWORK_INTERFACE: u8 = 94;
/// RFC 4578 section 2.3.
pub const MACHINE_ID: u8 = 97;
/// Etherboot and iPXE encapsulated options.
pub const IPXE: u8 = 175;

/// Sub-option of [`RELAY_AGENT`]: the subnet that the node is on (RFC 3527).
pub const RELAY_LINK_SELECTION: u8 = 5;
/// Sub-option of [`RELAY_AGENT`]: what to say as [`SERVER_ID`] (RFC 5107).
pub const RELAY_SERVER_ID: u8 = 11;

/// No option; one byte.
pub(crate) const PAD: u8 = 0;
/// Last option; one byte.
pub(crate) const END: u8 = 255;
