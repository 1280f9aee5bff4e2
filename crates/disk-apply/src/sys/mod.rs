//! The calls into the kernel that have no safe wrapper; the only place with `unsafe`.

pub(crate) mod block;
pub(crate) mod grow;
