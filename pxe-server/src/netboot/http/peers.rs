//! Boot from peers: who fetches kernel and initrd from whom.
//!
//! Never believes a node about another: a peer is where its own reports came from. Never reads a clock.
//!
//! ```text
//!   a node asks --> a peer of its rack has room: it is sent there (302)
//!               --> none has, and the server may still spend a copy on this rack, or the node has waited long enough:
//!                   it is served here
//!               --> else it waits (503) for the first of its rack to come up
//! ```

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use dhcp_engine::Prefix;

/// Agents report at least every 5 s; one that missed three times may be gone.
const FRESH: Duration = Duration::from_secs(15);
/// Nodes that one peer serves at a time; more share its link and all finish later.
const NODES_PER_PEER_MAX: usize = 6;
/// A node that was sent to a peer has its file by then, or has come back.
const ERRAND: Duration = Duration::from_secs(60);
/// A peer that a node could not fetch from is left alone for so long.
const REST: Duration = Duration::from_secs(60);
/// Copies that the server spends on a rack at once: enough for the first to come up together, and 4 % of a hundred.
const COPIES_FIRST: u32 = 4;
/// After each such time it spends one more.
const COPY_EVERY: Duration = Duration::from_secs(10);
/// Nobody waits longer than this for the first peer of its rack.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nor than this where peers serve: their number grows with the nodes that came up, so that a thousand take some minutes.
const PATIENCE_SERVED: Duration = Duration::from_secs(300);
/// One node in so many is asked to serve others, and this many in each rack in any case.
const NODES_PER_PEER: usize = 8;
const PEERS_MIN: usize = 4;
/// Nodes that are kept in mind; a site has fewer, an attacker with many addresses gets no further.
const NODES_MAX: usize = 16_384;

/// What to do with a node that asks for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Send it to this peer.
    Peer(SocketAddrV4),
    /// Serve it here.
    Here,
    /// Tell it to ask again.
    Wait,
}

/// What is known of a node that serves.
#[derive(Debug)]
struct Peer {
    address: SocketAddrV4,
    reported: Instant,
    rests_until: Option<Instant>,
    served: u64,
}

/// What is known of a node that asks.
#[derive(Clone, Copy, Debug)]
struct Asking {
    /// When it first asked in this boot.
    since: Instant,
    last: Instant,
    /// It was served here, so its second file is too.
    here: bool,
    /// Where it was sent, and when.
    errand: Option<(Ipv4Addr, Instant)>,
}

/// One rack.
#[derive(Debug)]
struct Rack {
    /// Copies that may be spent, in thousandths; grows with time up to [`COPIES_FIRST`].
    copies_milli: u32,
    counted: Instant,
    peers: HashMap<Ipv4Addr, Peer>,
    asking: HashMap<Ipv4Addr, Asking>,
    /// Nodes that were asked to serve, and when.
    invited: HashMap<Ipv4Addr, Instant>,
    enrolled: usize,
}

/// All racks. Until the member view exists, a rack is a subnet.
#[derive(Debug)]
pub(crate) struct BootPeers {
    subnets: Vec<Prefix>,
    racks: HashMap<Option<usize>, Rack>,
}

impl BootPeers {
    /// Racks are `subnets`; what lies in none of them is one rack more.
    pub(in crate::netboot) fn new(subnets: Vec<Prefix>) -> Self {
        Self { subnets, racks: HashMap::new() }
    }

    /// Other subnets; what is known of those that stay is kept.
    pub(in crate::netboot) fn set_subnets(&mut self, subnets: Vec<Prefix>) {
        let place = |old: Option<usize>| match old.map(|old| self.subnets.get(old).copied()) {
            None => Some(None),
            Some(prefix) => subnets.iter().position(|subnet| Some(*subnet) == prefix).map(Some),
        };
        let racks = std::mem::take(&mut self.racks).into_iter();
        self.racks = racks.filter_map(|(old, rack)| Some((place(old)?, rack))).collect();
        self.subnets = subnets;
    }

