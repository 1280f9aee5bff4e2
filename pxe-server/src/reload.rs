//! SIGHUP: the site file is read again, and what can change while the server runs is changed.
//!
//! Never touches a socket, a lease or a transfer, and never takes a file with a mistake: then everything stays as it is.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::blocking;
use crate::menus::Current;
use crate::site::{Overrides, Site, read_site};
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

/// Reads the site again at each SIGHUP. `started` is what the server began with.
pub(crate) async fn reload_on_signal(
    source: SiteSource,
    started: Site,
    current: Arc<Current>,
    mut stop: Stop,
) {
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
        match blocking(move || reading.read()).await.and_then(|site| site) {
            Ok(site) => take(&started, &site, &current),
            Err(error) => {
                for line in format!("{error:#}").lines() {
                    tracing::error!("{line}");
                }
                tracing::error!("the site file was not taken; everything stays as it was");
            }
        }
    }
}

fn take(started: &Site, site: &Site, current: &Current) {
    let changed = current.set(site.changeable());
    let fixed = started.fixed_differences(site);
    if !fixed.is_empty() {
        tracing::warn!("the site file differs in {}: that takes a restart", fixed.join(", "));
    }
    tracing::info!(changed, "read the site file again");
}
