//! What each packet means and what is answered (RFC 2131 section 4.3), without sockets or clock.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

use dhcp_wire::{DecodeError, EncodeError, MacAddr, MessageKind, NODE_PORT, PacketView, SERVER_PORT, code};

use super::Moment;
use super::leases::{LeaseBook, LeaseRecord, Prefix, Refused};
use super::limit::Limiter;
use super::program::{program, vendor_class};
use super::reply;
use crate::netboot::policy::{DhcpSeen, Program};

/// What the server says of itself.
#[derive(Clone, Debug)]
pub(in crate::netboot) struct Settings {
    /// The server's address: DHCP, TFTP and HTTP.
    pub(in crate::netboot) server: Ipv4Addr,
    /// How long a lease lasts.
    pub(in crate::netboot) lease: Duration,
    /// What firmware is told to load.
    pub(in crate::netboot) boot: BootNames,
    /// The networks that nodes are on, the server's own first.
    pub(in crate::netboot) subnets: Vec<Subnet>,
}

/// What each kind of firmware loads; `None` gives it an address and nothing to boot.
#[derive(Clone, Debug, Default)]
pub(in crate::netboot) struct BootNames {
    /// For iPXE: the URL of the boot script; iPXE fills in its `${settings}`.
    pub(in crate::netboot) script_url: String,
    /// For BIOS PXE ROMs, by TFTP.
    pub(in crate::netboot) bios: Option<String>,
    /// For x64 UEFI PXE, by TFTP.
    pub(in crate::netboot) x64: Option<String>,
    /// For x64 UEFI HTTP boot, the whole URL.
    pub(in crate::netboot) x64_http_url: Option<String>,
}

/// One network of nodes, on the server's link or behind a relay.
#[derive(Clone, Debug)]
pub(in crate::netboot) struct Subnet {
    /// Address and length.
    pub(in crate::netboot) prefix: Prefix,
    /// Addresses for nodes.
    pub(in crate::netboot) pool: RangeInclusive<Ipv4Addr>,
    /// Addresses of `pool` that are somebody's already.
    pub(in crate::netboot) excluded: Vec<Ipv4Addr>,
    /// Router that nodes are told.
    pub(in crate::netboot) router: Option<Ipv4Addr>,
    /// Name servers that nodes are told.
    pub(in crate::netboot) dns: Vec<Ipv4Addr>,
}

/// The socket that a packet came by, and that its answer leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// 67.
    Dhcp,
    /// 4011, where UEFI asks for the boot file again.
    Pxe,
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) from: Port,
    pub(super) to: SocketAddrV4,
    pub(super) bytes: Vec<u8>,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Ignore(Reason),
    /// Send at once.
    Send(Reply),
    /// Write the record, and send only when it is on disk.
    Store { record: LeaseRecord, reply: Option<Reply> },
}

/// Why a packet gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reason {
    #[error("malformed")]
    Malformed(#[from] DecodeError),
    #[error("not from an Ethernet node")]
    NotFromNode,
    #[error("too many packets of this node")]
    TooMany,
    #[error("the node took the offer of another server, {0}")]
    OtherServer(Ipv4Addr),
    #[error("no address is free")]
    PoolExhausted,
    #[error("no pool for the network of relay {0}")]
    UnknownRelay(Ipv4Addr),
    #[error("nothing to say to it")]
    NothingToSay,
    #[error("the answer cannot be encoded")]
    Encode(#[from] EncodeError),
}

/// One packet, handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handled {
    /// For the control plane.
    pub(super) seen: Option<DhcpSeen>,
    /// For the socket and the store.
    pub(super) action: Action,
}

/// The server's whole state but the store's.
#[derive(Debug)]
pub(super) struct Engine {
    settings: Settings,
    books: Vec<LeaseBook>,
    limiter: Limiter,
}

/// A readable packet from a node, and where it belongs.
pub(super) struct Ask<'a> {
    pub(super) packet: PacketView<'a>,
    pub(super) mac: MacAddr,
    pub(super) program: Program,
    pub(super) port: Port,
    pub(super) source: SocketAddrV4,
    /// What we call ourselves towards this node (option 54).
    pub(super) server_id: Ipv4Addr,
    /// Index of its subnet in the settings and in the books.
    subnet: usize,
}

