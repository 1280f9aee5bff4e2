//! What announcing costs and delays, from the events of one run.

use swarm::PieceIndex;

use crate::network::NodeId;
use crate::outcome::Measures;

/// Width of a class of ages, and how many classes there are: 250 microseconds to 2 seconds.
const AGE_NS: u64 = 250_000;
const AGES: usize = 8000;

const SECOND_NS: u64 = 1_000_000_000;

const NEVER: u64 = u64::MAX;

/// A time that is added up while something holds.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    since_ns: Option<u64>,
    sum_ns: u64,
}

impl Span {
    fn set(&mut self, now_ns: u64, holds: bool) {
        match (self.since_ns, holds) {
            (None, true) => self.since_ns = Some(now_ns),
            (Some(since), false) => {
                self.sum_ns += now_ns - since;
                self.since_ns = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }
}

#[derive(Clone, Debug)]
struct Watched {
    /// When it verified each piece.
    verified_ns: Vec<u64>,
    idle: Span,
    idle_while_available: Span,
    have_messages: u64,
    second: u64,
    in_second: u32,
}

/// The measures of a run that is under way. Node 0, the seed, is not measured.
#[derive(Debug)]
pub(crate) struct Measuring {
    nodes: Vec<Watched>,
    ages: Vec<u64>,
    age_sum_ns: u128,
    /// How many messages were sent in each second of each node that sent any.
    seconds: Vec<u32>,
}

impl Measuring {
    pub(crate) fn new(nodes: usize, pieces: u32) -> Self {
        let watched = Watched {
            verified_ns: vec![NEVER; pieces as usize],
            idle: Span::default(),
            idle_while_available: Span::default(),
            have_messages: 0,
            second: 0,
            in_second: 0,
        };
        Self { nodes: vec![watched; nodes + 1], ages: vec![0; AGES], age_sum_ns: 0, seconds: Vec::new() }
    }

    pub(crate) fn verified(&mut self, now_ns: u64, node: NodeId, piece: PieceIndex) {
        if let Some(at) = self.nodes.get_mut(node.0).and_then(|node| node.verified_ns.get_mut(place(piece))) {
            *at = now_ns.min(*at);
        }
    }

    /// A node that lacks the piece learns that `from` has it.
    pub(crate) fn learned(&mut self, now_ns: u64, from: NodeId, piece: PieceIndex) {
        let verified = self.nodes.get(from.0).and_then(|node| node.verified_ns.get(place(piece)));
        let Some(&verified_ns) = verified.filter(|at| from.0 > 0 && **at <= now_ns) else { return };
        let age_ns = now_ns - verified_ns;
        self.age_sum_ns += u128::from(age_ns);
        let class = usize::try_from(age_ns / AGE_NS).unwrap_or(AGES).min(AGES - 1);
        if let Some(count) = self.ages.get_mut(class) {
            *count += 1;
        }
    }

    /// The state of a node's uplink from now on.
    pub(crate) fn uplink(&mut self, now_ns: u64, node: NodeId, idle: bool, while_available: bool) {
        if let Some(watched) = self.nodes.get_mut(node.0) {
            watched.idle.set(now_ns, idle);
            watched.idle_while_available.set(now_ns, while_available);
        }
    }

    /// How many HAVE messages a node has sent since it started.
    pub(crate) fn sent(&mut self, now_ns: u64, node: NodeId, have_messages: u64) {
        let Some(watched) = self.nodes.get_mut(node.0).filter(|_| node.0 > 0) else { return };
        let more = have_messages.saturating_sub(watched.have_messages);
        watched.have_messages = have_messages;
        if more == 0 {
            return;
        }
        if watched.second != now_ns / SECOND_NS {
            if watched.in_second > 0 {
                self.seconds.push(watched.in_second);
            }
            watched.second = now_ns / SECOND_NS;
            watched.in_second = 0;
        }
        watched.in_second += u32::try_from(more).unwrap_or(u32::MAX);
    }

    /// A node starts afresh.
    pub(crate) fn restarted(&mut self, now_ns: u64, node: NodeId) {
        self.uplink(now_ns, node, false, false);
        if let Some(watched) = self.nodes.get_mut(node.0) {
            watched.have_messages = 0;
        }
    }

    pub(crate) fn finish(mut self, now_ns: u64) -> Measures {
        for node in 0..self.nodes.len() {
            self.uplink(now_ns, NodeId(node), false, false);
        }
        let nodes = self.nodes.get(1..).unwrap_or_default();
        let pieces = nodes.first().map_or(0, |node| node.verified_ns.len());
        let (mut d50_ns, mut d100_ns, mut spread_ns) = (0, 0, 0);
        for piece in 0..pieces {
            let times = nodes.iter().filter_map(|node| node.verified_ns.get(piece));
            let mut times: Vec<u64> = times.copied().filter(|at| *at != NEVER).collect();
            times.sort_unstable();
            if let (Some(first), Some(half), Some(last)) =
                (times.first(), times.get((times.len() - 1) / 2), times.last())
            {
                spread_ns = spread_ns.max(*first);
                d50_ns += half - first;
                d100_ns += last - first;
            }
        }
        let watched_ns = (now_ns as f64 * nodes.len() as f64).max(1.0);
        let share = |span: fn(&Watched) -> u64| nodes.iter().map(span).sum::<u64>() as f64 / watched_ns;
        let mut seconds = self.seconds;
        seconds.extend(nodes.iter().map(|node| node.in_second).filter(|count| *count > 0));
        seconds.sort_unstable();
        let learned: u64 = self.ages.iter().sum();
        Measures {
            spread_s: spread_ns as f64 / 1e9,
            d50_s: d50_ns as f64 / pieces.max(1) as f64 / 1e9,
            d100_s: d100_ns as f64 / pieces.max(1) as f64 / 1e9,
            age_s: self.age_sum_ns as f64 / learned.max(1) as f64 / 1e9,
            age_p99_s: age_at(&self.ages, learned - learned / 100),
            idle_while_available: share(|node| node.idle_while_available.sum_ns),
            idle: share(|node| node.idle.sum_ns),
            have_p99_second: seconds.get(seconds.len() * 99 / 100).copied().unwrap_or(0),
        }
    }
}

/// The age that so many are not above, seconds.
fn age_at(ages: &[u64], rank: u64) -> f64 {
    let mut seen = 0;
    let class = ages.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    class.map_or(0.0, |class| (class as f64 + 1.0) * AGE_NS as f64 / 1e9)
}

fn place(piece: PieceIndex) -> usize {
    usize::try_from(piece.get()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm::Geometry;

    #[test]
    fn diffusion_age_and_idleness_are_added_up() {
        let piece = Geometry::new(16, 16).unwrap().piece(0).unwrap();
        let mut measuring = Measuring::new(3, 1);
        for (node, at) in [(1, 1_000_000_000), (2, 2_000_000_000), (3, 5_000_000_000)] {
            measuring.verified(at, NodeId(node), piece);
        }
        measuring.learned(1_010_000_000, NodeId(1), piece);
        measuring.uplink(1_000_000_000, NodeId(1), true, true);
        measuring.uplink(1_030_000_000, NodeId(1), true, false);
        measuring.sent(1_500_000_000, NodeId(1), 7);
        let measures = measuring.finish(10_000_000_000);
        assert_eq!((measures.d50_s, measures.d100_s), (1.0, 4.0));
        assert!((measures.age_s - 0.01).abs() < 1e-9 && (measures.age_p99_s - 0.01).abs() < 0.001);
        assert!((measures.idle_while_available - 0.001).abs() < 1e-9, "{measures:?}");
        assert!((measures.idle - 0.3).abs() < 1e-9 && measures.have_p99_second == 7, "{measures:?}");
    }
}
