//! Who knows whom in one torrent: a random graph that stays nearly regular while members come and go.
//!
//! A newcomer is tied to half as many members as it should have in the end, drawn from all that have room for
//! one more; those who come later bring the rest, and what is still lacking then is made up at its next
//! announces. Drawing from all that have room, and not just those with the fewest neighbours, is what keeps the
//! graph short: the latest members have the fewest, and ties among them alone would make a chain.

use crate::chance::Chance;
use crate::moment::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Neighbours of one kind that a member may have beyond what it should have. With none to spare the last
/// members to come find nobody; with two, about a third of all have room.
const SPARE: usize = 2;

/// Members looked at for one draw; below that number all of them, above it so many by chance.
const DRAWN_MAX: usize = 96;

/// A rack that a seed doesn't know yet gets a seat also at a full seed, up to so many times its degree.
const SEED_OVERFLOW: usize = 4;

/// Seeds that a node is told of unasked: one more in case the first is gone.
const SEEDS_MAX: usize = 2;

/// How two neighbours stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    /// Same rack.
    Near,
    /// Different racks, or unknown ones.
    Far,
    /// One of them is a seed.
    Seed,
}

/// One member of a torrent.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) complete: bool,
    pub(super) seen: Moment,
    pub(super) rack: Option<u32>,
    /// It was complete when it came: it serves, and is no part of the crowd's own graph.
    pub(super) is_seed: bool,
    /// It never falls silent: the server's own.
    pub(super) permanent: bool,
    pub(super) neighbours: BTreeMap<SocketAddr, Tie>,
    /// Where it stands in the lists that are drawn from.
    place: usize,
    place_in_rack: usize,
}

impl Member {
    pub(super) fn count(&self, tie: Tie) -> usize {
        self.neighbours.values().filter(|other| **other == tie).count()
    }
}

/// How many neighbours of each kind a member should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) near: usize,
    pub(super) far: usize,
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
struct Draw {
    tie: Tie,
    count: usize,
    /// Neighbours that each member should have, of both kinds together.
    degree: usize,
    newcomer: bool,
}

/// The members of one torrent and their ties.
#[derive(Debug, Default)]
pub(super) struct Graph {
    members: BTreeMap<SocketAddr, Member>,
    /// All but the seeds, in no order: what is drawn from.
    crowd: Vec<SocketAddr>,
    racks: BTreeMap<u32, Vec<SocketAddr>>,
    seeds: Vec<SocketAddr>,
    pub(super) swept: Moment,
}

impl Graph {
    pub(super) fn get(&self, address: SocketAddr) -> Option<&Member> {
        self.members.get(&address)
    }

