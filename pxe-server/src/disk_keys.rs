//! Keys of nodes' LUKS containers. Each is derived from one secret of the server and the node's machine id: nothing is
//! stored for a node, and a node that is deployed anew has the keys that it had.

use hmac::{Hmac, KeyInit as _, Mac as _};
use node_api::{DiskKey, DiskSecret};
use sha2::Sha256;

/// Of a key, as hex digits: beyond guessing, and short enough to be typed.
const KEY_BYTES: usize = 16;
/// Sets these keys apart from whatever else is ever derived from the secret.
const PURPOSE: &[u8] = b"esir disk key";

/// What all keys are derived from. Lost, no key can be told again.
pub(crate) struct DiskKeys {
    keyed: Hmac<Sha256>,
}

impl DiskKeys {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        // HMAC fills a short key with zeros to a whole block (RFC 2104 section 2).
        let mut block = [0; 64];
        block.iter_mut().zip(secret).for_each(|(to, from)| *to = from);
        Self { keyed: Hmac::new(&block.into()) }
    }

    /// The keys of a node's containers, in the order of their names as given.
    pub(crate) fn of<'n>(&self, machine_id: &str, containers: impl Iterator<Item = &'n str>) -> Vec<DiskKey> {
        containers
            .map(|name| DiskKey { name: name.to_owned(), secret: self.derive(machine_id, name) })
            .collect()
    }

    fn derive(&self, machine_id: &str, container: &str) -> DiskSecret {
        let mut mac = self.keyed.clone();
        for part in [PURPOSE, machine_id.as_bytes(), container.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let tag = mac.finalize().into_bytes();
        DiskSecret::new(tag.iter().take(KEY_BYTES).map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_of_each_node_has_a_key_of_its_own_that_stays() {
        let keys = DiskKeys::new([7; 32]);
        let of = |machine: &str, name: &'static str| {
            keys.of(machine, [name].into_iter()).remove(0).secret.text().to_owned()
        };
        // hmac.new(b"\x07" * 32, b"".join(struct.pack(">Q", len(p)) + p for p in parts), "sha256").hexdigest()[:32]
        assert_eq!(of("aa", "crypt"), "430c4b505a3eac8b42b6c30347ed50da");
        let all = [of("aa", "crypt"), of("aa", "data"), of("ab", "crypt"), of("aac", "rypt")];
        for (index, key) in all.iter().enumerate() {
            assert!(!all.iter().skip(index + 1).any(|other| other == key), "{all:?}");
        }
    }
}