impl Engine {
    /// A server without leases.
    pub(super) fn new(settings: Settings) -> Self {
        let book = |subnet: &Subnet| {
            let edges = [subnet.prefix.network(), subnet.prefix.broadcast(), settings.server];
            let named = subnet.router.iter().chain(&subnet.dns).chain(&subnet.excluded).copied();
            LeaseBook::new(&subnet.pool, &edges.into_iter().chain(named).collect::<Vec<_>>())
        };
        let books = settings.subnets.iter().map(book).collect();
        Self { settings, books, limiter: Limiter::default() }
    }

    /// Takes over a lease of the store; `false` if no pool has its address.
    pub(super) fn restore(&mut self, record: &LeaseRecord) -> bool {
        self.books.iter_mut().any(|book| book.restore(record))
    }

    /// Handles one packet that came to `port` from `source`.
    pub(super) fn handle(&mut self, now: Moment, port: Port, source: SocketAddrV4, bytes: &[u8]) -> Handled {
        let (seen, action) = match self.understand(now, port, source, bytes) {
            Ok(ask) => {
                let answered = match port {
                    Port::Dhcp => self.answer(now, &ask),
                    Port::Pxe => self.answer_pxe(&ask),
                };
                match answered {
                    Ok((action, address)) => (address.map(|address| seen(&ask, address)), action),
                    Err(reason) => (None, Action::Ignore(reason)),
                }
            }
            Err(reason) => (None, Action::Ignore(reason)),
        };
        Handled { seen, action }
    }

