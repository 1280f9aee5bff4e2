//! The tracker: which peers get to know each other (BEP 3, compact form of BEP 23 and BEP 7).
//!
//! Keeps, for each torrent, a random graph in which every member has about [`TrackerConfig::degree`]
//! neighbours. Few neighbours are enough (a random graph is connected from about ln N on) and keep the number
//! of HAVE messages small; many would only share each uplink more finely. A new member gets half of its
//! neighbours at once, those with the fewest so far; later joiners and its next announces bring the rest.

mod message;

pub use message::{AnnounceReply, AnnounceRequest, MalformedQuery, MalformedReply, QUERY_BYTES_MAX};

use crate::chance::Chance;
use crate::engine::AnnounceEvent;
use crate::metainfo::InfoHash;
use crate::moment::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Most members of one torrent: the largest site that the design names, six times over.
pub const MEMBERS_MAX: usize = 65_536;

/// A member that misses this many announces is gone.
const MISSED_MAX: u32 = 4;

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

/// How a tracker behaves.
#[derive(Debug)]
pub struct TrackerConfig {
    /// Who may take part.
    pub admission: Admission,
    /// Neighbours that each member should have; raised to ln N + 3 where that is more. Default 10, from 8 to 12.
    pub degree: usize,
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
            degree: 10,
            interval_incomplete: Duration::from_secs(3),
            interval_complete: Duration::from_secs(30),
            seed,
        }
    }
}

#[derive(Debug)]
struct Member {
    complete: bool,
    seen: Moment,
    neighbours: BTreeSet<SocketAddr>,
}

type Members = BTreeMap<SocketAddr, Member>;

/// The state of a tracker. Never opens a socket: an HTTP server gives it queries and sends its replies.
#[derive(Debug)]
pub struct Tracker {
    config: TrackerConfig,
    torrents: BTreeMap<InfoHash, Members>,
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

    /// Forgets the torrent and its members.
    pub fn remove_torrent(&mut self, info_hash: InfoHash) {
        self.torrents.remove(&info_hash);
    }

    /// Complete and incomplete members of a torrent.
    pub fn members(&self, info_hash: InfoHash) -> (usize, usize) {
        let Some(members) = self.torrents.get(&info_hash) else { return (0, 0) };
        let complete = members.values().filter(|member| member.complete).count();
        (complete, members.len() - complete)
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
        let forget_after = |complete: bool| {
            let interval =
                if complete { self.config.interval_complete } else { self.config.interval_incomplete };
            interval * MISSED_MAX + Duration::from_secs(10)
        };
        let Some(members) = self.torrents.get_mut(&request.info_hash) else {
            return AnnounceReply::Refused("this torrent is not tracked here".to_owned());
        };
        let gone =
            members.iter().filter(|(_, member)| now.since(member.seen) > forget_after(member.complete));
        let gone: Vec<SocketAddr> = gone.map(|(address, _)| *address).collect();
        gone.into_iter().for_each(|address| remove(members, address));
        if request.event == AnnounceEvent::Stopped {
            remove(members, request.address);
            return AnnounceReply::Peers { interval: self.config.interval_complete, peers: Vec::new() };
        }
        let known = members.contains_key(&request.address);
        if !known && members.len() >= MEMBERS_MAX {
            return AnnounceReply::Refused("the swarm is full".to_owned());
        }
        let fresh = Member { complete: false, seen: now, neighbours: BTreeSet::new() };
        let member = members.entry(request.address).or_insert(fresh);
        member.seen = now;
        member.complete = request.left == 0;
        let (complete, neighbours) = (member.complete, member.neighbours.len());
        let degree = degree(self.config.degree, members.len());
        let wanted = if known || members.len() <= degree + 1 { degree } else { degree.div_ceil(2) };
        // A complete member needs nobody: those who lack pieces find it.
        if !complete || !known {
            connect(members, request.address, wanted.saturating_sub(neighbours), &mut self.chance);
        }
        let interval = if complete { self.config.interval_complete } else { self.config.interval_incomplete };
        AnnounceReply::Peers { interval, peers: named(members, request) }
    }
}

/// At least ln N + 3 neighbours make it all but sure that a random graph holds together.
fn degree(configured: usize, members: usize) -> usize {
    // ln N = log2 N x 0.69, rounded up.
    let logarithm = (members.max(1).ilog2() as usize + 1) * 7 / 10 + 1;
    configured.max(logarithm + 3)
}

fn remove(members: &mut Members, address: SocketAddr) {
    let Some(gone) = members.remove(&address) else { return };
    for neighbour in gone.neighbours {
        if let Some(member) = members.get_mut(&neighbour) {
            member.neighbours.remove(&address);
        }
    }
}

/// Gives `address` up to `count` new neighbours: members with the fewest, chosen by chance among equals.
fn connect(members: &mut Members, address: SocketAddr, count: usize, chance: &mut Chance) {
    if count == 0 {
        return;
    }
    let Some(own) = members.get(&address) else { return };
    let strangers = members.iter().filter(|(other, _)| **other != address && !own.neighbours.contains(other));
    let mut strangers: Vec<(usize, u64, SocketAddr)> =
        strangers.map(|(other, member)| (member.neighbours.len(), chance.bits(), *other)).collect();
    strangers.sort_unstable();
    for (_, _, other) in strangers.into_iter().take(count) {
        if let Some(member) = members.get_mut(&other) {
            member.neighbours.insert(address);
        }
        if let Some(member) = members.get_mut(&address) {
            member.neighbours.insert(other);
        }
    }
}

/// The neighbours to name: all of them, to a complete member only those that lack something.
fn named(members: &Members, request: &AnnounceRequest) -> Vec<SocketAddr> {
    let Some(own) = members.get(&request.address) else { return Vec::new() };
    let useful = own
        .neighbours
        .iter()
        .filter(|neighbour| !own.complete || members.get(neighbour).is_some_and(|member| !member.complete));
    useful.copied().take(request.wanted).collect()
}

#[cfg(test)]
mod tests;
