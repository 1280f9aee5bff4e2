//! The swarm secret: proof that a peer belongs to this deployment.
//!
//! Each side sends a fresh nonce in its BEP 10 handshake and answers the other's with
//! HMAC-SHA-256(secret, label, side, info-hash, both peer ids, both nonces). The side is in it so that a proof
//! can't be sent back as one's own; the nonces so that it can't be used again.

use crate::extension::Nonce;
use crate::metainfo::InfoHash;
use crate::wire::PeerId;
use ring::hmac::{self, HMAC_SHA256};
use std::fmt;

const LABEL: &[u8] = b"esir swarm member v1";
const HTTP_LABEL: &[u8] = b"esir swarm http v1";

/// Bytes of a key for HTTP: more than anybody can try.
const HTTP_KEY_BYTES: usize = 16;

/// Length of a proof in bytes.
pub(crate) const PROOF_BYTES: usize = 32;

/// The secret of one deployment; reached the node inside its signed task.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which side opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// We opened it.
    Outbound,
    /// The peer opened it.
    Inbound,
}

impl Side {
    /// The same connection seen from the other end.
    pub fn other(self) -> Side {
        match self {
            Side::Outbound => Side::Inbound,
            Side::Inbound => Side::Outbound,
        }
    }
}

/// What both proofs of one connection cover, named from the opener's side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Covered {
    pub(crate) info_hash: InfoHash,
    pub(crate) opener: PeerId,
    pub(crate) accepter: PeerId,
    pub(crate) opener_nonce: Nonce,
    pub(crate) accepter_nonce: Nonce,
}

impl Secret {
    /// The secret written as 64 hexadecimal digits.
    pub fn from_hex(digits: &str) -> Option<Secret> {
        let mut bytes = [0; 32];
        let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len()
            || !rest.is_empty()
            || !digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Secret(bytes))
    }

    /// As [`Secret::from_hex`] reads it.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What a seed's HTTP side asks for as `key` in the query, in hexadecimal digits. It travels in clear, as the
    /// data that it gives access to does, and nothing about the secret follows from it.
    pub fn http_key(&self) -> String {
        let tag = hmac::sign(&self.key(), HTTP_LABEL);
        tag.as_ref().iter().take(HTTP_KEY_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The proof that the side which sees this connection as `prover` sends; there always is one.
    pub(crate) fn proof(&self, prover: Side, covered: &Covered) -> Option<[u8; PROOF_BYTES]> {
        hmac::sign(&self.key(), &covered.text(prover)).as_ref().try_into().ok()
    }

    /// Whether `proof` is the one that `prover` must send; compares in constant time.
    pub(crate) fn proves(&self, prover: Side, covered: &Covered, proof: &[u8]) -> bool {
        hmac::verify(&self.key(), &covered.text(prover), proof).is_ok()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(HMAC_SHA256, &self.0)
    }
}

impl Covered {
    /// What the proof of `prover` is a code of; every part but the label has one length.
    fn text(&self, prover: Side) -> Vec<u8> {
        let side: &[u8] = match prover {
            Side::Outbound => &[0],
            Side::Inbound => &[1],
        };
        let ids: [&[u8]; 3] = [&self.info_hash.0, &self.opener, &self.accepter];
        let nonces: [&[u8]; 2] = [&self.opener_nonce, &self.accepter_nonce];
        [LABEL, side].into_iter().chain(ids).chain(nonces).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered() -> Covered {
        Covered {
            info_hash: InfoHash([1; 20]),
            opener: [2; 20],
            accepter: [3; 20],
            opener_nonce: [4; 32],
            accepter_nonce: [5; 32],
        }
    }

    #[test]
    fn a_proof_holds_only_for_its_secret_side_ids_and_nonces() {
        let secret = Secret([7; 32]);
        let proof = secret.proof(Side::Outbound, &covered()).unwrap();
        assert!(secret.proves(Side::Outbound, &covered(), &proof));
        assert!(!secret.proves(Side::Inbound, &covered(), &proof), "sent back to its maker");
        assert!(!Secret([8; 32]).proves(Side::Outbound, &covered(), &proof));
        let changed = [
            Covered { info_hash: InfoHash([9; 20]), ..covered() },
            Covered { opener: [9; 20], ..covered() },
            Covered { accepter: [9; 20], ..covered() },
            Covered { opener_nonce: [9; 32], ..covered() },
            Covered { accepter_nonce: [9; 32], ..covered() },
        ];
        assert!(changed.iter().all(|other| !secret.proves(Side::Outbound, other, &proof)));
        assert!(!secret.proves(Side::Outbound, &covered(), &proof[..31]));
    }

    #[test]
    fn each_secret_has_a_key_for_http_of_its_own() {
        let key = Secret([7; 32]).http_key();
        assert_eq!(key.len(), 2 * HTTP_KEY_BYTES);
        assert_eq!(key, Secret([7; 32]).http_key());
        assert_ne!(key, Secret([8; 32]).http_key());
    }

    /// Made by Python's `hmac`: nodes and servers of other versions are in the same swarm.
    #[test]
    fn proofs_and_keys_stay_what_they_are() {
        let secret = Secret([7; 32]);
        assert_eq!(secret.http_key(), "7bcb026a2ee08f5a6946da066494a8f3");
        let proof = secret.proof(Side::Outbound, &covered()).unwrap();
        let proof: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(proof, "1e04700ebf258248950d2770f24c6c4ee496f951dc21cc60ff040cd32e21786b");
    }

    #[test]
    fn a_secret_is_64_hexadecimal_digits() {
        let secret = Secret(std::array::from_fn(|at| u8::try_from(at).unwrap() * 8));
        assert_eq!(Secret::from_hex(&secret.to_hex()), Some(secret));
        for bad in
            ["", "00", &"0".repeat(63), &"0".repeat(65), &"0".repeat(66), &"+0".repeat(32), &"é".repeat(32)]
        {
            assert_eq!(Secret::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret([7; 32])), "Secret(..)");
    }
}
