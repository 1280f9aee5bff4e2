//! `pxe-server doctor`: what on this machine, or on its wire, keeps nodes from booting.
//!
//! Never changes anything and never sends a packet.

mod frames;
mod host;
mod listen;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use host::{HostSetup, check_host};
pub(crate) use listen::listen;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) level: Level,
    /// What was seen.
    pub(crate) what: String,
    /// What to do; empty where there is nothing to do.
    pub(crate) remedy: String,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be.
    Good,
    /// Some nodes, or many at once, will have trouble.
    Doubt,
    /// No node boots.
    Bad,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Self { level: Level::Good, what: what.into(), remedy: String::new() }
    }

    fn doubt(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Doubt, what: what.into(), remedy: remedy.into() }
    }

    fn bad(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Bad, what: what.into(), remedy: remedy.into() }
    }
}
