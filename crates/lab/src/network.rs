//! Nodes on switches: shared links, fair among connections, with windows that hold back a sender.
//!
//! The model, and what it leaves out. Each node has one full-duplex link. Its egress serves its connections in
//! turn, one message at a time, and passes over a connection that has a window's worth under way; so one slow
//! receiver does not hold up the others, as with TCP. A message then crosses both racks' uplinks, when its
//! receiver is in another rack, and the receiver's ingress; each of these is a queue with a rate, which serves
//! messages in the order in which they are there, and passes bytes on as they come (cut-through). Left out:
//! slow start, loss, the load of acknowledgements.
//!
//! Messages below [`SMALL_BYTES`] take their time on the link but don't hold it: the next may follow at once. It
//! saves an event for each, and brings one at most a few microseconds too early.

use std::collections::VecDeque;

use swarm::BLOCK_BYTES;

/// Messages shorter than this let the next one follow at once; a block is 16 KiB.
pub(crate) const SMALL_BYTES: u32 = 2048;

/// A node of the simulated network; counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// One direction of a connection; counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub usize);

/// Rates of one node's link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkRates {
    /// Bytes per second that it can send.
    pub egress_bytes_s: u64,
    /// Bytes per second that it can receive.
    pub ingress_bytes_s: u64,
}

/// Where a message's last byte is at [`Arrival::at_ns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    /// At the uplink of the receiver's rack.
    Rack,
    /// At the receiver's link.
    Link,
    /// At the receiver.
    There,
}

/// A message on its way.
#[derive(Debug)]
pub struct Arrival<M> {
    hop: Hop,
    /// When to give it to [`Network::pass_on`], virtual nanoseconds.
    pub at_ns: u64,
    /// Which connection.
    pub connection: ConnectionId,
    /// Who receives.
    pub to: NodeId,
    /// What.
    pub message: M,
    /// Its length on the wire.
    pub bytes: u32,
}

/// When a node's egress has sent what it took and wants to be looked at again, virtual nanoseconds; `None` after
/// a small message, when it wants to be looked at at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake(pub Option<u64>);

/// The links of all nodes and the connections over them.
#[derive(Debug)]
pub struct Network<M> {
    nodes: Vec<Node>,
    racks: Vec<Rack>,
    connections: Vec<Connection<M>>,
    latency_ns: u64,
    window_bytes: u64,
}

#[derive(Debug)]
struct Node {
    rates: LinkRates,
    rack: usize,
    egress_free_ns: u64,
    /// A message that is not small is leaving until then.
    egress_held_ns: u64,
    ingress_free_ns: u64,
    stalled: bool,
    /// Connections with something to send, in turn.
    ready: VecDeque<ConnectionId>,
    sent_bytes: u64,
    received_bytes: u64,
}

#[derive(Debug)]
struct Rack {
    uplink_bytes_s: Option<u64>,
    up_free_ns: u64,
    down_free_ns: u64,
}

#[derive(Debug)]
struct Connection<M> {
    from: NodeId,
    to: NodeId,
    waiting: VecDeque<(M, u32)>,
    under_way_bytes: u64,
    in_turn: bool,
    open: bool,
    /// When the last message left the sender's rack, came into the receiver's, and to the receiver.
    passed_ns: [u64; 3],
}

impl<M> Network<M> {
    /// An empty network whose messages take `latency_ns` besides their own length, and in which a connection has
    /// at most `window_bytes` under way.
    #[must_use]
    pub const fn new(latency_ns: u64, window_bytes: u64) -> Self {
        Self { nodes: Vec::new(), racks: Vec::new(), connections: Vec::new(), latency_ns, window_bytes }
    }

    /// Adds a rack; `uplink_bytes_s` bounds what crosses its border in each direction, `None` does not.
    pub fn add_rack(&mut self, uplink_bytes_s: Option<u64>) -> usize {
        self.racks.push(Rack { uplink_bytes_s, up_free_ns: 0, down_free_ns: 0 });
        self.racks.len() - 1
    }

    /// Adds a node to a rack.
    pub fn add_node(&mut self, rack: usize, rates: LinkRates) -> NodeId {
        self.nodes.push(Node {
            rates,
            rack,
            egress_free_ns: 0,
            egress_held_ns: 0,
            ingress_free_ns: 0,
            stalled: false,
            ready: VecDeque::new(),
            sent_bytes: 0,
            received_bytes: 0,
        });
        NodeId(self.nodes.len() - 1)
    }