    fn understand<'a>(
        &mut self,
        now: Moment,
        port: Port,
        source: SocketAddrV4,
        bytes: &'a [u8],
    ) -> Result<Ask<'a>, Reason> {
        let packet = PacketView::new(bytes)?;
        let mac = packet.mac().filter(|_| packet.is_request()).ok_or(Reason::NotFromNode)?;
        if !self.limiter.admits(now, mac) {
            return Err(Reason::TooMany);
        }
        let relay_address =
            |code| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.relay_option(code)?).ok()?));
        let subnet = if packet.giaddr().is_unspecified() {
            0
        } else {
            let link = relay_address(code::RELAY_LINK_SELECTION).unwrap_or(packet.giaddr());
            let found = self.settings.subnets.iter().position(|subnet| subnet.prefix.contains(link));
            found.ok_or(Reason::UnknownRelay(packet.giaddr()))?
        };
        let server_id = relay_address(code::RELAY_SERVER_ID)
            .filter(|_| !packet.giaddr().is_unspecified())
            .unwrap_or(self.settings.server);
        Ok(Ask { packet, mac, program: program(&packet), port, source, server_id, subnet })
    }

    /// Port 67: the action and the address that the node now has or may have.
    fn answer(&mut self, now: Moment, ask: &Ask<'_>) -> Result<(Action, Option<Ipv4Addr>), Reason> {
        let book = self.books.get_mut(ask.subnet).ok_or(Reason::NothingToSay)?;
        let requested = ask.packet.address_option(code::REQUESTED_ADDRESS);
        let for_us = ask.packet.address_option(code::SERVER_ID).is_none_or(|id| id == ask.server_id);
        match ask.packet.kind() {
            Some(MessageKind::Discover) => {
                let address = book.offer(now, ask.mac, requested).ok_or(Reason::PoolExhausted)?;
                let reply = self.reply(ask, MessageKind::Offer, address)?;
                Ok((Action::Send(reply), Some(address)))
            }
            Some(MessageKind::Request) => self.answer_request(now, ask),
            Some(MessageKind::Decline) if for_us => {
                let declined = requested.and_then(|address| book.decline(now, ask.mac, address));
                Ok((Action::Store { record: declined.ok_or(Reason::NothingToSay)?, reply: None }, None))
            }
            Some(MessageKind::Release) if for_us => {
                let released = book.release(now, ask.mac, ask.packet.ciaddr());
                Ok((Action::Store { record: released.ok_or(Reason::NothingToSay)?, reply: None }, None))
            }
            // The answer goes to the address that it says it has, so that must be where the question came from.
            Some(MessageKind::Inform) if ask.packet.ciaddr() == *ask.source.ip() => {
                let mut message = reply::inform(ask)?;
                reply::set_network(&mut message, self.subnet(ask)?)?;
                reply::set_boot(&mut message, ask, &self.settings)?;
                let reply = Reply { from: ask.port, to: destination(ask, false), bytes: message.encode()? };
                Ok((Action::Send(reply), Some(ask.packet.ciaddr())))
            }
            _ => Err(Reason::NothingToSay),
        }
    }

    fn answer_request(&mut self, now: Moment, ask: &Ask<'_>) -> Result<(Action, Option<Ipv4Addr>), Reason> {
        let lease = self.settings.lease;
        let book = self.books.get_mut(ask.subnet).ok_or(Reason::NothingToSay)?;
        let server = ask.packet.address_option(code::SERVER_ID);
        if let Some(other) = server.filter(|id| *id != ask.server_id) {
            book.withdraw_offer(ask.mac);
            return Err(Reason::OtherServer(other));
        }
        // SELECTING and INIT-REBOOT name the address in option 50, RENEWING and REBINDING in ciaddr.
        let ciaddr = Some(ask.packet.ciaddr()).filter(|address| !address.is_unspecified());
        let wanted =
            ciaddr.or(ask.packet.address_option(code::REQUESTED_ADDRESS)).ok_or(Reason::NothingToSay)?;
        match book.lease(now, ask.mac, wanted, lease) {
            Ok(record) => {
                let reply = self.reply(ask, MessageKind::Ack, wanted)?;
                Ok((Action::Store { record, reply: Some(reply) }, Some(wanted)))
            }
            // Perhaps another server's address. Only a node that chose us is told no (RFC 2131 section 4.3.2).
            Err(Refused::NotInPool) if server.is_none() => Err(Reason::NothingToSay),
            Err(Refused::NotInPool | Refused::Taken | Refused::HasAnother) => {
                let reply =
                    Reply { from: ask.port, to: destination(ask, true), bytes: reply::nak(ask)?.encode()? };
                Ok((Action::Send(reply), None))
            }
        }
    }

    /// Port 4011: only what to boot, for firmware that has its address already.
    fn answer_pxe(&self, ask: &Ask<'_>) -> Result<(Action, Option<Ipv4Addr>), Reason> {
        let kind = matches!(
            ask.packet.kind(),
            Some(MessageKind::Request | MessageKind::Discover | MessageKind::Inform)
        );
        if !kind || ask.program == Program::System {
            return Err(Reason::NothingToSay);
        }
        let mut message = reply::inform(ask)?;
        if !reply::set_boot(&mut message, ask, &self.settings)? {
            return Err(Reason::NothingToSay);
        }
        // To where it came from: UEFI asks from its port 4011, and iPXE takes no answer from another port.
        let reply = Reply { from: Port::Pxe, to: ask.source, bytes: message.encode()? };
        Ok((Action::Send(reply), Some(*ask.source.ip())))
    }

    fn reply(&self, ask: &Ask<'_>, kind: MessageKind, address: Ipv4Addr) -> Result<Reply, Reason> {
        let mut message = reply::give(ask, kind, address, self.settings.lease)?;
        reply::set_network(&mut message, self.subnet(ask)?)?;
        reply::set_boot(&mut message, ask, &self.settings)?;
        Ok(Reply { from: ask.port, to: destination(ask, false), bytes: message.encode()? })
    }

    fn subnet(&self, ask: &Ask<'_>) -> Result<&Subnet, Reason> {
        self.settings.subnets.get(ask.subnet).ok_or(Reason::NothingToSay)
    }
}

/// Where an answer on port 67 goes (RFC 2131 section 4.1). To a node without address always by broadcast: unicast
/// would need an entry in the neighbour table for an address that nobody answers for yet.
fn destination(ask: &Ask<'_>, nak: bool) -> SocketAddrV4 {
    let (relay, node) = (ask.packet.giaddr(), ask.packet.ciaddr());
    if !relay.is_unspecified() {
        SocketAddrV4::new(relay, SERVER_PORT)
    } else if node.is_unspecified() || nak {
        SocketAddrV4::new(Ipv4Addr::BROADCAST, NODE_PORT)
    } else {
        SocketAddrV4::new(node, NODE_PORT)
    }
}

fn seen(ask: &Ask<'_>, address: Ipv4Addr) -> DhcpSeen {
    DhcpSeen {
        mac: ask.mac,
        program: ask.program,
        uuid: ask.packet.machine_uuid(),
        vendor_class: vendor_class(&ask.packet),
        address,
    }
}
