//! A test bed on loopback: the real server program, and agents that speak its real protocol without a machine.

pub(crate) mod agent;
pub(crate) mod browser;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod peer;
pub(crate) mod server;
