//! The tracker: which peers get to know each other (BEP 3, compact form of BEP 23 and BEP 7).
//!
//! Keeps, for each torrent, a random graph in which every member has about [`TrackerConfig::degree`]
//! neighbours, two thirds of them in its own rack where racks are known. Few neighbours are enough (a random
//! graph is connected from about ln N on) and keep the number of HAVE messages small; many would only share each
//! uplink more finely. A seed is tied to a few nodes only, spread over the racks: the crowd does the rest.

mod graph;
mod message;

pub use message::{AnnounceReply, AnnounceRequest, MalformedQuery, MalformedReply, QUERY_BYTES_MAX};

use crate::chance::Chance;
use crate::engine::AnnounceEvent;
use crate::metainfo::InfoHash;
use crate::moment::Moment;
use graph::{Graph, Member, Tie};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Most members of one torrent: the largest site that the design names, six times over.
pub const MEMBERS_MAX: usize = 65_536;

/// Neighbours of a member, before ln N + 3 raises it: seven of 32, ten of a thousand. As few as hold the graph together:
/// whoever has more asks more of them at a time, so each piece takes longer at every hop, most of all in the first
/// seconds, when there are few pieces to pass on (decision 7).
pub const DEGREE: usize = 6;

/// Nodes that a seed is tied to: three times as many, because each of them shares its link among all of its
/// neighbours, and the seed must never wait for them.
pub const SEED_DEGREE: usize = 24;

/// A member that misses this many announces is gone.
const MISSED_MAX: u32 = 4;

/// How often the silent are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Which addresses may take part.
pub enum Admission {
    /// Everyone: for sites that let stock clients in.
    Open,
    /// Only addresses for which this says yes: the nodes that the server knows.
    Known(Box<dyn Fn(IpAddr) -> bool + Send + Sync>),
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Admission::Open => "Open",
            Admission::Known(_) => "Known(..)",
        })
    }
}

/// In which rack an address is.
pub enum Racks {
    /// Nobody knows: one flat graph.
    Unknown,
    /// The rack's number; `None` for an address in no rack.
    Known(Box<dyn Fn(IpAddr) -> Option<u32> + Send + Sync>),
}

impl Racks {
    fn of(&self, address: IpAddr) -> Option<u32> {
        match self {
            Racks::Unknown => None,
            Racks::Known(rack_of) => rack_of(address),
        }
    }
}

impl std::fmt::Debug for Racks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Racks::Unknown => "Unknown",
            Racks::Known(_) => "Known(..)",
        })
    }
}

/// How a tracker behaves.
#[derive(Debug)]
pub struct TrackerConfig {
    /// Who may take part.
    pub admission: Admission,
    /// Where members stand. Default unknown.
    pub racks: Racks,
    /// Neighbours that each member should have; raised to ln N + 3 where that is more. Default
    /// [`DEGREE`].
    pub degree: usize,
    /// Nodes that each seed is tied to. Default [`SEED_DEGREE`].
    pub seed_degree: usize,
    /// Time between announces of a member that lacks neighbours. Default 1 s.
    pub interval_lonely: Duration,
    /// Time between announces of a member that lacks pieces. Default 3 s.
    pub interval_incomplete: Duration,
    /// Time between announces of a complete member. Default 30 s.
    pub interval_complete: Duration,
    /// Where chance comes from.
    pub seed: [u8; 32],
}

impl TrackerConfig {
    /// The defaults, for this admission and seed.
    pub fn new(admission: Admission, seed: [u8; 32]) -> TrackerConfig {
        TrackerConfig {
            admission,
            racks: Racks::Unknown,
            degree: DEGREE,
            seed_degree: SEED_DEGREE,
            interval_lonely: Duration::from_secs(1),
            interval_incomplete: Duration::from_secs(3),
            interval_complete: Duration::from_secs(30),
            seed,
        }
    }
}

/// The state of a tracker. Never opens a socket: an HTTP server gives it queries and sends its replies.
#[derive(Debug)]
pub struct Tracker {
    config: TrackerConfig,
    torrents: BTreeMap<InfoHash, Graph>,
    chance: Chance,
}

impl Tracker {
    /// A tracker of no torrents.
    pub fn new(config: TrackerConfig) -> Tracker {
        let chance = Chance::new(config.seed);
        Tracker { config, torrents: BTreeMap::new(), chance }
    }

    /// From now on this torrent is tracked; others are refused.
    pub fn add_torrent(&mut self, info_hash: InfoHash) {
        self.torrents.entry(info_hash).or_default();
    }

    /// Names a seed that doesn't announce and never falls silent: the server's own.
    pub fn add_seed(&mut self, now: Moment, info_hash: InfoHash, address: SocketAddr) {
        let rack = self.config.racks.of(address.ip());
        let graph = self.torrents.entry(info_hash).or_default();
        graph.remove(address);
        graph.add(now, address, true, rack);
        if let Some(seed) = graph.get_mut(address) {
            seed.permanent = true;
        }
        graph.seat_many(address, self.config.seed_degree, &mut self.chance);
    }

