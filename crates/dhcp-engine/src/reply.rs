//! The options of each answer.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcp_wire::{Message, MessageKind, code};

use crate::ask::Ask;
use crate::engine::{Port, Reason};
use crate::program::{Architecture, Program};
use crate::settings::{Mode, Settings, Subnet, UefiProxy};

/// PXE 2.1 sub-option 6 = 8: no discovery, no menu, load the file. QUIRK(UEFI): an offer with option 60 but
/// without option 43 makes it ask on port 4011 and fail if nobody answers.
const PXE_LOAD_THE_FILE: [u8; 4] = [6, 1, 8, 255];
/// iPXE's `no-pxedhcp`: don't wait for further PXE offers.
const IPXE_NO_PXEDHCP: [u8; 3] = [0xb0, 1, 1];

/// OFFER or ACK of `address`.
pub(crate) fn give(
    ask: &Ask<'_>,
    kind: MessageKind,
    address: Ipv4Addr,
    lease: Duration,
) -> Result<Message, Reason> {
    let mut message = answer(ask, kind)?;
    let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
    message.set_yiaddr(address).set_number(code::LEASE_TIME, seconds);
    // T1 and T2 as RFC 2131 section 4.4.5 has them.
    message.set_number(code::RENEWAL_TIME, seconds / 2).set_number(code::REBINDING_TIME, seconds / 8 * 7);
    if kind == MessageKind::Ack {
        message.set_ciaddr(ask.packet.ciaddr());
    }
    Ok(message)
}

/// ACK to a node that has its address already.
pub(crate) fn inform(ask: &Ask<'_>) -> Result<Message, Reason> {
    let mut message = answer(ask, MessageKind::Ack)?;
    message.set_ciaddr(ask.packet.ciaddr());
    Ok(message)
}

/// OFFER of no address, beside another server's.
pub(crate) fn proxy_offer(ask: &Ask<'_>) -> Result<Message, Reason> {
    answer(ask, MessageKind::Offer)
}

/// NAK.
pub(crate) fn nak(ask: &Ask<'_>) -> Result<Message, Reason> {
    let mut message = answer(ask, MessageKind::Nak)?;
    // A relay must broadcast it: the node's address is wrong (RFC 2131 section 4.3.2).
    message.set_broadcast();
    message.set_bytes(code::ERROR_TEXT, b"address is not yours")?;
    Ok(message)
}

/// Mask, router and name servers.
pub(crate) fn set_network(message: &mut Message, subnet: &Subnet) -> Result<(), Reason> {
    message.set_number(code::SUBNET_MASK, subnet.prefix.mask());
    message.set_address(code::BROADCAST, subnet.prefix.broadcast());
    if let Some(router) = subnet.router {
        message.set_address(code::ROUTER, router);
    }
    message.set_addresses(code::DNS_SERVER, &subnet.dns)?;
    if let Some(domain) = &subnet.domain {
        message.set_bytes(code::DOMAIN_NAME, domain.as_bytes())?;
    }
    Ok(())
}

/// What the program that asks has to load; `false` if it has nothing to load from us.
pub(crate) fn set_boot(message: &mut Message, ask: &Ask<'_>, settings: &Settings) -> Result<bool, Reason> {
    let boot = &settings.boot;
    let named = match ask.program {
        Program::Ipxe => {
            message.set_siaddr(settings.server).set_boot_file(&boot.script_url)?;
            match settings.mode {
                Mode::Dhcp => message.set_bytes(code::IPXE, &IPXE_NO_PXEDHCP)?,
                // It takes what comes without an address for an offer only if this says so.
                Mode::Proxy => message
                    .set_bytes(code::VENDOR_CLASS, b"PXEClient")?
                    .set_bytes(code::VENDOR, &PXE_LOAD_THE_FILE)?,
            };
            true
        }
        // QUIRK(signed GRUB of Debian 12): shim loads it over HTTP, but it has no module for HTTP, finds no
        // configuration, and stops at its prompt.
        Program::UefiHttp(_) if ask.wants_signed() => false,
        Program::UefiHttp(Architecture::X64) => {
            let Some(url) = &boot.x64_http_url else { return Ok(false) };
            // Without option 60 the firmware takes the answer for one of plain DHCP.
            message.set_bytes(code::VENDOR_CLASS, b"HTTPClient")?;
            message.set_siaddr(settings.server).set_boot_file(url)?;
            true
        }
        Program::PxeRom(Architecture::Bios) => set_pxe(message, settings, boot.bios.as_deref(), true)?,
        Program::PxeRom(Architecture::X64) => {
            // QUIRK(UEFI): much firmware fails on a proxy's offer that says "no discovery"; without option 43 it
            // asks for the file on port 4011, where there is no other answer to choose.
            let is_binl = settings.mode == Mode::Proxy && settings.uefi_proxy == UefiProxy::Binl;
            let says_load = !is_binl || ask.port == Port::Pxe;
            let signed = boot.x64_signed.as_deref().filter(|_| ask.wants_signed());
            set_pxe(message, settings, signed.or(boot.x64.as_deref()), says_load)?
        }
        Program::UefiHttp(Architecture::Bios | Architecture::Other(_))
        | Program::PxeRom(Architecture::Other(_))
        | Program::System => false,
    };
    if named && let Some(machine) = ask.packet.option(code::MACHINE_ID) {
        // RFC 4578 section 2.3: echoed, unless it is longer than any that we could have sent ourselves.
        message
            .set_bytes(code::MACHINE_ID, machine.get(..dhcp_wire::OPTION_BYTES_MAX).unwrap_or(&machine))?;
    }
    Ok(named)
}

fn set_pxe(
    message: &mut Message,
    settings: &Settings,
    file: Option<&str>,
    says_load: bool,
) -> Result<bool, Reason> {
    let Some(file) = file else { return Ok(false) };
    message.set_bytes(code::VENDOR_CLASS, b"PXEClient")?;
    if says_load {
        message.set_bytes(code::VENDOR, &PXE_LOAD_THE_FILE)?;
    }
    message.set_siaddr(settings.server).set_boot_server(&settings.server.to_string())?.set_boot_file(file)?;
    Ok(true)
}

fn answer(ask: &Ask<'_>, kind: MessageKind) -> Result<Message, Reason> {
    let mut message = Message::answer(&ask.packet, kind).ok_or(Reason::NotFromNode)?;
    message.set_address(code::SERVER_ID, ask.server_id);
    Ok(message)
}
