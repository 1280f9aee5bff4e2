//! A simulated world: clock, links and nodes, in which the real swarm engine runs by the thousand.
//!
//! Never reads a clock, opens a socket or starts a thread: the same seed gives the same trace.
//!
//! Read first: [`World`], [`Network`].
#![forbid(unsafe_code)]

mod network;
mod queue;
mod world;

pub use network::{Arrival, ConnectionId, LinkRates, Network, NodeId, Wake};
pub use queue::Queue;
pub use world::{Outcome, Scenario, World};