    /// Forgets the torrent and its members.
    pub fn remove_torrent(&mut self, info_hash: InfoHash) {
        self.torrents.remove(&info_hash);
    }

    /// Complete and incomplete members of a torrent.
    pub fn members(&self, info_hash: InfoHash) -> (usize, usize) {
        let Some(graph) = self.torrents.get(&info_hash) else { return (0, 0) };
        let complete = graph.members().filter(|(_, member)| member.complete && !member.permanent).count();
        let incomplete = graph.members().filter(|(_, member)| !member.complete).count();
        (complete, incomplete)
    }

    /// Answers the query part of `GET /announce?...` that came from `from`; the answer is the body to send,
    /// also for queries that are refused (BEP 3's `failure reason`).
    pub fn handle_query(&mut self, now: Moment, from: IpAddr, query: &str) -> Vec<u8> {
        let reply = match AnnounceRequest::parse(query, from) {
            Ok(request) => self.announce(now, &request),
            Err(MalformedQuery(what)) => AnnounceReply::Refused(format!("malformed announce: {what}")),
        };
        reply.encode()
    }

    /// Takes one announce.
    pub fn announce(&mut self, now: Moment, request: &AnnounceRequest) -> AnnounceReply {
        let admitted = match &self.config.admission {
            Admission::Open => true,
            Admission::Known(knows) => knows(request.address.ip()),
        };
        if !admitted {
            return AnnounceReply::Refused("this address is not a known node".to_owned());
        }
        let config = &self.config;
        let Some(graph) = self.torrents.get_mut(&request.info_hash) else {
            return AnnounceReply::Refused("this torrent is not tracked here".to_owned());
        };
        sweep(now, graph, config);
        let address = request.address;
        if request.event == AnnounceEvent::Stopped {
            graph.remove(address);
            return AnnounceReply::Peers { interval: config.interval_complete, peers: Vec::new() };
        }
        let complete = request.left == 0;
        // A seed that lacks something now is a node like any other.
        if graph.get(address).is_some_and(|member| member.is_seed && !complete) {
            graph.remove(address);
        }
        let newcomer = graph.get(address).is_none();
        if newcomer {
            if graph.len() >= MEMBERS_MAX {
                return AnnounceReply::Refused("the swarm is full".to_owned());
            }
            graph.add(now, address, complete, config.racks.of(address.ip()));
        }
        if let Some(member) = graph.get_mut(address) {
            member.seen = now;
            member.complete = complete;
        }
        let degree = degree(config.degree, graph.len());
        // A complete member needs nobody: those who lack pieces find it.
        if !complete {
            graph.tie(address, degree, newcomer, &mut self.chance);
            graph.seat(address, degree, config.seed_degree, &mut self.chance);
        } else if newcomer {
            graph.seat_many(address, config.seed_degree, &mut self.chance);
        }
        let interval = match graph.get(address) {
            _ if complete => config.interval_complete,
            Some(member) if lacks_neighbours(graph, member, degree) => config.interval_lonely,
            _ => config.interval_incomplete,
        };
        AnnounceReply::Peers { interval, peers: named(graph, request) }
    }
}

/// At least ln N + 3 neighbours make it all but sure that a random graph holds together.
fn degree(configured: usize, members: usize) -> usize {
    let mut power = 1.0;
    let mut logarithm = 0;
    while power < members as f64 {
        power *= std::f64::consts::E;
        logarithm += 1;
    }
    configured.max(logarithm + 3)
}

/// Also in a swarm so small that there are no more: somebody may come at any moment.
fn lacks_neighbours(graph: &Graph, member: &Member, degree: usize) -> bool {
    let shares = graph.shares(member.rack, degree);
    member.count(Tie::Near) < shares.near || member.count(Tie::Far) < degree - shares.near
}

/// Forgets the silent.
fn sweep(now: Moment, graph: &mut Graph, config: &TrackerConfig) {
    if now.since(graph.swept) < SWEEP {
        return;
    }
    graph.swept = now;
    let forget_after = |complete: bool| {
        let interval = if complete { config.interval_complete } else { config.interval_incomplete };
        interval * MISSED_MAX + Duration::from_secs(10)
    };
    let silent = graph
        .members()
        .filter(|(_, member)| !member.permanent && now.since(member.seen) > forget_after(member.complete));
    let silent: Vec<SocketAddr> = silent.map(|(address, _)| address).collect();
    silent.into_iter().for_each(|address| graph.remove(address));
}

/// The neighbours to name: all of them, to a complete member only those that lack something.
fn named(graph: &Graph, request: &AnnounceRequest) -> Vec<SocketAddr> {
    let Some(own) = graph.get(request.address) else { return Vec::new() };
    let useful = own
        .neighbours
        .keys()
        .filter(|neighbour| !own.complete || graph.get(**neighbour).is_some_and(|member| !member.complete));
    useful.copied().take(request.wanted).collect()
}

#[cfg(test)]
mod tests;