    /// Opens one direction of a connection.
    pub fn connect(&mut self, from: NodeId, to: NodeId) -> ConnectionId {
        self.connections.push(Connection {
            from,
            to,
            waiting: VecDeque::new(),
            under_way_bytes: 0,
            in_turn: false,
            open: true,
            passed_ns: [0; 3],
        });
        ConnectionId(self.connections.len() - 1)
    }

    /// Closes it; what has not left is dropped, what is under way is lost on arrival.
    pub fn disconnect(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id.0) {
            connection.open = false;
            connection.waiting.clear();
        }
    }

    /// Whether both ends still hold it.
    #[must_use]
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.connections.get(id.0).is_some_and(|connection| connection.open)
    }

    /// From now on nothing leaves the node, or again everything does. The caller polls it then.
    pub fn set_stalled(&mut self, node: NodeId, stalled: bool) {
        if let Some(node) = self.nodes.get_mut(node.0) {
            node.stalled = stalled;
        }
    }

    /// Gives a node's link other rates.
    pub fn set_rates(&mut self, node: NodeId, rates: LinkRates) {
        if let Some(node) = self.nodes.get_mut(node.0) {
            node.rates = rates;
        }
    }

    /// Whether the node's link sends nothing and has nothing to send.
    #[must_use]
    pub fn is_idle(&self, now_ns: u64, node: NodeId) -> bool {
        self.nodes.get(node.0).is_some_and(|node| node.egress_free_ns <= now_ns && node.ready.is_empty())
    }

    /// Bytes that a node has sent and received since the start.
    #[must_use]
    pub fn carried_bytes(&self, node: NodeId) -> (u64, u64) {
        self.nodes.get(node.0).map_or((0, 0), |node| (node.sent_bytes, node.received_bytes))
    }

    /// Queues a message. The caller then asks [`Network::poll_egress`] of the sending node.
    pub fn send(&mut self, id: ConnectionId, message: M, bytes: u32) {
        let Some(connection) = self.connections.get_mut(id.0).filter(|connection| connection.open) else {
            return;
        };
        connection.waiting.push_back((message, bytes));
        self.take_turn(id);
    }

    /// A message has reached its receiver: its bytes leave the window. Returns the sender, to be polled.
    pub fn arrived(&mut self, id: ConnectionId, bytes: u32) -> Option<NodeId> {
        let connection = self.connections.get_mut(id.0)?;
        connection.under_way_bytes = connection.under_way_bytes.saturating_sub(u64::from(bytes));
        let from = connection.from;
        self.take_turn(id);
        Some(from)
    }

    /// Lets a node's link take its next message, if the link is free and a connection may send.
    ///
    /// After an arrival is returned, the node wants to be polled at the [`Wake`], or again at once.
    pub fn poll_egress(&mut self, now_ns: u64, node: NodeId) -> Option<(Arrival<M>, Wake)> {
        let link = self.nodes.get(node.0)?;
        if link.stalled || link.egress_held_ns > now_ns {
            return None;
        }
        let (id, connection, message, bytes) = loop {
            let id = self.nodes.get_mut(node.0)?.ready.pop_front()?;
            let connection = self.connections.get_mut(id.0)?;
            connection.in_turn = false;
            // A connection that was closed while it waited for its turn has nothing to send.
            if let Some((message, bytes)) = connection.waiting.pop_front() {
                break (id, self.connections.get_mut(id.0)?, message, bytes);
            }
        };
        connection.under_way_bytes += u64::from(bytes);
        let to = connection.to;
        self.take_turn(id);
        let (left_ns, at_ns, hop) = self.leave(now_ns, id, bytes);
        let wake = (bytes >= SMALL_BYTES).then_some(left_ns);
        if let (Some(held_ns), Some(node)) = (wake, self.nodes.get_mut(node.0)) {
            node.egress_held_ns = held_ns;
        }
        Some((Arrival { hop, at_ns, connection: id, to, message, bytes }, Wake(wake)))
    }

    /// A message's time has come: it is at its receiver, or has another queue before it.
    pub fn pass_on(&mut self, mut arrival: Arrival<M>) -> Result<Arrival<M>, Arrival<M>> {
        match arrival.hop {
            Hop::There => return Ok(arrival),
            Hop::Rack => {
                let rack = self.nodes.get(arrival.to.0).map_or(0, |node| node.rack);
                if let Some(Rack { uplink_bytes_s: Some(rate), down_free_ns, .. }) = self.racks.get_mut(rack)
                {
                    let took_ns = time_ns(arrival.bytes, *rate);
                    arrival.at_ns = pass(down_free_ns, arrival.at_ns, took_ns, arrival.bytes);
                }
                arrival.at_ns = self.in_order(arrival.connection, 1, arrival.at_ns);
                arrival.hop = Hop::Link;
            }
            Hop::Link => {
                arrival.at_ns = self.enter(arrival.connection, arrival.at_ns, arrival.bytes);
                arrival.hop = Hop::There;
            }
        }
        Err(arrival)
    }

    /// Puts a connection in turn if it may send.
    fn take_turn(&mut self, id: ConnectionId) {
        let window = self.window_bytes;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if connection.in_turn || connection.waiting.is_empty() || connection.under_way_bytes >= window {
            return;
        }
        if let Some(node) = self.nodes.get_mut(connection.from.0) {
            connection.in_turn = true;
            node.ready.push_back(id);
        }
    }

    /// Books the sender's link, and what follows as far as nobody can come in between; gives when the egress is
    /// free again, and when and where the last byte is then.
    fn leave(&mut self, now_ns: u64, id: ConnectionId, bytes: u32) -> (u64, u64, Hop) {
        let Some(&Connection { from, to, .. }) = self.connections.get(id.0) else {
            return (now_ns, now_ns, Hop::There);
        };
        let Some(node) = self.nodes.get_mut(from.0) else { return (now_ns, now_ns, Hop::There) };
        let (egress_bytes_s, rack) = (node.rates.egress_bytes_s, node.rack);
        node.egress_free_ns = node.egress_free_ns.max(now_ns) + time_ns(bytes, egress_bytes_s);
        node.sent_bytes += u64::from(bytes);
        let left_ns = node.egress_free_ns;
        let at_ns = left_ns + self.latency_ns;
        let Some(receiver) = self.nodes.get(to.0) else { return (left_ns, at_ns, Hop::There) };
        if receiver.rack == rack {
            return if egress_bytes_s >= receiver.rates.ingress_bytes_s {
                (left_ns, self.enter(id, at_ns, bytes), Hop::There)
            } else {
                // While it comes slowly, others come in between.
                (left_ns, at_ns, Hop::Link)
            };
        }
        let at_ns = match self.racks.get_mut(rack) {
            Some(Rack { uplink_bytes_s: Some(rate), up_free_ns, .. }) => {
                pass(up_free_ns, at_ns, time_ns(bytes, *rate), bytes)
            }
            _ => at_ns,
        };
        (left_ns, self.in_order(id, 0, at_ns), Hop::Rack)
    }

    /// Books the receiver's link for a message whose last byte comes to it at `last_ns`.
    fn enter(&mut self, id: ConnectionId, last_ns: u64, bytes: u32) -> u64 {
        let to = self.connections.get(id.0).map(|connection| connection.to);
        let Some(node) = to.and_then(|to| self.nodes.get_mut(to.0)) else { return last_ns };
        node.received_bytes += u64::from(bytes);
        let took_ns = time_ns(bytes, node.rates.ingress_bytes_s);
        let at_ns = pass(&mut node.ingress_free_ns, last_ns, took_ns, bytes);
        self.in_order(id, 2, at_ns)
    }

    /// Nothing overtakes within a connection.
    fn in_order(&mut self, id: ConnectionId, place: usize, at_ns: u64) -> u64 {
        let passed =
            self.connections.get_mut(id.0).and_then(|connection| connection.passed_ns.get_mut(place));
        let Some(passed_ns) = passed else { return at_ns };
        *passed_ns = at_ns.max(*passed_ns);
        *passed_ns
    }
}

