//! A bed of network namespaces on one bridge, with shaped links, on which peer programs race for a file.
//!
//! Never changes an address, route, queue or firewall of the machine itself: all is inside namespaces that it
//! made and removes.
//!
//! Read first: [`Bed`], [`Contestant`], [`race`].
#![forbid(unsafe_code)]

mod counters;
mod group;
mod inside;
mod leftovers;
mod network;
pub mod peers;
mod program;
mod race;
mod shape;
mod source;
mod timeline;

pub use counters::{LinkCount, Usage};
pub use group::Pressure;
pub use leftovers::{sweep_own, sweep_stale};
pub use network::{Bed, Place};
pub use peers::{Begins, Contestant, Field, Launch, Ready, Said};
pub use race::{Disturbance, Harm, Outcome, race};
pub use shape::{Mbit, Shape};
pub use source::Source;
pub use timeline::Glance;
