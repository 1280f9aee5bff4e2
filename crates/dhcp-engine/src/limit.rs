//! How often one node may ask.

use std::collections::HashMap;

use dhcp_wire::MacAddr;

use crate::moment::Moment;

/// A whole boot (ROM, iPXE, agent) is about 8 packets; retransmissions come seconds apart.
const BURST: u32 = 20;
/// One more packet after this time.
const REFILL_MS: u64 = 500;
/// Nodes that are watched. Beyond this many the limit is not kept for further ones: a flood of made-up hardware
/// addresses must not lock out real nodes.
const NODES_MAX: usize = 16_384;

/// Idle nodes are looked for so often at most: a look at all of them for each packet would help a flood.
const SWEEP_MS: u64 = 1000;

/// Token buckets by hardware address.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    buckets: HashMap<MacAddr, Bucket>,
    swept: Option<Moment>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Moment,
}

impl Limiter {
    /// True if the node may be answered now.
    pub(crate) fn admits(&mut self, now: Moment, mac: MacAddr) -> bool {
        if !self.buckets.contains_key(&mac) && self.buckets.len() >= NODES_MAX {
            self.sweep(now);
            if self.buckets.len() >= NODES_MAX {
                return true;
            }
        }
        let bucket = self.buckets.entry(mac).or_insert(Bucket { tokens: BURST, refilled: now });
        let refill = now.0.saturating_sub(bucket.refilled.0) / REFILL_MS;
        bucket.tokens = bucket.tokens.saturating_add(u32::try_from(refill).unwrap_or(u32::MAX)).min(BURST);
        bucket.refilled = Moment(bucket.refilled.0.saturating_add(refill * REFILL_MS));
        match bucket.tokens.checked_sub(1) {
            Some(rest) => {
                bucket.tokens = rest;
                true
            }
            None => false,
        }
    }

    fn sweep(&mut self, now: Moment) {
        if self.swept.is_some_and(|swept| now.0.saturating_sub(swept.0) < SWEEP_MS) {
            return;
        }
        self.swept = Some(now);
        self.buckets
            .retain(|_, bucket| now.0.saturating_sub(bucket.refilled.0) < u64::from(BURST) * REFILL_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_noisy_node_is_slowed_down_and_no_other() {
        let mut limiter = Limiter::default();
        let (noisy, calm) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let answered = (0..1000).filter(|packet| limiter.admits(Moment(5_000 + packet), noisy)).count();
        assert!((20..=22).contains(&answered), "{answered}");
        assert!(limiter.admits(Moment(6_000), calm));
        assert!(limiter.admits(Moment(8_000), noisy), "and later it is answered again");
    }

    #[test]
    fn a_flood_of_made_up_nodes_locks_nobody_out_and_takes_bounded_memory() {
        let mut limiter = Limiter::default();
        for number in 0..100_000_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            assert!(limiter.admits(Moment(1), MacAddr([2, 0, a, b, c, d])));
        }
        assert!(limiter.buckets.len() <= NODES_MAX);
        assert!(limiter.admits(Moment(60_000), MacAddr([2, 1, 0, 0, 0, 0])));
        assert_eq!(limiter.buckets.len(), 1, "idle ones are forgotten");
    }
}
