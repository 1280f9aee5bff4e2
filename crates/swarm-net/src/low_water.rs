//! How much the kernel may hold unsent for one socket (`TCP_NOTSENT_LOWAT`): some milliseconds of its rate.
//!
//! More would be reported as sent before it is: the engine serves one piece to its end and then turns to the next
//! peer, which is only so if "sent" is near the truth; and HAVEs and cancels would wait behind it. Less would let
//! a fast link idle between two wake-ups of the writer.

use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long the kernel can go on alone: a writer on a busy machine is woken later than this only now and then. (Eight
/// nodes at 100 Mbit/s on two processors: 1.19 times the time of one link with 4 ms, 1.05 with 16.)
const AHEAD: Duration = Duration::from_millis(16);

/// Two blocks, and what a socket of several gigabits can take at once.
const BYTES_MIN: u32 = 32 * 1024;
const BYTES_MAX: u32 = 256 * 1024;

/// The rate is taken over this much time of writing, or this many bytes if they went faster: a socket's first bytes
/// go at once, whatever the link.
const MEASURED_TIME: Duration = Duration::from_millis(20);
const MEASURED_BYTES: u64 = 4 * 1024 * 1024;

/// The mark of one socket, and what was written since it was last looked at.
#[derive(Debug)]
pub(crate) struct LowWater {
    mark: u32,
    bytes: u64,
    busy: Duration,
}

impl LowWater {
    pub(crate) fn set_on(stream: &TcpStream) -> io::Result<LowWater> {
        socket2::SockRef::from(stream).set_tcp_notsent_lowat(BYTES_MIN)?;
        Ok(LowWater { mark: BYTES_MIN, bytes: 0, busy: Duration::ZERO })
    }

    /// So many bytes took so long to be taken by the kernel.
    pub(crate) fn note(&mut self, stream: &TcpStream, bytes: usize, took: Duration) -> io::Result<()> {
        if let Some(mark) = self.next(bytes, took) {
            socket2::SockRef::from(stream).set_tcp_notsent_lowat(mark)?;
        }
        Ok(())
    }

    /// The new mark, if it changes.
    fn next(&mut self, bytes: usize, took: Duration) -> Option<u32> {
        self.bytes += bytes as u64;
        self.busy += took;
        if self.busy < MEASURED_TIME && self.bytes < MEASURED_BYTES {
            return None;
        }
        let micros = self.busy.as_micros().max(1);
        let ahead = u128::from(self.bytes) * AHEAD.as_micros() / micros;
        (self.bytes, self.busy) = (0, Duration::ZERO);
        let ahead = u32::try_from(ahead).unwrap_or(BYTES_MAX).clamp(BYTES_MIN, BYTES_MAX);
        // By powers of two, so that it rarely changes.
        let mark = ahead.next_power_of_two().min(BYTES_MAX);
        (std::mem::replace(&mut self.mark, mark) != mark).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(bytes: usize, took: Duration) -> u32 {
        let mut mark = LowWater { mark: BYTES_MIN, bytes: 0, busy: Duration::ZERO };
        (0..1000).filter_map(|_| mark.next(bytes, took)).last().unwrap_or(BYTES_MIN)
    }

    #[test]
    fn the_mark_is_sixteen_milliseconds_of_the_rate_within_bounds() {
        let milli = Duration::from_millis;
        assert_eq!(settled(3_125, milli(1)), 64 << 10, "25 Mbit/s");
        assert_eq!(settled(12_500, milli(1)), 256 << 10, "100 Mbit/s");
        assert_eq!(settled(125_000, milli(1)), 256 << 10, "1 Gbit/s");
        assert_eq!(settled(1 << 18, Duration::from_micros(10)), 256 << 10, "no limit");
        assert_eq!(settled(17, Duration::from_micros(5)), 32 << 10, "requests only");
    }
}
