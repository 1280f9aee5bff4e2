//! Ed25519 (RFC 8032), as tasks and enrolments are signed.
//!
//! By *ring*, because TLS brings it along: the agent has no room for two implementations.

use std::fmt;
use std::sync::Arc;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// The y of every point whose order divides eight, the two that are not reduced (p and p + 1) included;
/// *ring* takes them for keys like any other.
const SMALL_ORDER: [[u8; 32]; 7] = {
    let (mut one, mut least) = ([0; 32], [0xff; 32]);
    one[0] = 1;
    // p - 1, where p is 2^255 - 19.
    least[0] = 0xec;
    least[31] = 0x7f;
    let (mut p, mut next) = (least, least);
    p[0] = 0xed;
    next[0] = 0xee;
    [[0; 32], one, least, p, next, ORDER_EIGHT[0], ORDER_EIGHT[1]]
};
const ORDER_EIGHT: [[u8; 32]; 2] = [
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// The private half of a key.
#[derive(Clone)]
pub struct SigningKey(Arc<Ed25519KeyPair>);

/// The public half of a key. Bytes that are no point of the curve make a key that verifies nothing.
///
/// Signatures have one form: *ring* refuses an S that is not reduced, and compares R as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey([u8; 32]);

impl SigningKey {
    /// From the 32 bytes that RFC 8032 calls the private key.
    #[must_use]
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        match Ed25519KeyPair::from_seed_unchecked(seed) {
            Ok(pair) => Self(Arc::new(pair)),
            Err(_) => unreachable!("every 32 bytes are a key"),
        }
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        let mut bytes = [0; 32];
        for (byte, of_key) in bytes.iter_mut().zip(self.0.public_key().as_ref()) {
            *byte = *of_key;
        }
        VerifyingKey(bytes)
    }

    /// The signature of `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut bytes = [0; SIGNATURE_BYTES];
        for (byte, of_signature) in bytes.iter_mut().zip(self.0.sign(message).as_ref()) {
            *byte = *of_signature;
        }
        bytes
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl VerifyingKey {
    /// From the encoded point; nothing for the points of small order, under which anybody can sign.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let mut y = *bytes;
        // The sign of x.
        y[31] &= 0x7f;
        (!SMALL_ORDER.contains(&y)).then_some(Self(*bytes))
    }

    /// The encoded point.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Whether the other half of this key signed `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032 section 7.1, test 2.
    const SEED: &str = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    const SIGNATURE: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";

    #[test]
    fn signs_as_the_standard_says() {
        let key = SigningKey::from_bytes(&hex::decode(SEED).unwrap().try_into().unwrap());
        assert_eq!(hex::encode(key.verifying_key().to_bytes()), PUBLIC);
        assert_eq!(hex::encode(key.sign(&[0x72])), SIGNATURE);
        assert!(key.verifying_key().verifies(&[0x72], &key.sign(&[0x72])));
    }

    #[test]
    fn whatever_is_altered_is_refused() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let signature = key.sign(b"task");
        assert!(!key.verifying_key().verifies(b"tusk", &signature));
        assert!(!key.verifying_key().verifies(b"task", &signature[..63]));
        assert!(!key.verifying_key().verifies(b"task", &[0; SIGNATURE_BYTES]));
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        assert!(!other.verifies(b"task", &signature));
        let no_point = VerifyingKey::from_bytes(&[2; 32]).unwrap();
        assert!(!no_point.verifies(b"task", &signature));
    }

    /// RFC 8032 section 5.1.7: S is below the order of the group, or one signature would have many forms.
    #[test]
    fn a_second_form_of_a_signature_is_refused() {
        const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut signature = key.sign(b"task");
        let mut carry = 0;
        for (byte, of_order) in signature[32..].iter_mut().zip(hex::decode(ORDER).unwrap()) {
            let sum = u16::from(*byte) + u16::from(of_order) + carry;
            [*byte, _] = sum.to_le_bytes();
            carry = sum >> 8;
        }
        assert_eq!(carry, 0);
        assert!(!key.verifying_key().verifies(b"task", &signature));
    }

    /// With A the neutral element, R of any S is S times the base point, whatever was signed.
    #[test]
    fn a_key_under_which_anybody_signs_is_refused() {
        let other = SigningKey::from_bytes(&[7; 32]);
        for (y, sign) in SMALL_ORDER.iter().flat_map(|y| [(y, 0), (y, 0x80)]) {
            let mut bytes = *y;
            bytes[31] |= sign;
            assert_eq!(VerifyingKey::from_bytes(&bytes), None, "{}", hex::encode(bytes));
        }
        let mut forged = [0; SIGNATURE_BYTES];
        forged[0] = 1;
        let neutral = VerifyingKey(SMALL_ORDER[1]);
        assert!(neutral.verifies(b"anything", &forged), "why the list is there");
        assert!(VerifyingKey::from_bytes(&other.verifying_key().to_bytes()).is_some());
    }

    #[test]
    fn a_private_key_is_not_printed() {
        assert_eq!(format!("{:?}", SigningKey::from_bytes(&[7; 32])), "SigningKey(..)");
    }
}
