//! What each packet means and what is answered (RFC 2131 section 4.3), without sockets or clock.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use dhcp_wire::{DecodeError, EncodeError, MacAddr, MessageKind, PacketView, code};

use crate::ask::Ask;
use crate::leases::{Held, LeaseBook, Refused};
use crate::limit::Limiter;
use crate::moment::Moment;
use crate::probe::{Probes, Waiting};
use crate::program::Program;
use crate::record::LeaseRecord;
use crate::reply;
use crate::settings::{Hint, Mode, POOL_ADDRESSES_MAX, Seen, Settings, Subnet};

/// The socket that a packet came by, and that its answer leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 67.
    Dhcp,
    /// 4011, where UEFI asks for the boot file again.
    Pxe,
}

/// A packet that came.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// To which socket.
    pub port: Port,
    /// From whom.
    pub source: SocketAddrV4,
    /// The payload.
    pub bytes: &'a [u8],
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// By which socket.
    pub from: Port,
    /// To whom.
    pub to: SocketAddrV4,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Ignore(Reason),
    /// Send at once.
    Send(Reply),
    /// Write the record, and send only when it is on disk.
    Store {
        /// What to write.
        record: LeaseRecord,
        /// What to send then.
        reply: Option<Reply>,
    },
    /// Ask the link who has this address. What is heard goes to [`Engine::hear_arp`].
    Probe(Ipv4Addr),
}

/// Why a packet gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No DHCP packet.
    #[error("malformed")]
    Malformed(#[from] DecodeError),
    /// No request, or none of an Ethernet NIC.
    #[error("not from an Ethernet node")]
    NotFromNode,
    /// It asks too often.
    #[error("too many packets of this node")]
    TooMany,
    /// It is another server's node now.
    #[error("the node took the offer of another server, {0}")]
    OtherServer(Ipv4Addr),
    /// An answer, but not one of ours: a server that was looked for is there.
    #[error("another server, {0}, answers")]
    ForeignAnswer(Ipv4Addr),
    /// No address is left for it.
    #[error("no address is free")]
    PoolExhausted,
    /// A reserved address is in use by somebody else.
    #[error("somebody else uses {0}, the node's own address")]
    ReservedInUse(Ipv4Addr),
    /// No subnet has this relay.
    #[error("no pool for the network of relay {0}")]
    UnknownRelay(Ipv4Addr),
    /// Its firmware shall go on to its own disk.
    #[error("the node boots from its own disk")]
    LeftAlone,
    /// Nothing to do with us.
    #[error("nothing to say to it")]
    NothingToSay,
    /// What we would say fits no packet.
    #[error("the answer cannot be encoded")]
    Encode(#[from] EncodeError),
}

/// One packet, handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handled {
    /// For the control plane.
    pub seen: Option<Seen>,
    /// For the sockets and the store.
    pub action: Action,
}

/// Leases that are kept in mind though no pool has them: as many as one network has addresses.
const HOMELESS_MAX: usize = POOL_ADDRESSES_MAX as usize;

/// What was done, and the address that the node now has or may have.
type Answered = Result<(Action, Option<Ipv4Addr>), Reason>;

/// The server's whole state but the store's.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    books: Vec<LeaseBook>,
    limiter: Limiter,
    probes: Probes,
    /// Leases that no pool has now, by address.
    homeless: HashMap<u32, Held>,
}