    /// A node of this address asks for a file. `failed` says that it could not get it where it was sent before.
    pub(crate) fn choose(&mut self, now: Instant, node: Ipv4Addr, failed: bool) -> Choice {
        let rack = self.rack(now, node);
        rack.grow(now);
        let asking = rack.asking(now, node);
        if failed {
            // Whoever claims it blames only the peer that we sent it to, and only once for each errand.
            if let Some((peer, _)) = asking.errand
                && let Some(peer) = rack.peers.get_mut(&peer)
            {
                peer.rests_until = Some(now + REST);
            }
            rack.note(node, Asking { here: true, errand: None, ..asking });
            return Choice::Here;
        }
        if asking.here {
            return Choice::Here;
        }
        let is_to_serve = rack.invited.contains_key(&node);
        if let Some(peer) = rack.best(now, node, is_to_serve) {
            rack.note(node, Asking { errand: Some((*peer.ip(), now)), ..asking });
            return Choice::Peer(peer);
        }
        // A copy for a node that will serve is worth many; one for another is lost to those. So once somebody serves, or is
        // about to, the others wait.
        let is_served = rack.peers.values().any(|peer| peer.rests_until.is_none_or(|until| until <= now));
        let is_about_to = rack.invited.values().any(|at| now.saturating_duration_since(*at) < ERRAND);
        let patience = if is_served { PATIENCE_SERVED } else { PATIENCE };
        let patient = now.saturating_duration_since(asking.since) < patience;
        let may_spend = is_to_serve || !(is_served || is_about_to);
        if rack.copies_milli >= 1000 && may_spend {
            rack.copies_milli -= 1000;
        } else if patient {
            return Choice::Wait;
        }
        rack.note(node, Asking { here: true, errand: None, ..asking });
        Choice::Here
    }

    /// An agent has enrolled: whether it is asked to serve others.
    pub(crate) fn invite(&mut self, now: Instant, node: Ipv4Addr) -> bool {
        let rack = self.rack(now, node);
        rack.enrolled += 1;
        // Its next boot asks anew.
        rack.asking.remove(&node);
        rack.invited.retain(|address, at| {
            *address != node
                && (rack.peers.contains_key(address) || now.saturating_duration_since(*at) < ERRAND)
        });
        let wanted = (rack.enrolled / NODES_PER_PEER).max(PEERS_MIN);
        let invited = rack.invited.len() < wanted.min(NODES_MAX);
        if invited {
            rack.invited.insert(node, now);
        }
        invited
    }

    /// The agent at `node` reports; `port` is where it serves, if it does. Only who was asked to serve is taken up.
    pub(crate) fn reported(&mut self, now: Instant, node: Ipv4Addr, port: Option<u16>) {
        let rack = self.rack(now, node);
        match port {
            Some(port) if rack.invited.contains_key(&node) => {
                let address = SocketAddrV4::new(node, port);
                let peer = rack.peers.entry(node).or_insert(Peer {
                    address,
                    reported: now,
                    rests_until: None,
                    served: 0,
                });
                (peer.address, peer.reported) = (address, now);
            }
            Some(_) | None => {
                rack.peers.remove(&node);
            }
        }
    }

    fn rack(&mut self, now: Instant, node: Ipv4Addr) -> &mut Rack {
        let subnet = self.subnets.iter().position(|subnet| subnet.contains(node));
        self.racks.entry(subnet).or_insert_with(|| Rack {
            copies_milli: COPIES_FIRST * 1000,
            counted: now,
            peers: HashMap::new(),
            asking: HashMap::new(),
            invited: HashMap::new(),
            enrolled: 0,
        })
    }
}

