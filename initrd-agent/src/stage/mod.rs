//! The stages of a node's life, one file each.

pub(crate) mod enrol;
pub(crate) mod network;
pub(crate) mod personalise;
pub(crate) mod start;

/// What a stage made, and one sentence about it for people.
pub(crate) struct Done<T> {
    pub(crate) value: T,
    pub(crate) detail: String,
}
