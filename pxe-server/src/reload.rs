//! SIGHUP: the site file is read again, and what can change while the server runs is changed.
//!
//! Never touches a socket, a lease or a transfer, and never takes a file with a mistake: then everything stays as it is.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use site_file::{DhcpConfig, Overrides, Site};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::blocking;
use crate::menus::Current;
use crate::netboot::{DhcpChange, DhcpChanges};
use crate::nodes::Nodes;
use crate::site::read_site;
use crate::tls::Stop;

/// Where the site comes from.
#[derive(Clone, Debug)]
pub(crate) struct SiteSource {
    /// `None`: from the command line alone.
    pub(crate) path: Option<PathBuf>,
    /// What the command line says.
    pub(crate) overrides: Overrides,
}

impl SiteSource {
    /// Reads and checks it.
    pub(crate) fn read(&self) -> Result<Site> {
        read_site(self.path.as_deref(), &self.overrides)
    }
}

/// What a new file reaches in the running server.
pub(crate) struct Running {
    /// What the server began with.
    pub(crate) started: Site,
    /// Menus and what belongs to them.
    pub(crate) current: Arc<Current>,
    /// Names of nodes.
    pub(crate) nodes: Arc<Nodes>,
    /// The DHCP server, where there is one.
    pub(crate) dhcp: Option<DhcpChanges>,
    /// The DHCP settings in use.
    pub(crate) dhcp_now: DhcpConfig,
}

/// Reads the site again at each SIGHUP.
pub(crate) async fn reload_on_signal(source: SiteSource, mut running: Running, mut stop: Stop) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            return tracing::warn!(%error, "SIGHUP cannot be listened for; restart to read the site file again");
        }
    };
    loop {
        tokio::select! {
            hangup = hangups.recv() => if hangup.is_none() { return },
            () = stop.stopped() => return,
        }
        let reading = source.clone();
        let read = blocking(move || reading.read()).await.and_then(|site| site);
        let taken = match read {
            Ok(site) => running.take(&site).await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            for line in format!("{error:#}").lines() {
                tracing::error!("{line}");
            }
            tracing::error!("the site file was not taken; everything stays as it was");
        }
    }
}

impl Running {
    /// Takes a file whose sections are good in themselves; all of it that can be changed, or nothing.
    async fn take(&mut self, site: &Site) -> Result<()> {
        let change = self.dhcp_change(site)?;
        let changes_dhcp = change.is_some();
        if let Some((dhcp, change)) = self.dhcp.as_ref().zip(change) {
            dhcp.take(change).await?;
            self.dhcp_now = site.dhcp.clone();
        }
        let changes_menus = self.current.set(site.changeable());
        self.nodes.set_names(&site.nodes);
        let fixed = self.started.fixed_differences(site);
        if !fixed.is_empty() {
            tracing::warn!("the site file differs in {}: that takes a restart", fixed.join(", "));
        }
        if fixed.iter().any(|section| section.starts_with("dhcp.")) {
            tracing::warn!(
                "until then all settings of DHCP stay as they were, and so do the addresses of nodes"
            );
        }
        tracing::info!(menus = changes_menus, dhcp = changes_dhcp, "read the site file again");
        Ok(())
    }

    /// The DHCP settings of the file, if they are others and can be taken now.
    fn dhcp_change(&self, site: &Site) -> Result<Option<DhcpChange>> {
        let fixed = |dhcp: &DhcpConfig| (dhcp.mode, dhcp.unprobed);
        let Some(dhcp) = self.dhcp.as_ref().filter(|_| site.dhcp != self.dhcp_now) else { return Ok(None) };
        if fixed(&site.dhcp) != fixed(&self.started.dhcp) {
            return Ok(None);
        }
        dhcp.check(&site.dhcp).context("the DHCP settings do not fit this machine's network")
    }
}

#[cfg(test)]
mod tests;
