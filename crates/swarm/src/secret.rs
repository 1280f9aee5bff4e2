//! The swarm secret: proof that a peer belongs to this deployment.
//!
//! Each side sends a fresh nonce in its BEP 10 handshake and answers the other's with
//! HMAC-SHA-256(secret, label, side, info-hash, both peer ids, both nonces). The side is in it so that a proof
//! can't be sent back as one's own; the nonces so that it can't be used again.

use crate::extension::Nonce;
use crate::metainfo::InfoHash;
use crate::wire::PeerId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

const LABEL: &[u8] = b"esir swarm member v1";

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
    /// The proof that the side which sees this connection as `prover` sends.
    pub(crate) fn proof(&self, prover: Side, covered: &Covered) -> Option<[u8; PROOF_BYTES]> {
        self.mac(prover, covered).map(|mac| mac.finalize().into_bytes().into())
    }

    /// Whether `proof` is the one that `prover` must send; compares in constant time.
    pub(crate) fn proves(&self, prover: Side, covered: &Covered, proof: &[u8]) -> bool {
        self.mac(prover, covered).is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }

    /// `None` never happens: HMAC takes keys of every length.
    fn mac(&self, prover: Side, covered: &Covered) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(LABEL);
        mac.update(&[match prover {
            Side::Outbound => 0,
            Side::Inbound => 1,
        }]);
        mac.update(&covered.info_hash.0);
        mac.update(&covered.opener);
        mac.update(&covered.accepter);
        mac.update(&covered.opener_nonce);
        mac.update(&covered.accepter_nonce);
        Some(mac)
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
    fn the_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret([7; 32])), "Secret(..)");
    }
}
