//! HTTP Digest (RFC 7616, RFC 2617): the only way in which iPXE proves a password without sending it.
//!
//! Never sees a password: the site file has a hash of user, realm and password. Each challenge is good for one answer,
//! for one address of this server, and for a minute.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use md5::{Digest as _, Md5};

/// Part of every hash in the site file, so it can never change.
pub(crate) const REALM: &str = "esir";
/// iPXE answers a challenge at once; the person has typed before.
const NONCE_LIFE_S: u64 = 60;
/// Answers of the last minute that are remembered, so that none is taken twice.
const USED_MAX: usize = 4096;
/// A header longer than this is no answer.
const HEADER_BYTES_MAX: usize = 4096;

/// Makes challenges and checks answers.
pub(super) struct Logins {
    key: [u8; 32],
    made: AtomicU64,
    used: Mutex<HashMap<String, u64>>,
}

/// What was asked for, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    /// Path and query as in the request line.
    pub(super) target: &'a str,
    /// The `Authorization` header.
    pub(super) authorization: &'a str,
}

impl Logins {
    /// With a key of its own: challenges of another server, or of the last start, are good for nothing.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { key, made: AtomicU64::new(0), used: Mutex::default() })
    }

    /// The value of `WWW-Authenticate`.
    pub(super) fn challenge(&self, now_unix_s: u64) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let nonce = self.nonce(now_unix_s, number);
        format!("Digest realm=\"{REALM}\", qop=\"auth\", algorithm=MD5, nonce=\"{nonce}\"")
    }

    fn nonce(&self, at_unix_s: u64, number: u64) -> String {
        let text = format!("{at_unix_s:x}.{number:x}");
        let tag = blake3::keyed_hash(&self.key, text.as_bytes()).to_hex();
        format!("{text}.{}", tag.get(..32).unwrap_or_default())
    }

    /// Who gave the right answer; `digest_of` gives HA1 of a user in hex.
    pub(super) fn user(
        &self,
        now_unix_s: u64,
        asked: Asked<'_>,
        digest_of: impl FnOnce(&str) -> Option<String>,
    ) -> Option<String> {
        let fields = fields(asked.authorization)?;
        let field = |name: &str| fields.get(name).map(String::as_str);
        let (user, nonce, uri) = (field("username")?, field("nonce")?, field("uri")?);
        let at_unix_s = self.made_at(nonce)?;
        let fresh = now_unix_s.saturating_sub(at_unix_s) <= NONCE_LIFE_S;
        if field("realm")? != REALM || uri != asked.target || !fresh {
            return None;
        }
        let ha1 = digest_of(user)?;
        let ha2 = md5_hex(&[asked.method, uri]);
        let expected = match field("qop") {
            Some("auth") => md5_hex(&[&ha1, nonce, field("nc")?, field("cnonce")?, "auth", &ha2]),
            None => md5_hex(&[&ha1, nonce, &ha2]),
            Some(_) => return None,
        };
        // Compared by their hashes: how long that takes says nothing about how much of them is right.
        let given = field("response")?.to_ascii_lowercase();
        let right = blake3::hash(expected.as_bytes()) == blake3::hash(given.as_bytes());
        (right && self.use_up(now_unix_s, nonce, at_unix_s)).then(|| user.to_owned())
    }

    /// When this server made the challenge; `None` if it did not.
    fn made_at(&self, nonce: &str) -> Option<u64> {
        let mut parts = nonce.split('.');
        let (at, number) = (parts.next()?, parts.next()?);
        let (at, number) = (u64::from_str_radix(at, 16).ok()?, u64::from_str_radix(number, 16).ok()?);
        (self.nonce(at, number) == nonce).then_some(at)
    }

    fn use_up(&self, now_unix_s: u64, nonce: &str, at_unix_s: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, at| now_unix_s.saturating_sub(*at) <= NONCE_LIFE_S);
        used.len() < USED_MAX && used.insert(nonce.to_owned(), at_unix_s).is_none()
    }
}