/// When a message whose last byte comes to a queue at `last_ns` has left it, if it takes `took_ns`.
///
/// A small message waits behind what is queued, but not behind a block that is just passing: that is ten packets,
/// and it goes between two of them.
fn pass(free_ns: &mut u64, last_ns: u64, took_ns: u64, bytes: u32) -> u64 {
    if bytes < SMALL_BYTES {
        let block_ns = took_ns.saturating_mul(u64::from(BLOCK_BYTES / bytes.max(1)));
        let queued_ns = free_ns.saturating_sub(last_ns).saturating_sub(block_ns);
        *free_ns = free_ns.saturating_add(took_ns);
        return last_ns + queued_ns;
    }
    *free_ns = (*free_ns).max(last_ns.saturating_sub(took_ns)) + took_ns;
    *free_ns
}

fn time_ns(bytes: u32, bytes_s: u64) -> u64 {
    u64::from(bytes).saturating_mul(1_000_000_000) / bytes_s.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GBIT: LinkRates = LinkRates { egress_bytes_s: 125_000_000, ingress_bytes_s: 125_000_000 };

    /// Runs until nothing moves; gives the time of the last arrival at each node.
    fn run(network: &mut Network<u32>) -> Vec<u64> {
        let mut queue: crate::Queue<Result<Arrival<u32>, NodeId>> = crate::Queue::default();
        let mut last = vec![0; network.nodes.len()];
        (0..last.len()).for_each(|node| queue.push(0, Err(NodeId(node))));
        while let Some(event) = queue.pop() {
            let mut poll = vec![];
            match event {
                Ok(arrival) => match network.pass_on(arrival) {
                    Ok(arrival) => {
                        last[arrival.to.0] = queue.now_ns();
                        poll.extend(network.arrived(arrival.connection, arrival.bytes));
                    }
                    Err(arrival) => queue.push(arrival.at_ns, Ok(arrival)),
                },
                Err(node) => poll.push(node),
            }
            for node in poll {
                while let Some((arrival, Wake(at))) = network.poll_egress(queue.now_ns(), node) {
                    at.into_iter().for_each(|at| queue.push(at, Err(node)));
                    queue.push(arrival.at_ns, Ok(arrival));
                }
            }
        }
        last
    }

    fn check(receivers: usize, messages: u32, seconds: f64) {
        let mut network = Network::new(50_000, 256 << 10);
        let rack = network.add_rack(None);
        let sender = network.add_node(rack, GBIT);
        for _ in 0..receivers {
            let to = network.add_node(rack, GBIT);
            let connection = network.connect(sender, to);
            (0..messages).for_each(|message| network.send(connection, message, 16_384));
        }
        let last = run(&mut network).into_iter().max().unwrap() as f64 / 1e9;
        assert!((last / seconds - 1.0).abs() < 0.01, "{last} s, expected {seconds} s");
    }

    #[test]
    fn a_link_carries_its_rate_whether_to_one_or_to_many() {
        let one_link = 16_384.0 * 10_000.0 / 125_000_000.0;
        check(1, 10_000, one_link);
        check(10, 1_000, one_link);
    }

    #[test]
    fn a_slow_receiver_does_not_hold_up_the_others() {
        let mut network = Network::new(50_000, 256 << 10);
        let rack = network.add_rack(None);
        let sender = network.add_node(rack, GBIT);
        let slow = network.add_node(rack, LinkRates { egress_bytes_s: 1, ingress_bytes_s: 1_250_000 });
        let fast = network.add_node(rack, GBIT);
        for to in [slow, fast] {
            let connection = network.connect(sender, to);
            (0..5_000).for_each(|message| network.send(connection, message, 16_384));
        }
        let last = run(&mut network);
        let alone = 16_384.0 * 5_000.0 / 125_000_000.0 * 1e9;
        assert!((last[fast.0] as f64) < alone * 1.1, "{last:?}");
    }

    #[test]
    fn an_uplink_is_shared_by_its_rack() {
        let mut network = Network::new(50_000, 256 << 10);
        let racks = [network.add_rack(Some(62_500_000)), network.add_rack(None)];
        for _ in 0..4 {
            let (from, to) = (network.add_node(racks[0], GBIT), network.add_node(racks[1], GBIT));
            let connection = network.connect(from, to);
            (0..1_000).for_each(|message| network.send(connection, message, 16_384));
        }
        let last = run(&mut network).into_iter().max().unwrap() as f64 / 1e9;
        let expected = 16_384.0 * 4_000.0 / 62_500_000.0;
        assert!((last / expected - 1.0).abs() < 0.01, "{last} s, expected {expected} s");
    }
}
