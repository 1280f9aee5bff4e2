//! Descriptors that tokio wakes us for.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use super::packet::PacketSocket;

/// A value that owns its one descriptor and never replaces it.
pub(crate) trait OwnsDescriptor: AsRawFd {}

impl OwnsDescriptor for File {}
impl OwnsDescriptor for OwnedFd {}
impl OwnsDescriptor for PacketSocket {}

/// Registers a non-blocking descriptor with the runtime.
pub(crate) fn watch<T: OwnsDescriptor>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the types of this trait own an open descriptor, give the same one on each call and close it only
    // when they are dropped, which the AsyncFd does itself.
    Ok(unsafe { AsyncFd::register(inner) }?)
}
