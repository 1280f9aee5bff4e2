//! Explains handshakes that fail, from the packets alone: a state machine that is told packets and times.
//!
//! Never opens a socket and never asks a clock.
//!
//! ```text
//!  DISCOVER --> Asking --OFFER--> Offered --REQUEST--> Chose --ACK--> Has --RRQ--> Fetching --DATA--> (done)
//!                                                                     | REQUEST to 4011
//!                                                                     +--> AsksPxe --ACK--> Has
//! ```
//! In each state but the last a node may fall silent, and each silence has usual reasons.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp_wire::{MacAddr, MessageKind, PXE_PORT};

use super::frames::is_answer;

/// EDK2 gathers offers for up to 6 s, iPXE retries after 1, 2, 4 and 8 s: later nothing comes.
const CHOICE_PATIENCE: Duration = Duration::from_secs(12);
/// A server answers within milliseconds; one that probes an address first within 3 s.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// From the address to the first file: firmware sets up its TFTP or HTTP first.
const FETCH_PATIENCE: Duration = Duration::from_secs(15);
/// Nodes that are watched; the longest silent goes first.
const NODES_MAX: usize = 1024;
/// Servers whose offers are told apart.
const OFFERS_MAX: usize = 8;
/// GRUB and shim ask for these and go on without them.
const OPTIONAL: [&str; 5] = [".lst", "revocations", "shim_certificate", "autoexec.ipxe", "grub.cfg-"];

/// What UEFI loads first and may refuse to start, and why it does.
const FIRST_LOADERS: [(&str, Loaded); 3] =
    [("snponly.efi", Loaded::Ipxe), ("ipxe.efi", Loaded::Ipxe), ("shimx64.efi", Loaded::Shim)];

/// One packet of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// On ports 67, 68 or 4011.
    Dhcp(Dhcp),
    /// A wish to read a file.
    TftpRead {
        /// Which.
        name: String,
        /// Whether its size is asked for.
        asks_size: bool,
    },
    /// The server takes options.
    TftpOptions {
        /// Whether it names the size.
        has_size: bool,
    },
    /// Part of a file.
    TftpData,
    /// Part of a file has come.
    TftpAck,
    /// The end, by either side.
    TftpError {
        /// RFC 1350 section 5.
        code: u16,
        /// What the sender says.
        text: String,
    },
}

/// What of a DHCP packet matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dhcp {
    pub(super) mac: MacAddr,
    pub(super) kind: MessageKind,
    /// iPXE, not the firmware before it.
    pub(super) is_ipxe: bool,
    /// Option 60 says PXE or UEFI HTTP boot.
    pub(super) is_pxe: bool,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
    /// The address that is offered or given.
    pub(super) address: Option<Ipv4Addr>,
    /// A boot file is named.
    pub(super) has_file: bool,
    /// Option 60 without 43: the node has to ask port 4011.
    pub(super) sends_to_4011: bool,
}

/// Watches all nodes.
#[derive(Debug, Default)]
pub(super) struct Watch {
    nodes: HashMap<MacAddr, Node>,
    macs: HashMap<Ipv4Addr, MacAddr>,
}

#[derive(Debug)]
struct Node {
    state: State,
    /// When something was last heard that matters.
    since: Duration,
    offers: Vec<Offer>,
    is_pxe: bool,
    has_file: bool,
    /// It got this, which has not asked for anything since.
    loaded: Option<Loaded>,
    asked: u32,
    /// Whether the silence in this state was explained already.
    said: bool,
}

/// A loader that Secure Boot may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    /// Signed by nobody.
    Ipxe,
    /// Signed by Microsoft, for third parties.
    Shim,
}

