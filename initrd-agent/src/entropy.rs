//! Randomness on machines whose processor and clock give the kernel none.
//!
//! Keys need the kernel's random numbers, and the kernel waits with them until it has gathered enough, for ever
//! on a machine without RDRAND whose timestamp counter it could not calibrate. Such a machine must not hang: we
//! gather then ourselves what its memory and its scheduler do to the clock, and credit it.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::console::say;
use crate::sys::entropy::{credit, is_ready};

/// The kernel's own gathering takes about a second where it works.
const KERNEL_LIMIT: Duration = Duration::from_secs(3);
/// Measurements that go into the seed. Each is credited with less than a tenth of a bit; on the machines met so
/// far their lowest bits differ in more than half of the pairs.
const SAMPLES: usize = 4096;
/// Memory that a sample walks through: more than fits the first cache, so that its time varies.
const WALKED_BYTES: usize = 256 << 10;
/// Fewer different measurements than this are a stuck clock and no randomness.
const DIFFERENT_MIN: usize = 64;

/// Returns when the kernel gives random numbers without waiting.
///
/// # Errors
/// The clock is too regular to gather from, or the kernel refuses; random numbers are then waited for.
pub(crate) fn make_ready() -> Result<()> {
    let deadline = Instant::now() + KERNEL_LIMIT;
    while Instant::now() < deadline {
        if is_ready() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    say("esir: PID 1: the kernel has no random numbers yet; gathering them from the clock");
    let samples = gather();
    let different = samples.windows(2).filter(|pair| matches!(pair, [a, b] if a != b)).count();
    if different < DIFFERENT_MIN {
        let error = io::Error::other("the machine has neither RDRAND nor a fine clock");
        return Err(error).context("gathering random numbers");
    }
    let mut hasher = blake3::Hasher::new();
    samples.iter().for_each(|sample| _ = hasher.update(&sample.to_le_bytes()));
    credit(hasher.finalize().as_bytes()).context("giving the kernel the random numbers gathered")
}

/// Times of walks through memory, nanoseconds each.
fn gather() -> Vec<u64> {
    let mut memory = vec![0_u8; WALKED_BYTES];
    let mut place = 0_usize;
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let began = Instant::now();
        for _ in 0..64 {
            // A step that depends on what was read, so that nothing can be fetched ahead.
            if let Some(byte) = memory.get_mut(place) {
                *byte = byte.wrapping_add(1);
                place = (place.wrapping_mul(5).wrapping_add(usize::from(*byte)).wrapping_add(4099))
                    % WALKED_BYTES;
            }
        }
        std::thread::yield_now();
        samples.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_gatherings_differ_and_vary_within() {
        let (first, second) = (gather(), gather());
        assert_ne!(first, second);
        let different = first.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(different > DIFFERENT_MIN, "{different}");
    }
}
