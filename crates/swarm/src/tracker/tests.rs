use super::*;

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

#[test]
fn a_flash_crowd_gets_a_connected_graph_of_bounded_degree() {
    for members in [2, 9, 32, 1000] {
        let mut tracker = tracker(Admission::Open);
        for _round in 0..2 {
            for number in 0..members {
                peers(tracker.announce(Moment::ZERO, &request(number, 1, AnnounceEvent::Started)));
            }
        }
        let graph = tracker.torrents.get(&TORRENT).unwrap();
        let wanted = degree(10, members).min(members - 1);
        let degrees: Vec<usize> = graph.values().map(|member| member.neighbours.len()).collect();
        assert!(
            degrees.iter().all(|&degree| (wanted..=wanted + 6).contains(&degree)),
            "{members}: {degrees:?}"
        );
        let mut reached = BTreeSet::from([address(0)]);
        let mut edge = vec![address(0)];
        while let Some(at) = edge.pop() {
            edge.extend(graph.get(&at).unwrap().neighbours.iter().filter(|next| reached.insert(**next)));
        }
        assert_eq!(reached.len(), members);
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
