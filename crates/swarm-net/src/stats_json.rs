//! A peer's statistics as JSON, for programs that watch it.

use crate::config::PeerStats;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Debug;

impl PeerStats {
    /// One object. Its counts only grow; `closed` and `refused` count ended and refused connections by reason.
    pub fn to_json(&self) -> Value {
        json!({
            "pieces": self.pieces,
            "verified": self.verified,
            "left": self.left,
            "peers": self.peers,
            "downloaded": self.downloaded,
            "uploaded": self.uploaded,
            "web_seed_bytes": self.web_seed_bytes,
            "redundant_bytes": self.counts.redundant_bytes,
            "corrupt_pieces": self.counts.corrupt_pieces,
            "have_messages": self.counts.have_messages,
            "have_bytes": self.counts.have_bytes,
            "closed": self.closed_by_reason(),
            "refused": self.refused_by_reason(),
        })
    }

    /// Connections ended, by reason.
    pub fn closed_by_reason(&self) -> BTreeMap<String, u64> {
        by_reason(self.counts.closed.iter())
    }

    /// Connections refused before their handshake, by reason.
    pub fn refused_by_reason(&self) -> BTreeMap<String, u64> {
        by_reason(self.counts.refused.iter())
    }
}

/// `WrongProof` and 3 -> `"wrong_proof": 3`.
fn by_reason<'a, R: Debug + 'a>(counts: impl Iterator<Item = (&'a R, &'a u64)>) -> BTreeMap<String, u64> {
    counts.map(|(reason, count)| (snake_case(&format!("{reason:?}")), *count)).collect()
}

fn snake_case(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm::{CloseReason, Refusal};

    #[test]
    fn reasons_are_counted_by_word() {
        let mut stats = PeerStats { downloaded: 5, ..PeerStats::default() };
        stats.counts.closed.insert(CloseReason::WrongProof, 3);
        stats.counts.refused.insert(Refusal::TooManyFromAddress, 1);
        let json = stats.to_json();
        assert_eq!(json["downloaded"], 5);
        assert_eq!(json["closed"], json!({ "wrong_proof": 3 }));
        assert_eq!(json["refused"], json!({ "too_many_from_address": 1 }));
    }
}
