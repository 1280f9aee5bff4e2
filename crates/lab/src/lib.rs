//! A simulated world: clock, links and nodes, in which the real swarm engine and tracker run by the thousand.
//!
//! Never reads a clock, opens a socket or starts a thread: the same seed gives the same trace.
//!
//! Read first: [`Scenario`], [`World`], [`Outcome`].
#![forbid(unsafe_code)]

mod measure;
mod network;
mod oracle;
mod outcome;
mod queue;
mod scenario;
mod world;

pub use network::{Arrival, ConnectionId, LinkRates, Network, NodeId, Wake};
pub use outcome::{Measures, Outcome, Uplinks};
pub use queue::Queue;
pub use scenario::{Character, Incident, Meeting, Scenario};
pub use world::World;
