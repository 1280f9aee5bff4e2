//! What PID 1 makes once per boot and every agent of that boot uses: the boot nonce and the node's key.
//!
//! They live in a file in memory (`/run` is a tmpfs) that only root reads, so that an agent that is started
//! again is still the same node to the server.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use node_api::SigningKey;
use serde::{Deserialize, Serialize};

/// Everything of ours in memory.
pub(crate) const RUN_DIRECTORY: &str = "/run/esir";
const FILE: &str = "boot-secrets.json";
/// The file is some 150 bytes; whatever is longer is not ours.
const FILE_BYTES_MAX: u64 = 4096;

/// Nonce and key of this boot.
pub(crate) struct BootSecrets {
    /// 32 hex digits; tasks are bound to it.
    pub(crate) nonce: String,
    /// Proves to the server that the same agent speaks.
    pub(crate) key: SigningKey,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    nonce: String,
    key: String,
}

impl BootSecrets {
    /// Makes new ones in `directory` unless this boot has them already.
    pub(crate) fn make_or_read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        if path.exists() {
            return Self::read(directory);
        }
        let mut bytes = [0; 48];
        getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("taking random bytes: {error}"))?;
        let (nonce, key) = bytes.split_at(16);
        let stored = Stored { nonce: hex::encode(nonce), key: hex::encode(key) };
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let context = || format!("writing {}", path.display());
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).with_context(context)?;
        file.write_all(serde_json::to_string(&stored)?.as_bytes()).with_context(context)?;
        Self::read(directory)
    }

    /// Reads those that PID 1 made.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let context = || format!("reading {}", path.display());
        let mut text = String::new();
        let file = std::fs::File::open(&path).with_context(context)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).with_context(context)?;
        let stored: Stored = serde_json::from_str(&text).with_context(context)?;
        let key: [u8; 32] = hex::decode(&stored.key)
            .ok()
            .and_then(|key| key.try_into().ok())
            .context("the node key is not 32 bytes")?;
        Ok(Self { nonce: stored.nonce, key: SigningKey::from_bytes(&key) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn agent_that_is_started_again_finds_the_same_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let first = BootSecrets::make_or_read(&directory.path().join("esir")).unwrap();
        let again = BootSecrets::make_or_read(&directory.path().join("esir")).unwrap();
        assert_eq!(first.nonce, again.nonce);
        assert_eq!(first.key.verifying_key(), again.key.verifying_key());
        let mode = std::fs::metadata(directory.path().join("esir").join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(first.nonce, BootSecrets::make_or_read(other.path()).unwrap().nonce);
    }
}
