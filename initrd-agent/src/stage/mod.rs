//! The stages of a node's life, one file each.

pub(crate) mod await_task;
pub(crate) mod drivers;
pub(crate) mod enrol;
pub(crate) mod fetch;
pub(crate) mod handover;
pub(crate) mod join;
pub(crate) mod linger;
pub(crate) mod network;
pub(crate) mod prepare;
pub(crate) mod probe;
pub(crate) mod start;
pub(crate) mod verify;

/// What a stage made, and one sentence about it for people.
pub(crate) struct Done<T> {
    pub(crate) value: T,
    pub(crate) detail: String,
}