impl Engine {
    /// A server without leases.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let books = books(&settings);
        Self {
            settings,
            books,
            limiter: Limiter::default(),
            probes: Probes::default(),
            homeless: HashMap::new(),
        }
    }

    /// Takes over a lease of the store; `false` if no pool has its address for that node. Settings that bring its pool
    /// back bring it back too.
    pub fn restore(&mut self, record: &LeaseRecord, hint: Hint) -> bool {
        let held = Held::from_record(record, hint.known);
        let taken = self.books.iter_mut().any(|book| book.take_over(&held));
        if !taken {
            self.keep_homeless(held);
        }
        taken
    }

    /// Goes on with other settings, and with every lease and offer whose address is still in a pool or reserved for its
    /// node. Of the leases of the others nothing is lost either: they are known again as soon as their pool is. Mode,
    /// server and NIC stay what they were. The leases that run and are in no pool now.
    pub fn reconfigure(&mut self, now: Moment, settings: Settings) -> usize {
        let Settings { server, own_mac, mode, .. } = self.settings;
        let settings = Settings { server, own_mac, mode, ..settings };
        let books = std::mem::replace(&mut self.books, books(&settings));
        self.settings = settings;
        let homeless = std::mem::take(&mut self.homeless).into_values();
        for held in books.into_iter().flat_map(LeaseBook::into_held).chain(homeless) {
            let is_wanted = held.until > now || held.kept;
            if is_wanted && !self.books.iter_mut().any(|book| book.take_over(&held)) {
                self.keep_homeless(held);
            }
        }
        // What is offered after its probe must still be the node's to have.
        let link = self.books.first();
        self.probes.retain(|address, mac| link.is_some_and(|link| link.is_offered(mac, address)));
        self.homeless.values().filter(|held| held.until > now).count()
    }

    fn keep_homeless(&mut self, held: Held) {
        if self.homeless.len() < HOMELESS_MAX {
            self.homeless.insert(held.address, held);
        }
    }

    /// Handles one packet. `hint` is asked once at most, for a node that will be answered if it can be.
    pub fn handle(&mut self, now: Moment, hint: &dyn Fn(MacAddr) -> Hint, datagram: Datagram<'_>) -> Handled {
        let understood = self.admit(now, hint, datagram).and_then(|(packet, mac, hint)| {
            Ask::new(&self.settings, (datagram.port, datagram.source), packet, mac, hint)
        });
        let (seen, action) = match understood {
            Ok(ask) => match self.answer(now, &ask) {
                Ok((action, address)) => (address.map(|address| ask.seen(address)), action),
                Err(reason) => (None, Action::Ignore(reason)),
            },
            Err(reason) => (None, Action::Ignore(reason)),
        };
        Handled { seen, action }
    }

    /// The NIC `mac` has said on our link that it has `address`. If that was about to be offered to another node,
    /// it rests, and that node is offered another one.
    pub fn hear_arp(
        &mut self,
        now: Moment,
        hint: &dyn Fn(MacAddr) -> Hint,
        address: Ipv4Addr,
        mac: MacAddr,
    ) -> Option<Action> {
        let waiting = self.probes.is_used_by(address, mac)?;
        self.books.first_mut()?.conflict(now, waiting.mac, address)?;
        if !waiting.may_try_another() {
            return Some(Action::Ignore(Reason::PoolExhausted));
        }
        let offered = self.ask_of(&waiting, hint).and_then(|ask| {
            let tries = waiting.tries.saturating_add(1);
            self.offer(now, &ask, tries)
        });
        Some(offered.map_or_else(Action::Ignore, |(action, _)| action))
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.probes.next_end()
    }

    /// The next offer whose address nobody claimed in time; to be called until there is none.
    pub fn handle_timeout(&mut self, now: Moment, hint: &dyn Fn(MacAddr) -> Hint) -> Option<Reply> {
        while let Some((address, waiting)) = self.probes.take_ended(now) {
            let reply =
                self.ask_of(&waiting, hint).and_then(|ask| self.give(&ask, MessageKind::Offer, address));
            if let Ok(reply) = reply {
                return Some(reply);
            }
        }
        None
    }

    fn admit<'a>(
        &mut self,
        now: Moment,
        hint: &dyn Fn(MacAddr) -> Hint,
        datagram: Datagram<'a>,
    ) -> Result<(PacketView<'a>, MacAddr, Hint), Reason> {
        let packet = PacketView::new(datagram.bytes)?;
        if packet.is_reply() && datagram.port == Port::Dhcp {
            let server =
                packet.address_option(code::SERVER_ID).filter(|server| *server != self.settings.server);
            return Err(server.map_or(Reason::NotFromNode, Reason::ForeignAnswer));
        }
        let mac = packet.mac().filter(|_| packet.is_request()).ok_or(Reason::NotFromNode)?;
        if Some(mac) == self.settings.own_mac {
            return Err(Reason::NothingToSay);
        }
        if !self.limiter.admits(now, mac) {
            return Err(Reason::TooMany);
        }
        Ok((packet, mac, hint(mac)))
    }

    fn ask_of<'a>(&self, waiting: &'a Waiting, hint: &dyn Fn(MacAddr) -> Hint) -> Result<Ask<'a>, Reason> {
        let packet = PacketView::new(&waiting.packet)?;
        Ask::new(&self.settings, (Port::Dhcp, waiting.source), packet, waiting.mac, hint(waiting.mac))
    }

    fn answer(&mut self, now: Moment, ask: &Ask<'_>) -> Answered {
        if ask.is_left_alone() {
            return Err(Reason::LeftAlone);
        }
        match (ask.port, self.settings.mode) {
            (Port::Pxe, _) => self.answer_pxe(ask),
            (Port::Dhcp, Mode::Dhcp) => self.answer_dhcp(now, ask),
            (Port::Dhcp, Mode::Proxy) => self.answer_proxy(ask),
        }
    }

    fn answer_dhcp(&mut self, now: Moment, ask: &Ask<'_>) -> Answered {
        let requested = ask.packet.address_option(code::REQUESTED_ADDRESS);
        let is_for_us = ask.other_server(&self.settings).is_none();
        let kind = ask.packet.kind().ok_or(Reason::NothingToSay)?;
        match kind {
            MessageKind::Discover => self.offer(now, ask, 0),
            MessageKind::Request => self.answer_request(now, ask),
            MessageKind::Decline if is_for_us => {
                let address = requested.ok_or(Reason::NothingToSay)?;
                let book = self.book(ask)?;
                let reserved = book.is_reserved(ask.mac, address);
                let declined = book.decline(now, ask.mac, address);
                let reason = if reserved { Reason::ReservedInUse(address) } else { Reason::NothingToSay };
                Ok((Action::Store { record: declined.ok_or(reason)?, reply: None }, None))
            }
            MessageKind::Release if is_for_us => {
                let released = self.book(ask)?.release(now, ask.mac, ask.packet.ciaddr());
                Ok((Action::Store { record: released.ok_or(Reason::NothingToSay)?, reply: None }, None))
            }
            // The answer goes to the address that it says it has, so that must be where the question came from.
            MessageKind::Inform if ask.packet.ciaddr() == *ask.source.ip() => {
                let mut message = reply::inform(ask)?;
                reply::set_network(&mut message, self.subnet(ask)?)?;
                reply::set_boot(&mut message, ask, &self.settings)?;
                let reply = Reply { from: ask.port, to: ask.destination(false), bytes: message.encode()? };
                Ok((Action::Send(reply), Some(ask.packet.ciaddr())))
            }
            _ => Err(Reason::NothingToSay),
        }
    }

    /// Offers an address, at once or, if it is new on our own link, after a probe.
    fn offer(&mut self, now: Moment, ask: &Ask<'_>, tries: u8) -> Answered {
        let requested = ask.packet.address_option(code::REQUESTED_ADDRESS).filter(|_| tries == 0);
        let (mac, known) = (ask.mac, ask.hint.known);
        let offer = self.book(ask)?.offer(now, mac, known, requested).ok_or(Reason::PoolExhausted)?;
        let address = offer.address;
        let is_on_link = ask.subnet == 0 && !ask.is_relayed();
        if self.settings.probe && is_on_link {
            let question = (mac, ask.source, ask.packet.bytes());
            if self.probes.ask_again(address, mac, question.1, question.2) {
                return Err(Reason::NothingToSay);
            }
            if offer.is_new && self.probes.has_room() {
                self.probes.begin(now, address, question, tries);
                return Ok((Action::Probe(address), Some(address)));
            }
        }
        Ok((Action::Send(self.give(ask, MessageKind::Offer, address)?), Some(address)))
    }

    fn answer_request(&mut self, now: Moment, ask: &Ask<'_>) -> Answered {
        let lease = self.subnet(ask)?.lease;
        let is_authoritative = self.settings.authoritative;
        let other = ask.other_server(&self.settings);
        let book = self.book(ask)?;
        if let Some(other) = other {
            book.withdraw_offer(now, ask.mac);
            return Err(Reason::OtherServer(other));
        }
        // SELECTING and INIT-REBOOT name the address in option 50, RENEWING and REBINDING in ciaddr.
        let requested = ask.packet.address_option(code::REQUESTED_ADDRESS);
        let wanted = ask.ciaddr().or(requested).ok_or(Reason::NothingToSay)?;
        match book.lease(now, (ask.mac, ask.hint.known), wanted, lease) {
            Ok(record) => {
                let reply = self.give(ask, MessageKind::Ack, wanted)?;
                Ok((Action::Store { record, reply: Some(reply) }, Some(wanted)))
            }
            // Perhaps another server's address. Only a node that chose us is told no (RFC 2131 section 4.3.2),
            // unless there is no other server.
            Err(Refused::NotInPool)
                if !is_authoritative && ask.packet.address_option(code::SERVER_ID).is_none() =>
            {
                Err(Reason::NothingToSay)
            }
            Err(Refused::NotInPool | Refused::Taken | Refused::HasAnother) => {
                let to = ask.destination(true);
                let reply = Reply { from: ask.port, to, bytes: reply::nak(ask)?.encode()? };
                Ok((Action::Send(reply), None))
            }
        }
    }

    /// Port 67 beside another server: firmware that looks for a server is told what to boot, and nobody else and
    /// nothing else. Its REQUEST is that server's.
    fn answer_proxy(&self, ask: &Ask<'_>) -> Answered {
        if ask.packet.kind() != Some(MessageKind::Discover) {
            let request = ask.packet.kind() == Some(MessageKind::Request);
            let other = ask.other_server(&self.settings).filter(|_| request);
            return Err(other.map_or(Reason::NothingToSay, Reason::OtherServer));
        }
        let mut message = reply::proxy_offer(ask)?;
        if ask.program == Program::System || !reply::set_boot(&mut message, ask, &self.settings)? {
            return Err(Reason::NothingToSay);
        }
        let reply = Reply { from: ask.port, to: ask.destination(false), bytes: message.encode()? };
        Ok((Action::Send(reply), Some(ask.packet.ciaddr())))
    }

    /// Port 4011: only what to boot, for firmware that has its address already.
    fn answer_pxe(&self, ask: &Ask<'_>) -> Answered {
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

    fn give(&self, ask: &Ask<'_>, kind: MessageKind, address: Ipv4Addr) -> Result<Reply, Reason> {
        let subnet = self.subnet(ask)?;
        let mut message = reply::give(ask, kind, address, subnet.lease)?;
        reply::set_network(&mut message, subnet)?;
        reply::set_boot(&mut message, ask, &self.settings)?;
        Ok(Reply { from: ask.port, to: ask.destination(false), bytes: message.encode()? })
    }

    fn subnet(&self, ask: &Ask<'_>) -> Result<&Subnet, Reason> {
        self.settings.subnets.get(ask.subnet).ok_or(Reason::NothingToSay)
    }

    fn book(&mut self, ask: &Ask<'_>) -> Result<&mut LeaseBook, Reason> {
        self.books.get_mut(ask.subnet).ok_or(Reason::NothingToSay)
    }
}

/// A book for each subnet, all addresses free.
fn books(settings: &Settings) -> Vec<LeaseBook> {
    let book = |subnet: &Subnet| {
        let edges = [subnet.prefix.network(), subnet.prefix.broadcast(), settings.server];
        let named = subnet.router.iter().chain(&subnet.dns).chain(&subnet.relays).chain(&subnet.excluded);
        let here = settings.reservations.iter().filter(|it| subnet.prefix.has_node(it.address));
        let reserved: HashMap<MacAddr, u32> = here.map(|it| (it.mac, u32::from(it.address))).collect();
        let excluded: Vec<Ipv4Addr> = edges.iter().chain(named).copied().collect();
        LeaseBook::new(&subnet.pools, &excluded, reserved)
    };
    settings.subnets.iter().map(book).collect()
}
