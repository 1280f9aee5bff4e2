//! Other DHCP settings for a server that runs.
//!
//! Never touches a socket or a lease: settings are made and checked here, the DHCP server takes them between two packets.

use anyhow::{Context as _, Result};
use dhcp_engine::{BootNames, Settings};
use site_file::DhcpConfig;
use tokio::sync::mpsc;

use super::SharedPeers;
use super::dhcp::{self, Place};

/// The way of new settings to a running DHCP server.
#[derive(Clone)]
pub(crate) struct DhcpChanges {
    pub(super) place: Place,
    pub(super) boot: BootNames,
    pub(super) to_server: mpsc::Sender<Settings>,
    pub(super) peers: Option<SharedPeers>,
}

/// Settings that were checked and can be taken.
pub(crate) struct DhcpChange(Settings);

impl DhcpChanges {
    /// Checks other settings against the interface's network. `None` where there would be no DHCP, which takes a restart.
    ///
    /// # Errors
    /// A pool or an address outside of the networks; the message says what to do.
    pub(crate) fn check(&self, config: &DhcpConfig) -> Result<Option<DhcpChange>> {
        Ok(dhcp::settings(config, self.place, self.boot.clone())?.map(DhcpChange))
    }

    /// Hands them to the server. Every packet that comes after is answered by them.
    ///
    /// # Errors
    /// Only while the server stops.
    pub(crate) async fn take(&self, DhcpChange(settings): DhcpChange) -> Result<()> {
        let racks = settings.subnets.iter().map(|subnet| subnet.prefix).collect();
        self.to_server.send(settings).await.ok().context("the DHCP server has stopped")?;
        if let Some(peers) = &self.peers {
            peers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).set_subnets(racks);
        }
        Ok(())
    }
}
