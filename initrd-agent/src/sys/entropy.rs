//! The kernel's pool of randomness: random(4).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes of seed; the pool is ready with 256 bits.
const SEED_BYTES: usize = 32;

/// `struct rand_pool_info` of `linux/random.h` with 32 bytes behind it.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    buffer_bytes: libc::c_int,
    buffer: [u8; SEED_BYTES],
}

/// Whether random numbers can be had without waiting.
pub(crate) fn is_ready() -> bool {
    let mut byte = [0_u8];
    // SAFETY: the pointer is to one writable byte and the length says one.
    let count = unsafe { libc::getrandom(byte.as_mut_ptr().cast(), 1, libc::GRND_NONBLOCK) };
    count == 1
}

/// Adds a seed to the pool and counts all its bits as random.
pub(crate) fn credit(seed: &[u8; SEED_BYTES]) -> io::Result<()> {
    // RNDADDENTROPY = _IOW('R', 0x03, int[2]) (linux/random.h).
    const ADD_ENTROPY: libc::c_ulong = 0x4008_5203;
    let pool = OpenOptions::new().write(true).open("/dev/random")?;
    let info = PoolInfo { entropy_bits: 256, buffer_bytes: 32, buffer: *seed };
    // SAFETY: the descriptor is open, and the kernel reads `buffer_bytes` bytes behind the two integers, which
    // are there.
    let done = unsafe { libc::ioctl(pool.as_raw_fd(), ADD_ENTROPY, &raw const info) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
