//! Enrolment: a one-boot token is traded for a session bound to a key that PID 1 made in memory.

use serde::{Deserialize, Serialize};

use crate::{SigningKey, VerifyingKey};

/// Prefix of the signed enrolment body, so that this signature can be used for nothing else.
const SIGNATURE_DOMAIN: &[u8] = b"esir-enrol-v1\0";

/// Who a machine says it is, as its firmware tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// SMBIOS system UUID in lower-case text; `None` where absent, all zeros or all ones.
    pub uuid: Option<String>,
    /// SMBIOS system serial number.
    pub serial: Option<String>,
    /// SMBIOS manufacturer.
    pub vendor: Option<String>,
    /// SMBIOS product name.
    pub product: Option<String>,
}

/// Firmware that started the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareKind {
    /// PC BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

impl std::fmt::Display for FirmwareKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        })
    }
}

/// What the kernel keeps even root from doing (`kernel_lockdown(7)`); distributions' kernels turn it on under Secure
/// Boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lockdown {
    /// Nothing.
    None,
    /// To change the running kernel: modules that nobody signed, `/dev/mem`, kexec of unsigned kernels.
    Integrity,
    /// That, and to read what the kernel keeps to itself.
    Confidentiality,
}

impl Lockdown {
    /// Reads `/sys/kernel/security/lockdown`: `none [integrity] confidentiality`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('[')?.1.split_once(']')?.0 {
            "none" => Some(Self::None),
            "integrity" => Some(Self::Integrity),
            "confidentiality" => Some(Self::Confidentiality),
            _ => None,
        }
    }
}

impl std::fmt::Display for Lockdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        })
    }
}

/// What an agent says of itself when it enrols.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequestBody {
    /// The one-boot token of the kernel command line.
    pub token: String,
    /// Random text made by PID 1 for this boot; the task is bound to it.
    pub boot_nonce: String,
    /// Ed25519 public key (32 bytes, hex) made by PID 1 in memory.
    pub node_key: String,
    /// Hardware address of the NIC that booted, `52:54:00:aa:bb:cc`.
    pub mac: String,
    /// From SMBIOS.
    pub identity: Identity,
    /// BIOS or UEFI.
    pub firmware: FirmwareKind,
    /// Whether its kernel is locked down; `None` where the kernel does not say.
    #[serde(default)]
    pub lockdown: Option<Lockdown>,
    /// `uname -r`.
    pub kernel_release: String,
    /// Version of the agent.
    pub agent_version: String,
    /// BLAKE3 of the store manifest that this initrd trusts, hex.
    pub store_manifest: String,
}

/// An [`EnrolRequestBody`] as JSON text with the proof that the sender holds `node_key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// JSON of [`EnrolRequestBody`].
    pub body: String,
    /// Ed25519 signature (64 bytes, hex) by `node_key` over the domain prefix and `body`.
    pub signature: String,
}

impl EnrolRequest {
    /// Signs `body` with the node's key.
    ///
    /// # Errors
    /// Only when `body` cannot become JSON, which its types rule out.
    pub fn sign(body: &EnrolRequestBody, key: &SigningKey) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_string(body)?;
        let signature = hex::encode(key.sign(&signed_bytes(&body)));
        Ok(Self { body, signature })
    }

    /// The body, if it is signed by the key that it names.
    #[must_use]
    pub fn open(&self) -> Option<EnrolRequestBody> {
        let body: EnrolRequestBody = serde_json::from_str(&self.body).ok()?;
        let key: [u8; 32] = hex::decode(&body.node_key).ok()?.try_into().ok()?;
        let signature = hex::decode(&self.signature).ok()?;
        VerifyingKey::from_bytes(&key)?.verifies(&signed_bytes(&self.body), &signature).then_some(body)
    }
}

fn signed_bytes(body: &str) -> Vec<u8> {
    [SIGNATURE_DOMAIN, body.as_bytes()].concat()
}

/// What the server answers to an enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolReply {
    /// The node's name at the server.
    pub node: String,
    /// Secret for the `Authorization` header of all further calls of this boot.
    pub session: String,
    /// The server's clock, milliseconds since 1970; the agent sets its own by it.
    pub server_time_unix_ms: u64,
    /// How often the agent should report, milliseconds.
    pub report_interval_ms: u64,
    /// Modules that this node must not load.
    #[serde(default)]
    pub module_deny: Vec<String>,
    /// Set if the node shall serve boot files to others of its rack.
    #[serde(default)]
    pub boot_share: Option<crate::BootShare>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_what_stands_in_brackets() {
        assert_eq!(Lockdown::parse("none [integrity] confidentiality\n"), Some(Lockdown::Integrity));
        assert_eq!(Lockdown::parse("[none] integrity confidentiality\n"), Some(Lockdown::None));
        assert_eq!(Lockdown::parse("none integrity confidentiality\n"), None);
        assert_eq!(Lockdown::parse("none [more] \n"), None);
    }

    #[test]
    fn only_the_holder_of_the_key_can_enrol() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let body = EnrolRequestBody {
            token: "t".into(),
            boot_nonce: "n".into(),
            node_key: hex::encode(key.verifying_key().to_bytes()),
            mac: "52:54:00:aa:bb:cc".into(),
            identity: Identity::default(),
            firmware: FirmwareKind::Bios,
            lockdown: Some(Lockdown::None),
            kernel_release: "6.1.0".into(),
            agent_version: "0".into(),
            store_manifest: String::new(),
        };
        let request = EnrolRequest::sign(&body, &key).unwrap();
        assert_eq!(request.open(), Some(body.clone()));
        let forged = EnrolRequest::sign(&body, &SigningKey::from_bytes(&[8; 32])).unwrap();
        assert_eq!(forged.open(), None);
    }
}
