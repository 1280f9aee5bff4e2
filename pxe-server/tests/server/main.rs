//! The real server program on loopback: nodes' lives by agents without machines, and wrong inputs.
#![forbid(unsafe_code)]

mod agents;
mod support;
mod wrong_inputs;
