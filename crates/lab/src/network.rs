//! Nodes on switches: shared links, fair among connections, with windows that hold back a sender.
//!
//! The model, and what it leaves out. Each node has one full-duplex link. Its egress serves its connections in
//! turn, one message at a time, and passes over a connection that has a window's worth under way; so one slow
//! receiver does not hold up the others, as with TCP. A message then crosses the rack's uplink, when its
//! receiver is in another rack, and the receiver's ingress; each of these is a queue with a rate, entered when
//! the one before has sent the first byte (cut-through). Left out: slow start, loss, the load of
//! acknowledgements.

use std::collections::VecDeque;

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

/// A message that reaches its receiver at a known time.
#[derive(Debug)]
pub struct Arrival<M> {
    /// When its last byte is there, virtual nanoseconds.
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

/// When a node's egress wants to be looked at again, virtual nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake(pub u64);

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
    ingress_free_ns: u64,
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
    waiting_bytes: u64,
    under_way_bytes: u64,
    in_turn: bool,
    open: bool,
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
            ingress_free_ns: 0,
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
            waiting_bytes: 0,
            under_way_bytes: 0,
            in_turn: false,
            open: true,
        });
        ConnectionId(self.connections.len() - 1)
    }

    /// Closes it; what has not left is dropped, what is under way is lost on arrival.
    pub fn disconnect(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id.0) {
            connection.open = false;
            connection.waiting.clear();
            connection.waiting_bytes = 0;
        }
    }

    /// Whether both ends still hold it.
    #[must_use]
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.connections.get(id.0).is_some_and(|connection| connection.open)
    }

    /// Bytes that wait to leave on this connection.
    #[must_use]
    pub fn waiting_bytes(&self, id: ConnectionId) -> u64 {
        self.connections.get(id.0).map_or(0, |connection| connection.waiting_bytes)
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
        connection.waiting_bytes += u64::from(bytes);
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
    /// After an arrival is returned, the node wants to be polled at the [`Wake`] too.
    pub fn poll_egress(&mut self, now_ns: u64, node: NodeId) -> Option<(Arrival<M>, Wake)> {
        if self.nodes.get(node.0)?.egress_free_ns > now_ns {
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
        connection.waiting_bytes -= u64::from(bytes);
        connection.under_way_bytes += u64::from(bytes);
        let to = connection.to;
        self.take_turn(id);
        let (left_ns, at_ns) = self.carry(now_ns, node, to, bytes);
        Some((Arrival { at_ns, connection: id, to, message, bytes }, Wake(left_ns)))
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

    /// Books the links on the way; gives when the egress is free again and when the last byte arrives.
    fn carry(&mut self, now_ns: u64, from: NodeId, to: NodeId, bytes: u32) -> (u64, u64) {
        let latency = self.latency_ns;
        let racks =
            (self.nodes.get(from.0).map(|node| node.rack), self.nodes.get(to.0).map(|node| node.rack));
        let mut first_ns = now_ns;
        let mut last_ns = now_ns;
        if let Some(node) = self.nodes.get_mut(from.0) {
            last_ns =
                pass(&mut node.egress_free_ns, now_ns, now_ns, time_ns(bytes, node.rates.egress_bytes_s));
            node.sent_bytes += u64::from(bytes);
        }
        let left_ns = last_ns;
        if racks.0 != racks.1 {
            for (rack, up) in [(racks.0, true), (racks.1, false)] {
                let Some(rack) = rack.and_then(|rack| self.racks.get_mut(rack)) else { continue };
                let Some(rate) = rack.uplink_bytes_s else { continue };
                let free = if up { &mut rack.up_free_ns } else { &mut rack.down_free_ns };
                let begin = (*free).max(first_ns);
                last_ns = pass(free, first_ns, last_ns, time_ns(bytes, rate));
                first_ns = begin;
            }
        }
        if let Some(node) = self.nodes.get_mut(to.0) {
            let took = time_ns(bytes, node.rates.ingress_bytes_s);
            last_ns = pass(&mut node.ingress_free_ns, first_ns + latency, last_ns + latency, took);
            node.received_bytes += u64::from(bytes);
        }
        (left_ns, last_ns)
    }
}

/// A message whose first and last byte come to a queue at these times leaves it, at the earliest `took_ns` after
/// the queue is free, and never before its own last byte has come.
fn pass(free_ns: &mut u64, first_ns: u64, last_ns: u64, took_ns: u64) -> u64 {
    *free_ns = ((*free_ns).max(first_ns) + took_ns).max(last_ns);
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
                Ok(arrival) => {
                    last[arrival.to.0] = queue.now_ns();
                    poll.extend(network.arrived(arrival.connection, arrival.bytes));
                }
                Err(node) => poll.push(node),
            }
            for node in poll {
                while let Some((arrival, Wake(at))) = network.poll_egress(queue.now_ns(), node) {
                    queue.push(at, Err(node));
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
