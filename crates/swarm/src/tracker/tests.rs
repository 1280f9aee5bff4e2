use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const TORRENT: InfoHash = InfoHash([1; 20]);

fn address(number: usize) -> SocketAddr {
    let [.., high, low] = u32::try_from(number + 1).unwrap().to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 6881))
}

fn request(number: usize, left: u64, event: AnnounceEvent) -> AnnounceRequest {
    let (info_hash, peer_id) = (TORRENT, [0; 20]);
    AnnounceRequest {
        info_hash,
        peer_id,
        address: address(number),
        left,
        downloaded: 0,
        uploaded: 0,
        event,
        wanted: 50,
    }
}

fn tracker(admission: Admission) -> Tracker {
    let mut tracker = Tracker::new(TrackerConfig::new(admission, [5; 32]));
    tracker.add_torrent(TORRENT);
    tracker
}

fn peers(reply: AnnounceReply) -> Vec<SocketAddr> {
    match reply {
        AnnounceReply::Peers { peers, .. } => peers,
        AnnounceReply::Refused(reason) => panic!("{reason}"),
    }
}

/// A tracker of racks of `size`; numbers count from 0.
fn racked(size: usize) -> Tracker {
    let rack_of = move |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u32::try_from((ip.to_bits() as usize & 0xffff) / size).ok(),
        IpAddr::V6(_) => None,
    };
    let config = TrackerConfig::new(Admission::Open, [5; 32]);
    let mut tracker = Tracker::new(TrackerConfig { racks: Racks::Known(Box::new(rack_of)), ..config });
    tracker.add_torrent(TORRENT);
    tracker
}

fn rack_address(number: usize) -> SocketAddr {
    let [.., high, low] = u32::try_from(number).unwrap().to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 6881))
}

const SEED: usize = 60_000;

/// A seed and a flash crowd that announces in this order, twice.
fn crowd(tracker: &mut Tracker, order: &[usize]) {
    tracker.add_seed(Moment::ZERO, TORRENT, rack_address(SEED));
    for _round in 0..2 {
        for &number in order {
            announce(tracker, number, 1);
        }
    }
}

fn announce(tracker: &mut Tracker, number: usize, left: u64) -> Vec<SocketAddr> {
    let request =
        AnnounceRequest { address: rack_address(number), ..request(number, left, AnnounceEvent::None) };
    peers(tracker.announce(Moment::ZERO, &request))
}

fn graph(tracker: &Tracker) -> &Graph {
    tracker.torrents.get(&TORRENT).unwrap()
}

/// How many members can be reached from the seed, and in how many steps the last.
fn reach(graph: &Graph) -> (usize, usize) {
    let mut reached = BTreeSet::from([rack_address(SEED)]);
    let (mut edge, mut steps) = (vec![rack_address(SEED)], 0);
    while !edge.is_empty() {
        let next = edge.iter().flat_map(|at| graph.get(*at).unwrap().neighbours.keys());
        edge = next.copied().filter(|next| reached.insert(*next)).collect();
        steps += usize::from(!edge.is_empty());
    }
    (reached.len(), steps)
}

/// `band`: how many more neighbours than wanted one may have.
fn check_regular(graph: &Graph, band: usize) -> Result<(), String> {
    let nodes = graph.members().filter(|(_, member)| !member.is_seed).count();
    let wanted = degree(DEGREE, graph.len()).min(nodes - 1);
    for (address, member) in graph.members().filter(|(_, member)| !member.is_seed) {
        let ties = member.count(Tie::Near) + member.count(Tie::Far);
        if !(wanted..=wanted + band).contains(&ties) {
            return Err(format!("{address} has {ties} neighbours instead of {wanted}"));
        }
        let shares = graph.shares(member.rack, wanted);
        if member.count(Tie::Near) < shares.near || member.count(Tie::Near) > shares.near + band {
            return Err(format!("{address} has {} of {} in its rack", member.count(Tie::Near), shares.near));
        }
        for (other, tie) in &member.neighbours {
            if graph.get(*other).and_then(|other| other.neighbours.get(&address)) != Some(tie) {
                return Err(format!("{address} knows {other}, but not the other way round"));
            }
        }
    }
    Ok(())
}

#[test]
fn a_flash_crowd_gets_a_short_regular_graph() {
    for (members, steps_max) in [(2, 1), (9, 1), (32, 3), (1000, 5), (10_000, 7)] {
        let mut tracker = racked(usize::MAX);
        crowd(&mut tracker, &(0..members).collect::<Vec<_>>());
        let (reached, steps) = reach(graph(&tracker));
        assert_eq!(reached, members + 1);
        assert!(steps <= steps_max, "{members} nodes in {steps} steps");
        check_regular(graph(&tracker), 3).unwrap();
    }
}

