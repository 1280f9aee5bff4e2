//! The calls into the kernel that have no safe wrapper; the only place with `unsafe`.

pub(crate) mod entropy;
pub(crate) mod interface;
pub(crate) mod modules;
pub(crate) mod packet;
pub(crate) mod watch;
