//! Objects of the boot bundle's store, fetched from the server and proved by their hash.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime::Handle;

use crate::api::Session;
use crate::console::chain;
use crate::failure::BackOff;
use crate::hardware::ObjectSource;

/// A server that restarts is back within this many tries (about a minute).
const TRIES_MAX: u32 = 8;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LIMIT: Duration = Duration::from_secs(15);

/// Fetches over HTTPS; its callers block, the network does not.
#[derive(Clone)]
pub(crate) struct ServerObjects {
    session: Session,
    runtime: Handle,
}

impl ServerObjects {
    /// To be called from within the runtime.
    pub(crate) fn new(session: Session) -> Self {
        Self { session, runtime: Handle::current() }
    }

    async fn fetch_proved(&self, hash: &str) -> Result<Vec<u8>> {
        let mut back_off = BackOff::new(PAUSE_FIRST, PAUSE_LIMIT);
        let mut reason = String::new();
        for try_number in 1..=TRIES_MAX {
            match self.session.object(hash).await {
                Ok(bytes) if blake3::hash(&bytes).to_hex().as_str() == hash => return Ok(bytes),
                Ok(_) => reason = "the server sent other bytes than those of this hash".to_owned(),
                Err(error) => reason = chain(&error),
            }
            if try_number < TRIES_MAX {
                tracing::warn!("object {hash}: {reason}; trying again");
                tokio::time::sleep(back_off.pause()).await;
            }
        }
        bail!("{reason}")
    }
}

impl ObjectSource for ServerObjects {
    fn fetch(&self, hash: &str) -> Result<Vec<u8>> {
        tokio::task::block_in_place(|| self.runtime.block_on(self.fetch_proved(hash)))
            .with_context(|| format!("fetching object {hash}"))
    }
}