    pub(super) fn get_mut(&mut self, address: SocketAddr) -> Option<&mut Member> {
        self.members.get_mut(&address)
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (SocketAddr, &Member)> {
        self.members.iter().map(|(address, member)| (*address, member))
    }

    /// Takes in a member that is not known yet.
    pub(super) fn add(&mut self, now: Moment, address: SocketAddr, is_seed: bool, rack: Option<u32>) {
        let list = if is_seed { &mut self.seeds } else { &mut self.crowd };
        let place = list.len();
        list.push(address);
        let mut place_in_rack = 0;
        if let Some(rack) = rack.filter(|_| !is_seed) {
            let list = self.racks.entry(rack).or_default();
            place_in_rack = list.len();
            list.push(address);
        }
        let member = Member {
            complete: is_seed,
            seen: now,
            rack,
            is_seed,
            permanent: false,
            neighbours: BTreeMap::new(),
            place,
            place_in_rack,
        };
        self.members.insert(address, member);
    }

    pub(super) fn remove(&mut self, address: SocketAddr) {
        let Some(gone) = self.members.remove(&address) else { return };
        for neighbour in gone.neighbours.keys() {
            if let Some(member) = self.members.get_mut(neighbour) {
                member.neighbours.remove(&address);
            }
        }
        let list = if gone.is_seed { &mut self.seeds } else { &mut self.crowd };
        if let Some(moved) = take_out(list, gone.place)
            && let Some(member) = self.members.get_mut(&moved)
        {
            member.place = gone.place;
        }
        let Some(rack) = gone.rack.filter(|_| !gone.is_seed) else { return };
        let Some(list) = self.racks.get_mut(&rack) else { return };
        if let Some(moved) = take_out(list, gone.place_in_rack)
            && let Some(member) = self.members.get_mut(&moved)
        {
            member.place_in_rack = gone.place_in_rack;
        }
        if list.is_empty() {
            self.racks.remove(&rack);
        }
    }

    /// What a member of this rack should have: two thirds of `degree` inside the rack, or as many as there are
    /// on either side.
    pub(super) fn shares(&self, rack: Option<u32>, degree: usize) -> Shares {
        let others = self.crowd.len().saturating_sub(1);
        let mates = rack.and_then(|rack| self.racks.get(&rack)).map_or(0, Vec::len).saturating_sub(1);
        let strangers = others.saturating_sub(mates);
        let near = near_share(degree).max(degree.saturating_sub(strangers)).min(mates);
        Shares { near, far: degree.saturating_sub(near).min(strangers) }
    }

    /// The same while mates may still be on their way: what is lacking without them is made up later.
    fn first_shares(&self, rack: Option<u32>, degree: usize) -> Shares {
        let Shares { near, far } = self.shares(rack, degree);
        Shares { near, far: if rack.is_some() { far.min(degree - near_share(degree)) } else { far } }
    }

    /// Gives a member of the crowd the neighbours that it lacks; a newcomer gets half.
    pub(super) fn tie(&mut self, address: SocketAddr, degree: usize, newcomer: bool, chance: &mut Chance) {
        let Some(member) = self.members.get(&address) else { return };
        let rack = member.rack;
        let shares = if newcomer { self.first_shares(rack, degree) } else { self.shares(rack, degree) };
        for (tie, share) in [(Tie::Near, shares.near), (Tie::Far, shares.far)] {
            let pool = match (tie, rack) {
                (Tie::Near, Some(rack)) => self.racks.get(&rack).map_or(0, Vec::len),
                _ => self.crowd.len(),
            };
            // In a small swarm there may be nobody to come later.
            let wanted = if newcomer && pool > degree + SPARE { share / 2 } else { share };
            let have = self.members.get(&address).map_or(0, |member| member.count(tie));
            let draw = Draw { tie, count: wanted.saturating_sub(have), degree, newcomer };
            self.draw(address, draw, chance);
        }
    }

    fn draw(&mut self, address: SocketAddr, draw: Draw, chance: &mut Chance) {
        let Some(own) = self.members.get(&address).filter(|_| draw.count > 0) else { return };
        let pool = match (draw.tie, own.rack) {
            (Tie::Near, Some(rack)) => self.racks.get(&rack).map(Vec::as_slice).unwrap_or_default(),
            _ => self.crowd.as_slice(),
        };
        let candidates = sample(pool, chance).into_iter().filter_map(|other| {
            let member = self.members.get(&other)?;
            let fits = other != address && !own.neighbours.contains_key(&other);
            (fits && kind(own, member) == draw.tie).then(|| {
                let shares = self.first_shares(member.rack, draw.degree);
                let share = if draw.tie == Tie::Near { shares.near } else { shares.far };
                let has = member.count(draw.tie);
                (if draw.newcomer && has < share + SPARE { 0 } else { has }, other)
            })
        });
        // By chance among those who have room, for a newcomer; else, and where none has room, the fewest first.
        let mut candidates: Vec<(usize, u64, SocketAddr)> =
            candidates.map(|(rank, other)| (rank, chance.bits(), other)).collect();
        candidates.sort_unstable();
        for (_, _, other) in candidates.into_iter().take(draw.count) {
            self.join(address, other);
        }
    }

    /// Gives a node that knows no seed a seat at one, if there is a seat; and as many more as make up for
    /// neighbours that the crowd can't give.
    pub(super) fn seat(
        &mut self,
        address: SocketAddr,
        degree: usize,
        seed_degree: usize,
        chance: &mut Chance,
    ) {
        let Some(own) = self.members.get(&address) else { return };
        let shares = self.shares(own.rack, degree);
        let lacking = degree.saturating_sub(shares.near + shares.far + own.count(Tie::Seed));
        let wanted = lacking.max(usize::from(own.count(Tie::Seed) == 0));
        let seats = sample(&self.seeds, chance).into_iter().filter_map(|seed| {
            let taken = self.nodes_at(seed).count();
            let free = !own.neighbours.contains_key(&seed) && self.has_seat(seed, own.rack, seed_degree);
            free.then_some((taken, seed))
        });
        let mut seats: Vec<(usize, SocketAddr)> = seats.collect();
        seats.sort_unstable();
        for (_, seed) in seats.into_iter().take(wanted) {
            self.join(address, seed);
        }
    }

    /// Ties a new seed to nodes that are there already.
    pub(super) fn seat_many(&mut self, seed: SocketAddr, seed_degree: usize, chance: &mut Chance) {
        for node in sample(&self.crowd, chance) {
            let Some(member) = self.members.get(&node).filter(|member| !member.complete) else { continue };
            if member.count(Tie::Seed) < SEEDS_MAX && self.has_seat(seed, member.rack, seed_degree) {
                self.join(seed, node);
            }
        }
    }

    /// Whether a node of this rack may be tied to the seed: while it has room, and the rack has no more than its
    /// share of it; the first of a rack also a little beyond.
    fn has_seat(&self, seed: SocketAddr, rack: Option<u32>, seed_degree: usize) -> bool {
        let taken = self.nodes_at(seed).count();
        let Some(rack) = rack else { return taken < seed_degree };
        let ours = self.nodes_at(seed).filter(|node| node.rack == Some(rack)).count();
        let share = seed_degree.div_ceil(self.racks.len().max(1));
        (taken < seed_degree && ours < share) || (ours == 0 && taken < SEED_OVERFLOW * seed_degree)
    }

    /// The nodes tied to a seed that still lack something.
    fn nodes_at(&self, seed: SocketAddr) -> impl Iterator<Item = &Member> {
        let ties = self.members.get(&seed).into_iter().flat_map(|seed| seed.neighbours.keys());
        ties.filter_map(|node| self.members.get(node)).filter(|node| !node.complete)
    }

    fn join(&mut self, one: SocketAddr, other: SocketAddr) {
        let (Some(a), Some(b)) = (self.members.get(&one), self.members.get(&other)) else { return };
        let tie = kind(a, b);
        for (from, to) in [(one, other), (other, one)] {
            if let Some(member) = self.members.get_mut(&from) {
                member.neighbours.insert(to, tie);
            }
        }
    }
}

/// Two thirds.
fn near_share(degree: usize) -> usize {
    (2 * degree + 1) / 3
}

fn kind(a: &Member, b: &Member) -> Tie {
    match (a.rack, b.rack) {
        _ if a.is_seed || b.is_seed => Tie::Seed,
        (Some(a), Some(b)) if a == b => Tie::Near,
        _ => Tie::Far,
    }
}

/// All of a short list, some of a long one.
fn sample(pool: &[SocketAddr], chance: &mut Chance) -> Vec<SocketAddr> {
    if pool.len() <= DRAWN_MAX {
        return pool.to_vec();
    }
    let drawn: BTreeSet<usize> = (0..DRAWN_MAX).map(|_| chance.below(pool.len())).collect();
    drawn.into_iter().filter_map(|at| pool.get(at).copied()).collect()
}

/// Removes the entry at `place`; gives the one that took its place, if any did.
fn take_out(list: &mut Vec<SocketAddr>, place: usize) -> Option<SocketAddr> {
    if place < list.len() {
        list.swap_remove(place);
    }
    list.get(place).copied()
}
