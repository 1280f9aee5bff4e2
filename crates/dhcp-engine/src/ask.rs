//! A readable packet from a node, and where it belongs.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcp_wire::{MacAddr, MessageKind, NODE_PORT, PacketView, SERVER_PORT, code};

use crate::engine::{Port, Reason};
use crate::program::{Architecture, Program, program, vendor_class};
use crate::settings::{Hint, Mode, Refused, Seen, Settings, UefiLoader};

/// What a node asks. Its port, its source and its relay say where the answer goes.
pub(crate) struct Ask<'a> {
    pub(crate) packet: PacketView<'a>,
    pub(crate) mac: MacAddr,
    pub(crate) program: Program,
    pub(crate) port: Port,
    pub(crate) source: SocketAddrV4,
    pub(crate) hint: Hint,
    /// What we call ourselves towards this node (option 54).
    pub(crate) server_id: Ipv4Addr,
    /// Index of its subnet in the settings and in the books; the first in mode [`Mode::Proxy`].
    pub(crate) subnet: usize,
}

impl<'a> Ask<'a> {
    /// Reads the rest of a packet whose hardware address is known.
    pub(crate) fn new(
        settings: &Settings,
        (port, source): (Port, SocketAddrV4),
        packet: PacketView<'a>,
        mac: MacAddr,
        hint: Hint,
    ) -> Result<Self, Reason> {
        let relay = Some(packet.giaddr()).filter(|relay| !relay.is_unspecified());
        let server_id = relay.and(relay_address(&packet, code::RELAY_SERVER_ID)).unwrap_or(settings.server);
        let subnet = match settings.mode {
            Mode::Dhcp => subnet(settings, &packet)?,
            Mode::Proxy => 0,
        };
        Ok(Self { packet, mac, program: program(&packet), port, source, hint, server_id, subnet })
    }

    /// The address that the node has, by its own word.
    pub(crate) fn ciaddr(&self) -> Option<Ipv4Addr> {
        Some(self.packet.ciaddr()).filter(|address| !address.is_unspecified())
    }

    /// Whether it came through a relay.
    pub(crate) fn is_relayed(&self) -> bool {
        !self.packet.giaddr().is_unspecified()
    }

    /// Whether its firmware shall believe that there is no server, and go on to its next boot device. Only questions for a
    /// server are passed over: what has begun is brought to its end.
    pub(crate) fn is_left_alone(&self) -> bool {
        let looks = self.port == Port::Pxe || self.packet.kind() == Some(MessageKind::Discover);
        let alone = match self.program {
            // QUIRK(UEFI): whoever is offered anything by a server that it asked to boot from over HTTP takes it before its
            // own disk or reports an error, and a server can't send it back from there as it sends iPXE back.
            Program::UefiHttp(_) => {
                self.hint.boots_locally
                    || matches!(self.hint.loader, UefiLoader::Signed | UefiLoader::Nothing)
            }
            Program::PxeRom(Architecture::X64) if self.hint.loader == UefiLoader::Nothing => true,
            Program::Ipxe | Program::PxeRom(_) => self.hint.left_alone,
            Program::System => false,
        };
        looks && alone
    }

    /// The server that the node chose, if that is another one.
    pub(crate) fn other_server(&self, settings: &Settings) -> Option<Ipv4Addr> {
        let chosen = self.packet.address_option(code::SERVER_ID)?;
        (chosen != self.server_id && chosen != settings.server).then_some(chosen)
    }

    /// Where an answer on port 67 goes (RFC 2131 section 4.1). To a node without address always by broadcast:
    /// unicast would need an entry in the neighbour table for an address that nobody answers for yet.
    pub(crate) fn destination(&self, is_nak: bool) -> SocketAddrV4 {
        if self.is_relayed() {
            return SocketAddrV4::new(self.packet.giaddr(), SERVER_PORT);
        }
        let node = self.ciaddr().filter(|_| !is_nak).unwrap_or(Ipv4Addr::BROADCAST);
        SocketAddrV4::new(node, NODE_PORT)
    }

    /// For the control plane.
    pub(crate) fn seen(&self, address: Ipv4Addr) -> Seen {
        Seen {
            mac: self.mac,
            program: self.program,
            uuid: self.packet.machine_uuid(),
            vendor_class: vendor_class(&self.packet),
            relay: self.is_relayed().then(|| self.packet.giaddr()),
            address,
            refused: self.refused().filter(|_| self.is_x64_firmware()),
        }
    }

    /// Whether it gets what is signed. Whoever has refused iPXE gets it at once, not only at the next boot.
    pub(crate) fn wants_signed(&self) -> bool {
        self.hint.loader != UefiLoader::Ipxe
    }

    fn refused(&self) -> Option<Refused> {
        match self.hint.loader {
            UefiLoader::IpxeFetched => Some(Refused::Ipxe),
            UefiLoader::SignedFetched => Some(Refused::Shim),
            UefiLoader::Ipxe | UefiLoader::Signed | UefiLoader::Nothing => None,
        }
    }

    fn is_x64_firmware(&self) -> bool {
        matches!(self.program, Program::PxeRom(Architecture::X64) | Program::UefiHttp(Architecture::X64))
    }
}

/// The network that the node is on: what its relay says (RFC 3527 section 3), else where the relay is, else, for a
/// node that comes by itself, where its own address is, else ours.
fn subnet(settings: &Settings, packet: &PacketView<'_>) -> Result<usize, Reason> {
    let of = |address: Ipv4Addr| settings.subnets.iter().position(|subnet| subnet.prefix.contains(address));
    let relay = packet.giaddr();
    if relay.is_unspecified() {
        // A node behind a relay renews its lease straight with us (RFC 2131 section 4.4.5).
        let has_address = packet.kind() != Some(MessageKind::Discover) && !packet.ciaddr().is_unspecified();
        return Ok(has_address.then(|| of(packet.ciaddr())).flatten().unwrap_or(0));
    }
    let found = match relay_address(packet, code::RELAY_LINK_SELECTION) {
        Some(link) => of(link),
        None => {
            of(relay).or_else(|| settings.subnets.iter().position(|subnet| subnet.relays.contains(&relay)))
        }
    };
    found.ok_or(Reason::UnknownRelay(relay))
}

fn relay_address(packet: &PacketView<'_>, code: u8) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.relay_option(code)?).ok()?))
}