impl Rack {
    fn grow(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted).as_millis() * 1000 / COPY_EVERY.as_millis();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            self.copies_milli = self.copies_milli.saturating_add(passed).min(COPIES_FIRST * 1000);
            self.counted = now;
        }
    }

    /// What is known of a node, begun anew if it has not asked for a while.
    fn asking(&mut self, now: Instant, node: Ipv4Addr) -> Asking {
        let new = Asking { since: now, last: now, here: false, errand: None };
        let known = self.asking.get(&node).copied();
        let known = known.filter(|asking| now.saturating_duration_since(asking.last) < ERRAND).unwrap_or(new);
        if self.asking.len() >= NODES_MAX {
            self.asking.retain(|_, asking| now.saturating_duration_since(asking.last) < ERRAND);
        }
        let asking = Asking { last: now, ..known };
        self.note(node, asking);
        asking
    }

    /// Keeps in mind what is known of a node, if there is room for it.
    fn note(&mut self, node: Ipv4Addr, asking: Asking) {
        if self.asking.len() < NODES_MAX || self.asking.contains_key(&node) {
            self.asking.insert(node, asking);
        }
    }

    /// The peer with the fewest nodes on their way to it, and of these the one that has served least.
    fn best(&mut self, now: Instant, node: Ipv4Addr, is_to_serve: bool) -> Option<SocketAddrV4> {
        let room = if is_to_serve { 2 * NODES_PER_PEER_MAX } else { NODES_PER_PEER_MAX };
        let mut load: HashMap<Ipv4Addr, usize> = HashMap::new();
        for (asking, errand) in self.asking.iter().filter_map(|(node, asking)| Some((node, asking.errand?))) {
            if *asking != node && now.saturating_duration_since(errand.1) < ERRAND {
                *load.entry(errand.0).or_default() += 1;
            }
        }
        self.peers.retain(|_, peer| now.saturating_duration_since(peer.reported) < FRESH);
        let load = |peer: &Peer| load.get(peer.address.ip()).copied().unwrap_or_default();
        let best = self
            .peers
            .values_mut()
            .filter(|peer| *peer.address.ip() != node && peer.rests_until.is_none_or(|until| until <= now))
            .filter(|peer| load(peer) < room)
            .min_by_key(|peer| (load(peer), peer.served, peer.address))?;
        best.served += 1;
        Some(best.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, number)
    }

    fn world() -> (BootPeers, Instant) {
        let rack = |third| Prefix::new(Ipv4Addr::new(10, 0, third, 0), 24).unwrap();
        (BootPeers::new(vec![rack(0), rack(1)]), Instant::now())
    }

    fn serves(peers: &mut BootPeers, now: Instant, number: u8) -> Choice {
        assert!(peers.invite(now, node(number)));
        peers.reported(now, node(number), Some(6980));
        Choice::Peer(SocketAddrV4::new(node(number), 6980))
    }

    #[test]
    fn first_of_a_rack_are_served_here_and_the_others_wait_for_them() {
        let (mut peers, now) = world();
        for number in 1..=4 {
            assert_eq!(peers.choose(now, node(number), false), Choice::Here);
            assert_eq!(peers.choose(now, node(number), false), Choice::Here, "its second file");
        }
        assert_eq!(peers.choose(now, node(5), false), Choice::Wait);
        // Another rack has copies of its own.
        assert_eq!(peers.choose(now, Ipv4Addr::new(10, 0, 1, 5), false), Choice::Here);
        let up = serves(&mut peers, now, 1);
        assert_eq!(peers.choose(now, node(5), false), up);
        assert_eq!(peers.choose(now, Ipv4Addr::new(10, 0, 1, 6), false), Choice::Here, "not over the uplink");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut peers, mut now) = world();
        for number in 1..=4 {
            assert_eq!(peers.choose(now, node(number), false), Choice::Here);
        }
        let mut here = 0;
        for _ in 0..61 {
            now += Duration::from_secs(1);
            here = (5..=40).filter(|number| peers.choose(now, node(*number), false) == Choice::Here).count();
        }
        assert_eq!(here, 36, "all are served when no peer came up in a minute");
    }

    #[test]
    fn peer_serves_so_many_at_a_time() {
        let (mut peers, now) = world();
        let up = serves(&mut peers, now, 1);
        for number in 10..16 {
            assert_eq!(peers.choose(now, node(number), false), up);
        }
        assert_eq!(
            peers.choose(now, node(16), false),
            Choice::Wait,
            "its room is used up, and will not be for long"
        );
        assert_eq!(peers.choose(now, node(10), false), up, "the second file of one that is there already");
        // A node that came up makes room.
        peers.invite(now, node(10));
        assert_eq!(peers.choose(now, node(17), false), up);
    }

    #[test]
    fn peer_that_fails_or_falls_silent_is_left_alone() {
        let (mut peers, mut now) = world();
        let first = serves(&mut peers, now, 1);
        assert_eq!(peers.choose(now, node(10), false), first);
        assert_eq!(peers.choose(now, node(10), true), Choice::Here);
        let second = serves(&mut peers, now, 2);
        assert_eq!(peers.choose(now, node(11), false), second, "the first rests");
        now += FRESH;
        peers.reported(now, node(1), Some(6980));
        assert_eq!(peers.choose(now, node(12), false), Choice::Wait, "the second has not reported");
        now += REST;
        peers.reported(now, node(1), Some(6980));
        assert_eq!(peers.choose(now, node(13), false), first, "rested");
        peers.reported(now, node(1), None);
        assert_ne!(peers.choose(now, node(14), false), first, "it serves no more");
    }

    #[test]
    fn nobody_makes_itself_a_peer_and_nobody_is_sent_to_itself() {
        let (mut peers, now) = world();
        peers.reported(now, node(66), Some(6980));
        assert_eq!(peers.choose(now, node(1), false), Choice::Here);
        serves(&mut peers, now, 2);
        assert_eq!(peers.choose(now, node(2), false), Choice::Here);
        // One in eight is asked to serve, and four in any case.
        let invited = (100..=199).filter(|number| peers.invite(now, node(*number))).count();
        assert_eq!(invited, 12 - 1);
    }

    /// Many nodes at once that ask every five seconds: from its last file a node takes ten seconds to its agent, and an agent
    /// that shall serve fetches both files again, in the same queue and behind all others. Copies from the server, and how
    /// long it took.
    fn storm(nodes: u8) -> (u32, Duration) {
        let (mut peers, mut now) = world();
        let (mut copies, began) = (0, now);
        let mut waiting: Vec<(u8, bool)> = (0..nodes).map(|number| (number, false)).collect();
        let mut up: Vec<(Instant, u8)> = Vec::new();
        let (mut serving, mut served): (Vec<u8>, u8) = (Vec::new(), 0);
        while served < nodes && now < began + Duration::from_secs(600) {
            waiting.sort_by_key(|(_, is_agent)| *is_agent);
            waiting.retain(|(number, is_agent)| {
                // A fifth of them asks in each second.
                let asks = now.duration_since(began).as_secs() % 5 == u64::from(number % 5);
                let choice = if asks { peers.choose(now, node(*number), false) } else { Choice::Wait };
                copies += u32::from(choice == Choice::Here);
                match (choice, is_agent) {
                    (Choice::Wait, _) => return true,
                    (_, true) => serving.push(*number),
                    (_, false) => {
                        served += 1;
                        up.push((now + Duration::from_secs(10), *number));
                    }
                }
                false
            });
            now += Duration::from_secs(1);
            up.retain(|(at, number)| {
                if *at <= now && peers.invite(now, node(*number)) {
                    waiting.push((*number, true));
                }
                *at > now
            });
            for number in &serving {
                peers.reported(now, node(*number), Some(6980));
            }
        }
        (copies, now.duration_since(began))
    }

    #[test]
    fn server_sends_few_copies_however_many_nodes_there_are() {
        for nodes in [50, 100, 250] {
            let (copies, took) = storm(nodes);
            assert!(
                copies <= 8 && took < Duration::from_secs(150),
                "{nodes} nodes: {copies} copies, {took:?}"
            );
        }
    }
}