impl Loaded {
    const fn never_started(self) -> &'static str {
        match self {
            Self::Ipxe => {
                "loaded iPXE and never started it: Secure Boot refuses what nobody signed; a `pxe-server` that gives the \
                 addresses or what to boot sees that too and gives it shim and GRUB from now on; with other servers name \
                 shimx64.efi, or turn Secure Boot off"
            }
            Self::Shim => {
                "loaded shim and never started it: have its Secure Boot trust Microsoft's third-party UEFI CA, or turn \
                 Secure Boot off"
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    server: Ipv4Addr,
    has_file: bool,
    sends_to_4011: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Asking,
    Offered,
    Chose { server: Option<Ipv4Addr> },
    Has,
    AsksPxe { server: Ipv4Addr },
    Fetching { name: String, asks_size: bool, answer: Answer },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    None,
    Options { has_size: bool },
    Ended,
}

impl Watch {
    /// A packet was seen. What it explains at once, as a sentence with a remedy.
    pub(super) fn packet(
        &mut self,
        now: Duration,
        from: SocketAddrV4,
        to: SocketAddrV4,
        content: &Content,
    ) -> Option<String> {
        match content {
            Content::Dhcp(dhcp) => self.dhcp(now, to, dhcp),
            Content::TftpRead { name, asks_size } => {
                let node = self.by_address(*from.ip())?;
                node.loaded = None;
                node.go(
                    now,
                    State::Fetching { name: name.clone(), asks_size: *asks_size, answer: Answer::None },
                );
                None
            }
            Content::TftpOptions { has_size } => {
                self.fetching(now, *to.ip(), Answer::Options { has_size: *has_size });
                None
            }
            Content::TftpData => {
                // Of either direction: a node that gets data, or acknowledges it, does well.
                if let Some(node) = self.by_address(*to.ip()) {
                    if let State::Fetching { name, .. } = &node.state {
                        let loaded = FIRST_LOADERS.iter().find(|(file, _)| name.ends_with(file));
                        node.loaded = loaded.map(|(_, loaded)| *loaded);
                    }
                    node.go(now, State::Done);
                }
                None
            }
            Content::TftpAck => {
                if let Some(node) = self.by_address(*from.ip()) {
                    node.since = now;
                }
                None
            }
            Content::TftpError { code, text } => self.tftp_error(now, (*from.ip(), *to.ip()), *code, text),
        }
    }

    /// Time went by: every silence that has lasted too long, explained once.
    pub(super) fn silences(&mut self, now: Duration) -> Vec<String> {
        let mut said = Vec::new();
        for (mac, node) in &mut self.nodes {
            if node.said || now.saturating_sub(node.since) < node.patience() {
                continue;
            }
            if let Some(text) = node.explain() {
                said.push(format!("{mac}: {text}"));
            }
            node.said = true;
        }
        said.sort();
        said
    }

    fn by_address(&mut self, address: Ipv4Addr) -> Option<&mut Node> {
        let mac = self.macs.get(&address)?;
        self.nodes.get_mut(mac)
    }

    fn node(&mut self, now: Duration, mac: MacAddr) -> &mut Node {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&mac) {
            let oldest = self.nodes.iter().min_by_key(|(_, node)| node.since).map(|(mac, _)| *mac);
            if let Some(oldest) = oldest {
                self.nodes.remove(&oldest);
                self.macs.retain(|_, mac| *mac != oldest);
            }
        }
        self.nodes.entry(mac).or_insert_with(|| Node {
            state: State::Done,
            since: now,
            offers: Vec::new(),
            is_pxe: false,
            has_file: false,
            loaded: None,
            asked: 0,
            said: false,
        })
    }

    fn dhcp(&mut self, now: Duration, to: SocketAddrV4, dhcp: &Dhcp) -> Option<String> {
        let mac = dhcp.mac;
        if let (MessageKind::Ack, Some(address)) = (dhcp.kind, dhcp.address) {
            self.macs.retain(|_, known| *known != mac);
            self.macs.insert(address, mac);
        }
        let node = self.node(now, mac);
        match dhcp.kind {
            MessageKind::Discover => {
                if node.state != State::Asking && node.state != State::Offered {
                    node.offers.clear();
                    node.asked = 0;
                    node.has_file = false;
                    node.go(now, State::Asking);
                }
                // Asking again does not begin the wait anew: the first silence is what has to be explained.
                node.asked += 1;
                node.is_pxe = dhcp.is_pxe;
                if let Some(loaded) = node.loaded.take().filter(|_| dhcp.is_pxe && !dhcp.is_ipxe) {
                    return Some(format!("{mac}: {}", loaded.never_started()));
                }
            }
            MessageKind::Offer => node.offer(now, dhcp),
            MessageKind::Request if to.port() == PXE_PORT => {
                node.is_pxe = true;
                node.go(now, State::AsksPxe { server: *to.ip() });
            }
            MessageKind::Request => node.go(now, State::Chose { server: dhcp.server }),
            kind if is_answer(kind) => return node.answer(now, mac, dhcp),
            _ => {}
        }
        None
    }

    fn fetching(&mut self, now: Duration, address: Ipv4Addr, next: Answer) {
        if let Some(node) = self.by_address(address)
            && let State::Fetching { answer, .. } = &mut node.state
        {
            *answer = next;
            node.since = now;
        }
    }

    fn tftp_error(
        &mut self,
        now: Duration,
        (from, to): (Ipv4Addr, Ipv4Addr),
        code: u16,
        text: &str,
    ) -> Option<String> {
        // From the node it ends a size probe; from the server it ends the boot.
        if let Some(node) = self.by_address(from) {
            if let State::Fetching { answer, .. } = &mut node.state
                && *answer != (Answer::Options { has_size: false })
            {
                *answer = Answer::Ended;
            }
            node.since = now;
            return None;
        }
        let mac = *self.macs.get(&to)?;
        let node = self.nodes.get_mut(&mac)?;
        let State::Fetching { name, .. } = &node.state else { return None };
        let said = format!(
            "{mac}: the TFTP server {from} refuses {name}: {text} (error {code}); put the file into its directory, or correct \
             the name that DHCP gives"
        );
        let optional = OPTIONAL.iter().any(|part| name.contains(part));
        node.go(now, State::Done);
        (!optional).then_some(said)
    }
}

impl Node {
    fn go(&mut self, now: Duration, state: State) {
        self.state = state;
        self.since = now;
        self.said = false;
    }

