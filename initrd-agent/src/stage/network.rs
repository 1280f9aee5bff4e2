//! `network`: a link and a lease, on the interface that booted if it has them, else on another.

use std::path::Path;
use std::time::Duration;

use dhcp_wire::{Lease, MacAddr};
use node_api::Recovery;
use tokio::time::Instant;

use super::Done;
use crate::failure::StageError;
use crate::net::dhcp::{self, DhcpError};
use crate::net::link;
use crate::net::nic::{self, CLASS_NET, Interface};

/// Spanning tree holds a port back for up to 50 s, and drivers reset the PHY once more after iPXE.
const BOOT_LINK_LIMIT: Duration = Duration::from_secs(90);
/// On the interface that booted a server did answer a minute ago.
const BOOT_LEASE_LIMIT: Duration = Duration::from_secs(90);
/// Other interfaces that are cabled have a link by now.
const OTHER_LINK_LIMIT: Duration = Duration::from_secs(5);
/// Other interfaces get this long, one after the other.
const OTHER_LEASE_LIMIT: Duration = Duration::from_secs(20);
/// The interface that booted may appear late, when its driver loads firmware.
const BOOT_INTERFACE_LIMIT: Duration = Duration::from_secs(20);
const LINK_POLL: Duration = Duration::from_millis(100);
/// How often a wait says that it goes on.
const MESSAGE_EVERY: Duration = Duration::from_secs(10);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The node can reach the server.
#[derive(Clone, Debug)]
pub(crate) struct Online {
    pub(crate) interface: Interface,
}

/// Why there is no network yet; asking goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// No NIC that any driver knows.
    #[error("no network interface was found; check the NIC and its driver and firmware in the boot bundle")]
    NoInterface,
    /// Interfaces, but no lease.
    #[error("no interface got an address ({0}); check cable, switch port and DHCP server")]
    NoLease(String),
}

impl StageError for NetworkError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoInterface => "no-nic",
            Self::NoLease(_) => "no-lease",
        }
    }

    fn recovery(&self) -> Recovery {
        Recovery::Retry
    }
}

/// Tries every interface once, the one that booted longest; renewal then goes on in the background.
pub(crate) async fn run(boot_mac: Option<[u8; 6]>) -> Result<Done<Online>, NetworkError> {
    let boot_mac = boot_mac.map(MacAddr);
    let interfaces = wait_for_interfaces(boot_mac).await;
    if interfaces.is_empty() {
        return Err(NetworkError::NoInterface);
    }
    // All at once, so that links train while the first one is asked.
    for interface in &interfaces {
        if let Err(error) = link::set_up(interface) {
            tracing::warn!("{}: setting the link up: {error}", interface.name);
        }
    }
    let mut reasons = Vec::new();
    for interface in interfaces {
        let booted = Some(interface.mac) == boot_mac;
        match try_one(&interface, booted).await {
            Ok(lease) => {
                write_resolv_conf(&lease);
                let detail = describe(&interface, &lease);
                tokio::spawn(dhcp::keep(interface.clone(), lease));
                return Ok(Done { value: Online { interface }, detail });
            }
            Err(reason) => {
                tracing::warn!("{reason}");
                reasons.push(reason);
            }
        }
    }
    Err(NetworkError::NoLease(reasons.join("; ")))
}

async fn wait_for_interfaces(boot_mac: Option<MacAddr>) -> Vec<Interface> {
    let deadline = Instant::now() + BOOT_INTERFACE_LIMIT;
    loop {
        let found = nic::order(nic::list(Path::new(CLASS_NET)), boot_mac);
        let complete = match boot_mac {
            Some(mac) => found.iter().any(|interface| interface.mac == mac),
            None => !found.is_empty(),
        };
        if complete || Instant::now() >= deadline {
            if let (false, Some(mac)) = (complete, boot_mac) {
                tracing::warn!("the interface that booted, {mac}, is not here; trying the others");
            }
            return found;
        }
        tokio::time::sleep(LINK_POLL).await;
    }
}

async fn try_one(interface: &Interface, booted: bool) -> Result<Lease, String> {
    let (link_limit, lease_limit) =
        if booted { (BOOT_LINK_LIMIT, BOOT_LEASE_LIMIT) } else { (OTHER_LINK_LIMIT, OTHER_LEASE_LIMIT) };
    if !wait_for_carrier(interface, link_limit).await {
        return Err(format!(
            "{} ({}) has no link after {} s",
            interface.name,
            interface.mac,
            link_limit.as_secs()
        ));
    }
    let lease = dhcp::acquire(interface, lease_limit)
        .await
        .map_err(|error: DhcpError| crate::console::chain(&error))?;
    link::configure(interface, &lease)
        .map_err(|error| format!("{}: setting {}: {error}", interface.name, lease.address))?;
    Ok(lease)
}

async fn wait_for_carrier(interface: &Interface, limit: Duration) -> bool {
    let begun = Instant::now();
    let mut said = begun;
    while !interface.has_carrier() {
        if begun.elapsed() >= limit {
            return false;
        }
        if said.elapsed() >= MESSAGE_EVERY {
            said = Instant::now();
            tracing::info!("{} ({}) waits for a link", interface.name, interface.mac);
        }
        tokio::time::sleep(LINK_POLL).await;
    }
    true
}

fn describe(interface: &Interface, lease: &Lease) -> String {
    format!(
        "{} {} has {}/{} from {} for {} s",
        interface.name,
        interface.mac,
        lease.address,
        lease.prefix_len,
        lease.server,
        lease.lease.as_secs()
    )
}

/// Best effort: everything of ours is reached by address; names serve hooks and programs of the site.
fn write_resolv_conf(lease: &Lease) {
    if let Err(error) = std::fs::write(RESOLV_CONF, resolv_conf(lease)) {
        tracing::warn!("writing {RESOLV_CONF}: {error}");
    }
}

fn resolv_conf(lease: &Lease) -> String {
    // The text comes from the network; a resolver line takes nothing but a name.
    let plain = |name: &&String| name.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
    let search = lease.domain.as_ref().filter(plain).map(|domain| format!("search {domain}\n"));
    // The resolver reads three.
    let servers = lease.dns.iter().take(3).map(|server| format!("nameserver {server}\n"));
    search.into_iter().chain(servers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_file_takes_three_servers_and_no_foreign_lines() {
        let mut lease = Lease {
            address: [10, 0, 0, 2].into(),
            prefix_len: 24,
            server: [10, 0, 0, 1].into(),
            lease: Duration::from_secs(60),
            renew_after: Duration::from_secs(30),
            rebind_after: Duration::from_secs(50),
            routers: Vec::new(),
            dns: (1..=4).map(|last| [10, 0, 0, last].into()).collect(),
            ntp: Vec::new(),
            domain: Some("lab.example".into()),
            host_name: None,
            mtu: None,
        };
        assert_eq!(
            resolv_conf(&lease),
            "search lab.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n"
        );
        lease.domain = Some("x\nnameserver 6.6.6.6".into());
        assert!(resolv_conf(&lease).starts_with("nameserver 10.0.0.1\n"));
    }
}
