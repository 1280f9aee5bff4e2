//! The real server program on loopback: nodes' lives by agents without machines, and wrong inputs.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that meets what it did not expect ends there"
)]

mod agents;
mod dashboard;
mod deltas;
mod disk_keys;
mod killed_server;
mod layouts;
mod menus;
mod seed;
mod support;
mod swarm;
mod wrong_inputs;