    fn offer(&mut self, now: Duration, dhcp: &Dhcp) {
        if self.state != State::Asking && self.state != State::Offered {
            return;
        }
        if self.state == State::Asking {
            self.go(now, State::Offered);
        }
        let server = dhcp.server.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let offer = Offer { server, has_file: dhcp.has_file, sends_to_4011: dhcp.sends_to_4011 };
        if self.offers.len() < OFFERS_MAX && !self.offers.contains(&offer) {
            self.offers.push(offer);
        }
    }

    fn answer(&mut self, now: Duration, mac: MacAddr, dhcp: &Dhcp) -> Option<String> {
        if dhcp.kind == MessageKind::Nak {
            self.go(now, State::Done);
            let server = dhcp.server.map_or_else(|| "a server".to_owned(), |server| server.to_string());
            return Some(format!(
                "{mac}: {server} told the node NO (DHCPNAK) for the address that it wanted: another server's address, or a pool \
                 that was changed; the node asks anew, and if it goes on, stop the server that is not to answer here"
            ));
        }
        self.has_file |= dhcp.has_file || self.offers.iter().any(|offer| offer.has_file);
        let next = if self.is_pxe { State::Has } else { State::Done };
        self.go(now, next);
        None
    }

    fn patience(&self) -> Duration {
        match &self.state {
            State::Asking | State::Offered => CHOICE_PATIENCE,
            State::Chose { .. } | State::AsksPxe { .. } => ANSWER_PATIENCE,
            State::Has | State::Fetching { .. } => FETCH_PATIENCE,
            State::Done => Duration::MAX,
        }
    }

    fn explain(&self) -> Option<String> {
        Some(match &self.state {
            State::Done => return None,
            State::Asking => format!(
                "asked for an address {} times and nobody answered; start the server on this interface, see whether its pool is \
                 used up, or let DHCP through the firewall",
                self.asked
            ),
            State::Offered => self.explain_offers(),
            State::Chose { server } => {
                let server = server.map_or_else(|| "a server".to_owned(), |server| server.to_string());
                format!(
                    "chose the offer of {server}, and that never confirmed it; see that server's log: a full disk, or an address \
                     that it gave to somebody else"
                )
            }
            State::Has if self.has_file => "got an address and the name of a boot file and fetches nothing; let UDP port 69 \
                 and TCP port 80 through the firewall, and see whether the address of the boot server can be reached from there"
                .to_owned(),
            State::Has => "got an address, but no server told it what to boot; serve this interface with `mode = \"dhcp\"`, or \
                 with `mode = \"proxy\"` beside the server that gives addresses"
                .to_owned(),
            State::AsksPxe { server } => format!(
                "asks {server} on UDP port 4011 what to boot and gets no answer; start a server there, let port 4011 through its \
                 firewall, or have it send option 43 so that nodes need not ask"
            ),
            State::Fetching { name, asks_size, answer } => explain_fetch(name, *asks_size, *answer),
        })
    }

    fn explain_offers(&self) -> String {
        let mut servers: Vec<String> = self.offers.iter().map(|offer| offer.server.to_string()).collect();
        servers.dedup();
        let list = servers.join(" and ");
        if servers.len() > 1 {
            return format!(
                "{} servers made an offer ({list}), and the node took none; let only one of them answer here, or run this one with \
                 `mode = \"proxy\"`: firmware that sees two offers of which one has no boot file often takes neither",
                servers.len()
            );
        }
        if self.is_pxe && !self.offers.iter().any(|offer| offer.has_file || offer.sends_to_4011) {
            return format!(
                "{list} offers an address without a boot file, and firmware that wants to boot does not take that; serve boot files \
                 for its kind of firmware, or run a server with `mode = \"proxy\"`"
            );
        }
        format!(
            "{list} made an offer, and the node did not take it; the offer may not reach it: a switch port in its first 30 s \
             (spanning tree: set portfast), a VLAN, or a full neighbour table on the server"
        )
    }
}

fn explain_fetch(name: &str, asks_size: bool, answer: Answer) -> String {
    match answer {
        Answer::None => format!(
            "asks for {name} by TFTP and gets no answer; let UDP port 69, and the answers from other ports, through the firewall"
        ),
        Answer::Options { has_size: false } if asks_size => format!(
            "asked for the size of {name} and was not told; its firmware gives up then: the TFTP server has to answer `tsize`"
        ),
        Answer::Ended | Answer::Options { .. } if asks_size => format!(
            "asked for the size of {name} and fetched nothing after; the file may be too large for its firmware, or blocks do not \
             get through: lower the TFTP block size below the path's MTU (1432 bytes are safe)"
        ),
        Answer::Ended | Answer::Options { .. } => {
            format!(
                "began to fetch {name} and fell silent; blocks may not get through: lower the TFTP block size"
            )
        }
    }
}
