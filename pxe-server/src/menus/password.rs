//! Hashes of a password for the two loaders. The password itself is written nowhere.

use anyhow::{Result, anyhow};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha512;

use crate::keys::random;
use crate::netboot::{REALM, md5_hex};

/// What `grub-mkpasswd-pbkdf2` takes by default.
const ITERATIONS: u32 = 10_000;
/// One block of the hash, so that PBKDF2's outer loop (RFC 8018 section 5.2) runs once.
const HASH_BYTES: usize = 64;
const SALT_BYTES: usize = 64;

/// HA1 of HTTP Digest (RFC 7616 section 3.4.2), for iPXE.
pub(crate) fn digest(user: &str, password: &str) -> String {
    md5_hex(&[user, REALM, password])
}

/// `grub.pbkdf2.sha512.ITERATIONS.SALT.HASH`, for GRUB's `password_pbkdf2`.
pub(crate) fn grub(password: &str) -> Result<String> {
    let salt = random::<SALT_BYTES>()?;
    let hash = pbkdf2(password.as_bytes(), &salt, ITERATIONS)?;
    let upper = |bytes: &[u8]| hex::encode_upper(bytes);
    Ok(format!("grub.pbkdf2.sha512.{ITERATIONS}.{}.{}", upper(&salt), upper(&hash)))
}

/// The first block of PBKDF2-HMAC-SHA-512 (RFC 8018 section 5.2).
fn pbkdf2(password: &[u8], salt: &[u8], iterations: u32) -> Result<[u8; HASH_BYTES]> {
    let keyed =
        Hmac::<Sha512>::new_from_slice(password).map_err(|_| anyhow!("the password cannot be used"))?;
    let mut round = keyed.clone();
    round.update(salt);
    round.update(&1_u32.to_be_bytes());
    let mut last = round.finalize().into_bytes();
    let mut hash = last;
    for _ in 1..iterations {
        let mut round = keyed.clone();
        round.update(&last);
        last = round.finalize().into_bytes();
        for (sum, byte) in hash.iter_mut().zip(last) {
            *sum ^= byte;
        }
    }
    Ok(hash.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_other_programs_make() {
        // hashlib.pbkdf2_hmac("sha512", b"password", b"salt", 2)
        let expected = "e1d9c16aa681708a45f5c7c4e215ceb66e011a2e9f0040713f18aefdb866d53cf76cab2868a39b9f7840edce4fef5a82be67335c77a6068e04112754f27ccf4e";
        assert_eq!(hex::encode(pbkdf2(b"password", b"salt", 2).unwrap()), expected);
        assert_eq!(digest("admin", "secret"), md5_hex(&["admin:esir:secret"]));
        let hash = grub("secret").unwrap();
        assert!(hash.starts_with("grub.pbkdf2.sha512.10000.") && hash.len() == 25 + 128 + 1 + 128, "{hash}");
    }
}
