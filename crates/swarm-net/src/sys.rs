//! What the kernel knows of a connection, where no safe interface asks for it. The only `unsafe` code of this crate.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// The smoothed round-trip time of a TCP connection (`tcpi_rtt` of `TCP_INFO`, see tcp(7)): the way of what we send to
/// the peer and of its acknowledgement back, with the queues of both links; zero before the first acknowledgement.
pub(crate) fn round_trip(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    // SAFETY: tcp_info consists of integers, for which zeros are values.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: `info` and `length` live through the call, and `length` is the size of `info`, more than which the
    // kernel does not write; fewer bytes, of an older kernel, leave zeros.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::from_micros(u64::from(info.tcpi_rtt)))
}