/// MD5 of the parts with colons between, in hex.
pub(crate) fn md5_hex(parts: &[&str]) -> String {
    hex::encode(Md5::digest(parts.join(":").as_bytes()))
}

/// `name=value` and `name="value"`, separated by commas.
fn fields(header: &str) -> Option<HashMap<String, String>> {
    let mut rest = header.get(..header.len().min(HEADER_BYTES_MAX))?.trim();
    rest = rest.strip_prefix("Digest ").or_else(|| rest.strip_prefix("digest "))?;
    let mut fields = HashMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if rest.is_empty() {
            return Some(fields);
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        fields.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "/boot.ipxe?mac=52-54-00-00-00-01&item=rescue";

    fn answer(nonce: &str, uri: &str, password: &str) -> String {
        let ha1 = md5_hex(&["admin", REALM, password]);
        let response = md5_hex(&[&ha1, nonce, "00000001", "c0", "auth", &md5_hex(&["GET", uri])]);
        format!(
            "Digest username=\"admin\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"{uri}\", qop=auth, nc=00000001, \
             cnonce=\"c0\", response=\"{response}\""
        )
    }

    fn nonce(challenge: &str) -> String {
        fields(challenge).unwrap()["nonce"].clone()
    }

    fn user(logins: &Logins, now: u64, target: &str, authorization: &str) -> Option<String> {
        let asked = Asked { method: "GET", target, authorization };
        logins.user(now, asked, |user| (user == "admin").then(|| md5_hex(&["admin", REALM, "right"])))
    }

    #[test]
    fn hashes_are_those_of_the_rfc() {
        // RFC 2617 section 3.5.
        let ha1 = md5_hex(&["Mufasa", "testrealm@host.com", "Circle Of Life"]);
        let ha2 = md5_hex(&["GET", "/dir/index.html"]);
        let nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
        let response = md5_hex(&[&ha1, nonce, "00000001", "0a4f113b", "auth", &ha2]);
        assert_eq!(response, "6629fae49393a05397450978507c4ef1");
    }

    #[test]
    fn right_password_counts_once_and_for_one_address() {
        let logins = Logins::new().unwrap();
        let nonce = nonce(&logins.challenge(1000));
        let right = answer(&nonce, TARGET, "right");
        assert_eq!(user(&logins, 1001, "/boot.ipxe?item=other", &right), None);
        assert_eq!(user(&logins, 1001, TARGET, &answer(&nonce, TARGET, "wrong")), None);
        assert_eq!(user(&logins, 1061, TARGET, &right), None, "too late");
        assert_eq!(user(&logins, 1001, TARGET, &right).as_deref(), Some("admin"));
        assert_eq!(user(&logins, 1001, TARGET, &right), None, "sent again by somebody who listened");
        assert_eq!(user(&logins, 1001, TARGET, &right.replace("admin", "eve")), None);
    }

    #[test]
    fn challenge_of_another_server_is_worth_nothing() {
        let (ours, other) = (Logins::new().unwrap(), Logins::new().unwrap());
        let nonce = nonce(&other.challenge(1000));
        assert_eq!(user(&ours, 1000, TARGET, &answer(&nonce, TARGET, "right")), None);
        for wrong in [
            "",
            "Basic YTpi",
            "Digest",
            "Digest x",
            "Digest username=\"a",
            "Digest nonce=1.2.3, username=a, uri=x",
        ] {
            assert_eq!(user(&ours, 1000, TARGET, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn memory_for_answers_is_bounded() {
        let logins = Logins::new().unwrap();
        for number in 0..5000 {
            logins.use_up(1000, &number.to_string(), 1000);
        }
        assert_eq!(logins.used.lock().unwrap().len(), USED_MAX);
        assert!(logins.use_up(2000, "later", 2000));
    }
}
