//! What the operator is told, without repeating it for every packet.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcp_engine::{Mode, Reason};
use tracing::{debug, info, warn};

/// Complaints of the same kind are repeated after this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// A server that is still there is named again after this time.
const NAME_SERVER_EVERY: Duration = Duration::from_secs(3600);
/// Other servers that are remembered; more names in the packets are a flood.
const SERVERS_MAX: usize = 64;

/// Says each thing once, and again when it still holds later.
pub(super) struct Complaints {
    mode: Mode,
    said: BTreeMap<&'static str, Instant>,
    servers: BTreeMap<Ipv4Addr, Instant>,
}

impl Complaints {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, said: BTreeMap::new(), servers: BTreeMap::new() }
    }

    /// Other servers that were heard of so far.
    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn about(&mut self, reason: &Reason) {
        match reason {
            Reason::OtherServer(server) => self.other_server(*server, "nodes choose it"),
            Reason::ForeignAnswer(server) => self.other_server(*server, "it answered our own question"),
            Reason::PoolExhausted => {
                self.say("pool", || warn!("no address is free: enlarge the pool or shorten the leases"));
            }
            Reason::ReservedInUse(address) => self.say("reserved", || {
                warn!(%address, "a node found somebody else at the address that is reserved for it; find out who has it")
            }),
            Reason::UnknownRelay(relay) => self.say("relay", || {
                warn!(%relay, "a relay of a network without a pool asks for its nodes; add a [[dhcp.subnet]]")
            }),
            Reason::Encode(error) => self.say("encode", || {
                warn!(error = error as &dyn std::error::Error, "a DHCP answer is impossible");
            }),
            Reason::Malformed(_) | Reason::NotFromNode | Reason::TooMany
            | Reason::LeftAlone | Reason::NothingToSay => {
                debug!(%reason, "DHCP packet ignored");
            }
        }
    }

    pub(super) fn say(&mut self, what: &'static str, log: impl FnOnce()) {
        let now = Instant::now();
        if self.said.get(what).is_none_or(|last| now.duration_since(*last) >= COMPLAIN_EVERY) {
            self.said.insert(what, now);
            log();
        }
    }

    fn other_server(&mut self, server: Ipv4Addr, seen: &str) {
        let now = Instant::now();
        let last = self.servers.get(&server);
        let is_known = last.is_some_and(|last| now.duration_since(*last) < NAME_SERVER_EVERY);
        if is_known || (last.is_none() && self.servers.len() >= SERVERS_MAX) {
            return;
        }
        self.servers.insert(server, now);
        match self.mode {
            Mode::Dhcp => warn!(
                %server, seen,
                "another DHCP server is on this network; nodes that take its addresses may not boot: stop it, or set \
                 dhcp.mode = \"proxy\""
            ),
            Mode::Proxy => info!(%server, seen, "addresses come from this DHCP server"),
        }
    }
}
