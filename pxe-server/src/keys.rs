//! The server's keys: made at the first start, kept in the state directory, never shown.
//!
//! Never signs anything by itself: tasks are signed in `tasks`, TLS in `tls`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use node_api::{SigningKey, SiteTrust};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use crate::disk_keys::DiskKeys;
use crate::state::StateDir;

const CERTIFICATE: &str = "tls/cert.pem";
const TLS_KEY: &str = "tls/key.pem";
const TASK_KEY: &str = "task.key";
const DISK_KEY: &str = "disk.key";
/// Minisign public key files that this server's nodes trust, beside those given on the command line.
pub(crate) const TRUSTED: &str = "trusted";
/// A minisign public key: algorithm, key id, Ed25519 key (jedisct1.github.io/minisign, "Public key format").
const MINISIGN_PUBLIC_BYTES: usize = 2 + 8 + 32;

/// Every key that the server needs.
pub(crate) struct Keys {
    /// For the TLS listener.
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// What the agents check: SHA-256 of the certificate's SubjectPublicKeyInfo, hex.
    pub(crate) tls_spki_sha256: String,
    /// Signs tasks.
    pub(crate) task: SigningKey,
    /// Open nodes' LUKS containers.
    pub(crate) disks: DiskKeys,
    /// Minisign public keys (the base64 line) that may sign images.
    pub(crate) trusted_images: Vec<String>,
}

impl Keys {
    /// Reads the keys; makes those that are absent. `extra_trusted` are minisign `.pub` files.
    pub(crate) fn open(state: &StateDir, extra_trusted: &[PathBuf]) -> Result<Self> {
        let (tls, tls_spki_sha256) = open_tls(state)?;
        let task = open_secret(state, TASK_KEY, "restore it, or remove it and reboot waiting nodes")?;
        let disks = open_secret(state, DISK_KEY, "restore it: nodes' LUKS containers open by it")?;
        let trusted_images = read_trusted(&state.path(TRUSTED), extra_trusted)?;
        let (task, disks) = (SigningKey::from_bytes(&task), DiskKeys::new(disks));
        Ok(Self { tls, tls_spki_sha256, task, disks, trusted_images })
    }

    /// What goes into every initrd.
    pub(crate) fn site_trust(&self, site: &str) -> SiteTrust {
        SiteTrust {
            site: site.to_owned(),
            tls_spki_sha256: self.tls_spki_sha256.clone(),
            task_public_key: hex::encode(self.task.verifying_key().to_bytes()),
            image_public_keys: self.trusted_images.clone(),
        }
    }
}

fn open_tls(state: &StateDir) -> Result<(Arc<rustls::ServerConfig>, String)> {
    let (certificate, key) = match (state.read(CERTIFICATE)?, state.read(TLS_KEY)?) {
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => bail!(
            "{} has no {TLS_KEY} beside it; put the key there or remove the certificate to have both made anew",
            state.path(CERTIFICATE).display()
        ),
        // Absent, or a first start that ended between the two files: no initrd has this key yet.
        (None, _) => make_tls(state)?,
    };
    let using = || format!("using the certificate in {}", state.path("tls").display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .with_context(using)?;
    let first =
        chain.first().ok_or_else(|| anyhow!("{CERTIFICATE} holds no certificate")).with_context(using)?;
    let pin = spki_sha256(first).with_context(using)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).with_context(using)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(using)?;
    Ok((Arc::new(config), pin))
}

fn make_tls(state: &StateDir) -> Result<(String, String)> {
    let key = KeyPair::generate().context("making the TLS key")?;
    // The agents check the key and neither name nor dates (their clocks are wrong before they enrol).
    let params =
        CertificateParams::new(["pxe-server.esir.invalid".to_owned()]).context("making a certificate")?;
    let certificate = params.self_signed(&key).context("making a certificate")?;
    let (certificate, key) = (certificate.pem(), key.serialize_pem());
    state.write_secret(TLS_KEY, &key)?;
    state.write_secret(CERTIFICATE, &certificate)?;
    Ok((certificate, key))
}

/// RFC 7469 section 2.4.
fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).context("reading the certificate")?;
    Ok(hex::encode(Sha256::digest(certificate.subject_public_key_info().as_ref())))
}

/// A file of 64 hex digits, made at random where there is none. `remedy` is for a file that says something else.
fn open_secret(state: &StateDir, file: &str, remedy: &str) -> Result<[u8; 32]> {
    let Some(text) = state.read(file)? else {
        let secret: [u8; 32] = random()?;
        state.write_secret(file, &format!("{}\n", hex::encode(secret)))?;
        return Ok(secret);
    };
    let bytes: Option<[u8; 32]> = hex::decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| anyhow!("{} is not 64 hex digits; {remedy}", state.path(file).display()))
}

fn read_trusted(folder: &Path, extra: &[PathBuf]) -> Result<Vec<String>> {
    let mut files: Vec<PathBuf> = Vec::new();
    if folder.is_dir() {
        let reading = || format!("reading {}", folder.display());
        for entry in fs::read_dir(folder).with_context(reading)? {
            let path = entry.with_context(reading)?.path();
            if path.extension().is_some_and(|extension| extension == "pub") {
                files.push(path);
            }
        }
        files.sort();
    }
    files.extend(extra.iter().cloned());
    let mut keys = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let key = public_key_line(&text).ok_or_else(|| {
            anyhow!("{} is no minisign public key file; `image-tools keygen` makes one", path.display())
        })?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// The last line that is not empty; the one before is a comment.
fn public_key_line(text: &str) -> Option<String> {
    use base64::Engine as _;
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(line).ok()?;
    (bytes.len() == MINISIGN_PUBLIC_BYTES && bytes.starts_with(b"Ed")).then(|| line.to_owned())
}

/// Bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the operating system gives no random bytes: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let first = Keys::open(&state, &[]).unwrap();
        let second = Keys::open(&state, &[]).unwrap();
        assert_eq!(first.site_trust("s"), second.site_trust("s"));
        assert_eq!(first.tls_spki_sha256.len(), 64);
    }

    #[test]
    fn trusted_keys_are_read_from_the_state_directory_and_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        fs::create_dir(state.path(TRUSTED)).unwrap();
        fs::write(state.path("trusted/a.pub"), format!("untrusted comment: x\n{key}\n")).unwrap();
        fs::write(state.path("trusted/notes.txt"), "not a key").unwrap();
        let extra = folder.path().join("b.pub");
        fs::write(&extra, format!("untrusted comment: the same again\n{key}\n")).unwrap();
        assert_eq!(Keys::open(&state, std::slice::from_ref(&extra)).unwrap().trusted_images, [key]);
        fs::write(&extra, "nonsense").unwrap();
        let message = Keys::open(&state, &[extra]).err().unwrap().to_string();
        assert!(message.contains("is no minisign public key file"), "{message}");
    }

    #[test]
    fn damaged_task_key_is_never_replaced_in_silence() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.write_secret(TASK_KEY, "abc").unwrap();
        assert!(Keys::open(&state, &[]).is_err());
    }
}
