//! Minisign signatures over manifests (<https://jedisct1.github.io/minisign/>): `minisign -Vm X.esir.manifest` checks
//! the same.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use minisign_verify::{PublicKey, Signature};

/// Most bytes of a signature file that are looked at: four short lines.
const SIGNATURE_BYTES_MAX: usize = 4096;

/// Which key signed: eight bytes, shown as minisign shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

/// A signature that proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not a minisign signature file.
    #[error("the image's signature cannot be read; sign it again with `image-tools sign`")]
    Malformed,
    /// One of the trusted keys is no key.
    #[error("the trusted key number {0} is not a minisign public key")]
    TrustedKey(usize),
    /// Nobody is trusted.
    #[error("no image key is trusted here, so no image can be; add a minisign public key")]
    NoTrustedKeys,
    /// Made by a key that is not in the list.
    #[error("the image is signed by key {0}, which is not trusted here; add its public key if it should be")]
    UnknownKey(KeyId),
    /// Made by a trusted key over other bytes: manifest or signature was changed.
    #[error("the image's signature does not fit its manifest: one of them was changed after key {0} signed")]
    Wrong(KeyId),
}

/// Checks that one of the keys in `trusted` signed exactly `manifest`; returns which.
///
/// `minisig` is the text of the signature file; a trusted key is the base64 line of a public key, or its whole file.
///
/// # Errors
/// See [`SignatureError`].
pub fn verify_signature(manifest: &[u8], minisig: &str, trusted: &[String]) -> Result<KeyId, SignatureError> {
    let signer = signer(minisig).ok_or(SignatureError::Malformed)?;
    let signature = Signature::decode(minisig).map_err(|_| SignatureError::Malformed)?;
    if trusted.is_empty() {
        return Err(SignatureError::NoTrustedKeys);
    }
    for (number, text) in trusted.iter().enumerate() {
        let line = key_line(text);
        let malformed = SignatureError::TrustedKey(number + 1);
        let key = PublicKey::from_base64(line).map_err(|_| malformed.clone())?;
        if key_id(line) != Some(signer) {
            continue;
        }
        // Legacy signatures (over the bytes instead of their BLAKE2b) are for files that nobody can hash first.
        return key
            .verify(manifest, &signature, false)
            .map(|()| signer)
            .map_err(|_| SignatureError::Wrong(signer));
    }
    Err(SignatureError::UnknownKey(signer))
}

/// The base64 line of a public key file, or the text itself.
fn key_line(text: &str) -> &str {
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("untrusted comment:"))
        .unwrap_or("")
}

/// Bytes 2..10 of a public key and of a signature are the key's number.
fn key_id(base64: &str) -> Option<KeyId> {
    let bytes = BASE64.decode(base64).ok()?;
    bytes.get(2..10)?.try_into().ok().map(KeyId)
}

/// Whose signature this claims to be.
fn signer(minisig: &str) -> Option<KeyId> {
    if minisig.len() > SIGNATURE_BYTES_MAX {
        return None;
    }
    key_id(minisig.lines().nth(1)?.trim())
}

#[cfg(test)]
mod tests;
