//! What the boot chain hands to the agent: the site's trust in the initrd, and the kernel command line.

use serde::{Deserialize, Serialize};

/// Where the site cpio of the initrd puts [`SiteTrust`] as JSON.
pub const SITE_TRUST_PATH: &str = "/etc/esir/site.json";

/// What the initrd's site cpio tells the agent; the root of everything that it trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteTrust {
    /// Name of the site, for people.
    pub site: String,
    /// SHA-256 of the server's TLS SubjectPublicKeyInfo in DER (RFC 7469 section 2.4), hex.
    pub tls_spki_sha256: String,
    /// Ed25519 public key (32 bytes, hex) that signs tasks.
    pub task_public_key: String,
    /// Minisign public keys (the base64 line) that may sign images.
    pub image_public_keys: Vec<String>,
}

/// What an agent calls itself when it fetches boot files over plain HTTP; the server sends it to peers as it does iPXE.
pub const BOOT_SHARE_AGENT: &str = "esir-agent/";

/// Boot files that a node is asked to serve to others of its rack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootShare {
    /// Where the server serves them, plain HTTP.
    pub server: std::net::SocketAddrV4,
    /// Names the bundle in URLs.
    pub bundle: String,
    /// Kernel and initrd as nodes load them.
    pub files: Vec<BootFile>,
}

/// One file of a [`BootShare`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFile {
    /// The last part of its URL.
    pub name: String,
    /// BLAKE3, hex.
    pub hash: String,
    /// Length, bytes.
    pub bytes: u64,
}

/// What the kernel command line tells the agent. Untrusted: whoever is on the wire can write it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BootArguments {
    /// `esir.server=ADDRESS:PORT` of the agent API.
    pub server: Option<std::net::SocketAddr>,
    /// `esir.token=TEXT`, names one boot.
    pub token: Option<String>,
    /// `BOOTIF=01-52-54-00-12-34-56`, the hardware address of the NIC that booted, six bytes.
    pub boot_mac: Option<[u8; 6]>,
}

/// A boot argument that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BootArgumentsError {
    /// `esir.server` is not `ADDRESS:PORT`.
    #[error("esir.server={0} is not ADDRESS:PORT")]
    Server(String),
    /// `BOOTIF` is not a hardware address.
    #[error("BOOTIF={0} is not 01- and six hex bytes")]
    BootMac(String),
}

impl BootArguments {
    /// Reads the arguments that are ours from a kernel command line and ignores the rest.
    ///
    /// # Errors
    /// An argument of ours that is present but malformed.
    pub fn parse(command_line: &str) -> Result<Self, BootArgumentsError> {
        let mut arguments = Self::default();
        for word in command_line.split_ascii_whitespace() {
            if let Some(value) = word.strip_prefix("esir.server=") {
                let server = value.parse().map_err(|_| BootArgumentsError::Server(value.to_owned()))?;
                arguments.server = Some(server);
            } else if let Some(value) = word.strip_prefix("esir.token=") {
                arguments.token = Some(value.to_owned());
            } else if let Some(value) = word.strip_prefix("BOOTIF=") {
                let mac = parse_bootif(value).ok_or_else(|| BootArgumentsError::BootMac(value.to_owned()))?;
                arguments.boot_mac = Some(mac);
            }
        }
        Ok(arguments)
    }
}

/// `01-aa-bb-...` (PXELINUX) or `01:aa:bb:...`; the leading hardware type is optional.
fn parse_bootif(value: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = value
        .split(['-', ':'])
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
        .collect::<Option<_>>()?;
    match bytes.as_slice() {
        [1, mac @ ..] if mac.len() == 6 => mac.try_into().ok(),
        mac => mac.try_into().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_among_those_of_others() {
        let line =
            "initrd=initrd.img esir.server=10.77.0.1:8443 quiet esir.token=abc BOOTIF=01-52-54-00-aa-bb-cc";
        let arguments = BootArguments::parse(line).unwrap();
        assert_eq!(arguments.server, Some("10.77.0.1:8443".parse().unwrap()));
        assert_eq!(arguments.token.as_deref(), Some("abc"));
        assert_eq!(arguments.boot_mac, Some([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]));
    }

    #[test]
    fn bootif_with_colons_and_without_type_is_read_and_nonsense_refused() {
        assert_eq!(parse_bootif("01:52:54:00:aa:bb:cc"), Some([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]));
        assert_eq!(parse_bootif("52:54:00:aa:bb:cc"), Some([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]));
        assert_eq!(parse_bootif("01-52-54"), None);
        assert_eq!(parse_bootif("01-5-54-00-aa-bb-cc"), None);
        assert!(BootArguments::parse("esir.server=nowhere").is_err());
    }
}
