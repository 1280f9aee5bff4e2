//! Another machine of the lab's network, with programs that are not ours.
//!
//! Never touches the server's namespace but for the cable to it.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};

use super::Shared;
use crate::net::{BRIDGE, Network};

/// dnsmasq says within a second that it is ready; a busy machine gets ten.
const READY_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A namespace on the nodes' Ethernet; its programs end when it is dropped.
#[derive(Debug)]
pub struct Neighbour {
    name: String,
    network: Arc<Network>,
    programs: Vec<Child>,
    shared: Arc<Shared>,
}

impl Neighbour {
    pub(super) fn new(name: &str, network: Network, shared: Arc<Shared>) -> Self {
        Self { name: name.to_owned(), network: Arc::new(network), programs: Vec::new(), shared }
    }

    /// The network on its bridge: the nodes' own, or, of a router, the one behind it.
    #[must_use]
    pub const fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// Gives the nodes addresses from `first` to `last`, as a site's own DHCP server does.
    ///
    /// # Errors
    /// dnsmasq is missing or does not start.
    pub async fn gives_addresses(&mut self, first: Ipv4Addr, last: Ipv4Addr) -> Result<()> {
        let leases = self.shared.session.dir().join(format!("{}.leases", self.name));
        let words = [
            format!("--dhcp-range={first},{last},255.255.255.0,1h"),
            format!("--dhcp-leasefile={}", leases.display()),
            format!("--interface={BRIDGE}"),
            "--dhcp-authoritative".to_owned(),
            "--no-ping".to_owned(),
        ];
        self.runs_dnsmasq(&words, "DHCP, IP range").await
    }

    /// Passes DHCP on to `server`, as a router does.
    ///
    /// # Errors
    /// dnsmasq is missing or does not start.
    pub async fn relays_dhcp(&mut self, inside: Ipv4Addr, server: Ipv4Addr) -> Result<()> {
        self.runs_dnsmasq(&[format!("--dhcp-relay={inside},{server}")], "DHCP relay").await
    }

    async fn runs_dnsmasq(&mut self, words: &[String], ready: &str) -> Result<()> {
        let path = self.shared.session.dir().join(format!("{}.log", self.name));
        let log = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let mut dnsmasq = self.network.command("dnsmasq");
        // No DNS, no file of the machine's own, no other user; everything it says goes to the log.
        dnsmasq.args(["--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root"]);
        dnsmasq
            .args(["--no-resolv", "--no-hosts", "--pid-file=", "--log-facility=-", "--log-dhcp"])
            .args(words);
        dnsmasq.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = dnsmasq.spawn().context("starting dnsmasq; scripts/setup installs it")?;
        let known = self.shared.session.owns_process(child.id(), "dnsmasq");
        let said = || fs::read_to_string(&path).unwrap_or_default();
        let until = Instant::now() + READY_MAX;
        while !said().contains(ready) {
            if known.is_err() || Instant::now() >= until || child.try_wait()?.is_some() {
                let _ = child.kill();
                let _ = child.wait();
                bail!("dnsmasq does not start: {}", said().trim());
            }
            sleep(LOOK_EVERY).await;
        }
        self.programs.push(child);
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}
