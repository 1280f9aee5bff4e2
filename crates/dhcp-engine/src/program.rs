//! Which program on the node sent a packet: the first match wins, iPXE before the firmware that it runs on.

use dhcp_wire::{PacketView, code};

/// The program on the node that sent a DHCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
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
pub enum Architecture {
    /// PC BIOS.
    Bios,
    /// 64-bit UEFI on x86.
    X64,
    /// Nothing that we have boot files for: the number of the wire.
    Other(u16),
}

/// Longest vendor class that is kept.
const VENDOR_CLASS_CHARS_MAX: usize = 64;

/// The program that sent `packet`.
pub(crate) fn program(packet: &PacketView<'_>) -> Program {
    // QUIRK(iPXE): option 77 is the bare text, without the length bytes of RFC 3004. A chained iPXE still says
    // PXEClient in option 60, so it must be found first or it would be sent iPXE again, for ever.
    let user_class = packet.option(code::USER_CLASS).unwrap_or_default();
    if user_class.windows(4).any(|part| part == b"iPXE") || packet.option(code::IPXE).is_some() {
        return Program::Ipxe;
    }
    let class = packet.option(code::VENDOR_CLASS).unwrap_or_default();
    if class.starts_with(b"HTTPClient") {
        return Program::UefiHttp(architecture(packet, &class));
    }
    if class.starts_with(b"PXEClient") {
        return Program::PxeRom(architecture(packet, &class));
    }
    Program::System
}

/// Option 60 for people and logs.
pub(crate) fn vendor_class(packet: &PacketView<'_>) -> Option<String> {
    let class = packet.option(code::VENDOR_CLASS)?;
    let text = String::from_utf8_lossy(&class);
    let text: String =
        text.chars().filter(|symbol| !symbol.is_control()).take(VENDOR_CLASS_CHARS_MAX).collect();
    (!text.is_empty()).then_some(text)
}

/// The first of option 93 that we can start; without it what the vendor class says (`PXEClient:Arch:00007:...`).
fn architecture(packet: &PacketView<'_>, class: &[u8]) -> Architecture {
    let mut numbers = packet.architectures();
    if numbers.is_empty() {
        let text = String::from_utf8_lossy(class);
        // QUIRK(PXE 1 ROMs): neither says anything; those are all BIOS.
        numbers.push(text.split(':').nth(2).and_then(|number| number.parse().ok()).unwrap_or(0));
    }
    let known = numbers.iter().find_map(|number| match number {
        0 => Some(Architecture::Bios),
        // QUIRK(RFC 4578): it prints 7 as "EFI BC" and 9 as x86-64; firmware sends 7, and IANA's list says x64.
        7 | 9 | 16 => Some(Architecture::X64),
        _ => None,
    });
    known.unwrap_or(Architecture::Other(numbers.first().copied().unwrap_or(0)))
}