fn check_racks(order: &[usize], band: usize) {
    let mut tracker = racked(32);
    crowd(&mut tracker, order);
    let graph = graph(&tracker);
    assert_eq!(reach(graph).0, order.len() + 1);
    check_regular(graph, band).unwrap();
    let nodes = || graph.members().map(|(_, member)| member).filter(|member| !member.is_seed);
    let near: usize = nodes().map(|member| member.count(Tie::Near)).sum();
    let far: usize = nodes().map(|member| member.count(Tie::Far)).sum();
    let share = near as f64 / (near + far) as f64;
    assert!((0.60..0.75).contains(&share), "{share} of the neighbours are in the rack");
    let seats = graph.get(rack_address(SEED)).unwrap().neighbours.keys();
    let racks: BTreeSet<_> = seats.map(|node| graph.get(*node).unwrap().rack).collect();
    assert_eq!(racks.len(), order.len() / 32, "each rack has a seat at the seed");
}

#[test]
fn racks_that_arrive_together_or_one_after_the_other_are_woven_together() {
    let mut order: Vec<usize> = (0..640).collect();
    // The first rack knew nobody outside when it came, so it has more ties inside.
    check_racks(&order, 8);
    Chance::new([4; 32]).shuffle(&mut order);
    check_racks(&order, 5);
}

proptest! {
    /// Whoever comes, leaves and completes in whatever order: after one more announce of each, the graph is whole.
    #[test]
    fn churn_leaves_a_regular_connected_graph(
        size in 2_usize..40,
        calls in prop::collection::vec((0_usize..120, 0_u8..8), 50..400),
    ) {
        let mut tracker = racked(size);
        crowd(&mut tracker, &(0..60).collect::<Vec<_>>());
        for (number, call) in calls {
            let event = if call == 0 { AnnounceEvent::Stopped } else { AnnounceEvent::None };
            let left = u64::from(call != 1);
            let address = rack_address(number);
            tracker.announce(Moment::ZERO, &AnnounceRequest { address, ..request(number, left, event) });
        }
        let incomplete: Vec<SocketAddr> =
            graph(&tracker).members().filter(|(_, member)| !member.complete).map(|(address, _)| address).collect();
        for _round in 0..2 {
            for &address in &incomplete {
                tracker.announce(Moment::ZERO, &AnnounceRequest { address, ..request(0, 1, AnnounceEvent::None) });
            }
        }
        let graph = graph(&tracker);
        for address in incomplete {
            let member = graph.get(address).unwrap();
            prop_assert!(!lacks_neighbours(graph, member, degree(DEGREE, graph.len())) || graph.len() < 40);
            prop_assert!(member.neighbours.len() <= 26, "{} neighbours", member.neighbours.len());
        }
        let alone = graph.members().filter(|(_, member)| !member.complete && member.neighbours.is_empty()).count();
        prop_assert_eq!(alone, 0);
    }
}

#[test]
fn the_silent_and_the_stopped_are_forgotten() {
    let mut tracker = tracker(Admission::Open);
    tracker.announce(Moment::ZERO, &request(0, 1, AnnounceEvent::Started));
    tracker.announce(Moment::ZERO, &request(1, 0, AnnounceEvent::Started));
    assert_eq!(tracker.members(TORRENT), (1, 1));
    let later = Moment::ZERO.plus(Duration::from_secs(40));
    assert_eq!(peers(tracker.announce(later, &request(2, 1, AnnounceEvent::Started))), [address(1)]);
    peers(tracker.announce(later, &request(2, 1, AnnounceEvent::Stopped)));
    assert_eq!(tracker.members(TORRENT), (1, 0));
}

#[test]
fn strangers_unknown_torrents_and_nonsense_are_refused_in_bencode() {
    let known = Admission::Known(Box::new(|ip| ip == address(0).ip()));
    let mut tracker = tracker(known);
    assert!(matches!(
        tracker.announce(Moment::ZERO, &request(0, 1, AnnounceEvent::None)),
        AnnounceReply::Peers { .. }
    ));
    assert!(matches!(
        tracker.announce(Moment::ZERO, &request(1, 1, AnnounceEvent::None)),
        AnnounceReply::Refused(_)
    ));
    let other = AnnounceRequest { info_hash: InfoHash([9; 20]), ..request(0, 1, AnnounceEvent::None) };
    assert!(matches!(tracker.announce(Moment::ZERO, &other), AnnounceReply::Refused(_)));
    let body = tracker.handle_query(Moment::ZERO, address(0).ip(), "info_hash=%zz");
    assert!(matches!(AnnounceReply::parse(&body), Ok(AnnounceReply::Refused(_))));
}

#[test]
fn an_ip_in_the_query_is_not_believed() {
    let mut tracker = tracker(Admission::Open);
    let query = format!("{}&ip=192.0.2.9", request(0, 1, AnnounceEvent::None).to_query());
    tracker.handle_query(Moment::ZERO, address(0).ip(), &query);
    assert_eq!(peers(tracker.announce(Moment::ZERO, &request(1, 1, AnnounceEvent::None))), [address(0)]);
}

#[test]
fn a_complete_member_hears_only_of_those_who_lack_something() {
    let mut tracker = tracker(Admission::Open);
    tracker.announce(Moment::ZERO, &request(0, 0, AnnounceEvent::Started));
    tracker.announce(Moment::ZERO, &request(1, 1, AnnounceEvent::Started));
    assert_eq!(peers(tracker.announce(Moment::ZERO, &request(2, 0, AnnounceEvent::Started))), [address(1)]);
}
