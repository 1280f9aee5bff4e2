//! What the site wants of DHCP, and what that means on this interface.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use dhcp_engine::{BootNames, Mode, POOL_ADDRESSES_MAX, Prefix, Reservation, Settings, Subnet, UefiProxy};
use dhcp_wire::MacAddr;

/// An hour suits most sites.
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(3600);

/// How to give addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DhcpConfig {
    /// Whether to.
    pub(crate) mode: DhcpMode,
    /// A node that asks for an address that we don't know is told no: there is no other server.
    pub(crate) authoritative: bool,
    /// New dynamic addresses are not probed before they are offered.
    pub(crate) unprobed: bool,
    /// How UEFI is answered in mode `Proxy`.
    pub(crate) uefi_proxy: UefiProxy,
    /// The network on the interface.
    pub(crate) link: Network,
    /// Networks behind relays.
    pub(crate) subnets: Vec<(Prefix, Network)>,
    /// Addresses that belong to one node each.
    pub(crate) reservations: Vec<Reservation>,
}

/// Who gives addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DhcpMode {
    /// This server.
    #[default]
    Dhcp,
    /// Another one; this one says what to boot.
    Proxy,
    /// Another one, which also says what to boot.
    Off,
}

/// One network of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// Addresses for nodes; none takes the upper half of the interface's network.
    pub(crate) pools: Vec<RangeInclusive<Ipv4Addr>>,
    /// Addresses of the pools that are somebody's already.
    pub(crate) excluded: Vec<Ipv4Addr>,
    /// Relays that ask for this network with an address that is not in it.
    pub(crate) relays: Vec<Ipv4Addr>,
    /// Router that nodes are told; `None` tells none.
    pub(crate) router: Option<Ipv4Addr>,
    /// Name servers that nodes are told.
    pub(crate) dns: Vec<Ipv4Addr>,
    /// Domain that nodes are told.
    pub(crate) domain: Option<String>,
    /// How long a node keeps its address without asking again.
    pub(crate) lease: Duration,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            pools: Vec::new(),
            excluded: Vec::new(),
            relays: Vec::new(),
            router: None,
            dns: Vec::new(),
            domain: None,
            lease: DEFAULT_LEASE,
        }
    }
}

impl Network {
    /// What is wrong with its pools in the network `prefix`: one sentence each, with what to write instead.
    pub(crate) fn problems(&self, prefix: Prefix) -> Vec<String> {
        let mut problems = Vec::new();
        for (number, pool) in self.pools.iter().enumerate() {
            let (first, last) = (pool.start(), pool.end());
            if !prefix.has_node(*first) || !prefix.has_node(*last) {
                problems.push(format!(
                    "the pool {first}-{last} is not within the nodes' addresses of the network {prefix}"
                ));
            }
            let earlier = self.pools.iter().take(number);
            for other in earlier.filter(|other| other.start() <= last && first <= other.end()) {
                let (start, end) = (other.start(), other.end());
                problems
                    .push(format!("the pools {start}-{end} and {first}-{last} overlap; make one of them"));
            }
        }
        let size: u64 = self.pools.iter().map(pool_size).sum();
        if size > u64::from(POOL_ADDRESSES_MAX) {
            problems.push(format!(
                "the pools of {prefix} have {size} addresses; at most {POOL_ADDRESSES_MAX} can be given out"
            ));
        }
        problems
    }

    fn subnet(&self, prefix: Prefix) -> Subnet {
        Subnet {
            prefix,
            pools: self.pools.clone(),
            excluded: self.excluded.clone(),
            relays: self.relays.clone(),
            router: self.router,
            dns: self.dns.clone(),
            domain: self.domain.clone(),
            lease: self.lease,
        }
    }
}

/// Where the server is.
#[derive(Clone, Copy, Debug)]
pub(in crate::netboot) struct Place {
    pub(in crate::netboot) server: Ipv4Addr,
    pub(in crate::netboot) prefix: Prefix,
    pub(in crate::netboot) mac: Option<MacAddr>,
}

/// What the engine is told; `None` where no DHCP is to be spoken.
pub(in crate::netboot) fn settings(
    config: &DhcpConfig,
    place: Place,
    boot: BootNames,
) -> anyhow::Result<Option<Settings>> {
    let mode = match config.mode {
        DhcpMode::Dhcp => Mode::Dhcp,
        DhcpMode::Proxy => Mode::Proxy,
        DhcpMode::Off => return Ok(None),
    };
    let mut link = config.link.clone();
    if mode == Mode::Dhcp && link.pools.is_empty() {
        link.pools.push(upper_half(place.prefix)?);
    }
    if mode == Mode::Dhcp {
        let problems = link.problems(place.prefix);
        ensure!(problems.is_empty(), "{}", problems.join("; "));
    }
    for (prefix, _) in &config.subnets {
        ensure!(
            !prefix.overlaps(place.prefix),
            "the [[dhcp.subnet]] {prefix} overlaps the interface's network {}, which [dhcp] itself describes; \
             remove it",
            place.prefix
        );
    }
    let mut subnets = vec![link.subnet(place.prefix)];
    subnets.extend(config.subnets.iter().map(|(prefix, network)| network.subnet(*prefix)));
    for Reservation { mac, address } in &config.reservations {
        ensure!(*address != place.server, "{address}, reserved for {mac}, is the server's own address");
        ensure!(
            mode == Mode::Proxy || subnets.iter().any(|subnet| subnet.prefix.has_node(*address)),
            "{address}, reserved for {mac}, is in none of the networks {}; correct node.address or add a \
             [[dhcp.subnet]]",
            subnets.iter().map(|subnet| subnet.prefix.to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(Some(Settings {
        server: place.server,
        own_mac: place.mac,
        mode,
        authoritative: config.authoritative,
        probe: !config.unprobed && place.mac.is_some(),
        uefi_proxy: config.uefi_proxy,
        boot,
        subnets,
        reservations: config.reservations.clone(),
    }))
}

/// Addresses that nodes can be given, for people.
pub(in crate::netboot) fn pools_text(settings: &Settings) -> String {
    let pools = settings.subnets.iter().flat_map(|subnet| &subnet.pools);
    pools.map(|pool| format!("{}-{}", pool.start(), pool.end())).collect::<Vec<_>>().join(", ")
}

/// Nodes that can be on the server's own link.
pub(in crate::netboot) fn nodes_on_link(settings: &Settings) -> u32 {
    let Some(link) = settings.subnets.first() else { return 0 };
    u32::try_from(link.pools.iter().map(pool_size).sum::<u64>()).unwrap_or(u32::MAX)
}

fn upper_half(prefix: Prefix) -> anyhow::Result<RangeInclusive<Ipv4Addr>> {
    let room = u32::from(prefix.broadcast()).checked_sub(1).filter(|_| prefix.len() <= 29);
    let last = room.with_context(|| {
        format!("the network {prefix} has no room for nodes; use one of /29 or larger, or name dhcp.pool")
    })?;
    let half = (u32::MAX >> prefix.len()) / 2;
    Ok(Ipv4Addr::from(last - half.min(POOL_ADDRESSES_MAX) + 1)..=Ipv4Addr::from(last))
}

fn pool_size(pool: &RangeInclusive<Ipv4Addr>) -> u64 {
    u64::from(u32::from(*pool.end()).saturating_sub(u32::from(*pool.start()))).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_pools(pools: &[[&str; 2]], network: &str) -> Result<String, String> {
        let pools = pools.iter().map(|[first, last]| first.parse().unwrap()..=last.parse().unwrap());
        let link = Network { pools: pools.collect(), ..Network::default() };
        let config = DhcpConfig { link, ..DhcpConfig::default() };
        made(&config, network)
    }

    fn made(config: &DhcpConfig, network: &str) -> Result<String, String> {
        let place = Place { server: [10, 77, 0, 1].into(), prefix: network.parse().unwrap(), mac: None };
        settings(config, place, BootNames::default())
            .map(|settings| settings.as_ref().map_or_else(String::new, pools_text))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn pool_is_the_upper_half_or_as_the_site_says_within_the_network() {
        assert_eq!(with_pools(&[], "10.77.0.1/24").unwrap(), "10.77.0.128-10.77.0.254");
        assert_eq!(with_pools(&[], "10.77.0.1/29").unwrap(), "10.77.0.4-10.77.0.6");
        assert_eq!(with_pools(&[], "10.77.0.1/8").unwrap(), "10.254.255.255-10.255.255.254");
        assert_eq!(
            with_pools(&[["10.77.0.5", "10.77.0.5"], ["10.77.0.9", "10.77.0.20"]], "10.77.0.1/24").unwrap(),
            "10.77.0.5-10.77.0.5, 10.77.0.9-10.77.0.20"
        );
        assert!(with_pools(&[], "10.77.0.1/30").unwrap_err().contains("no room for nodes"));
        let error = with_pools(&[["10.77.0.9", "10.77.1.5"]], "10.77.0.1/24").unwrap_err();
        assert!(error.contains("not within the nodes' addresses of the network 10.77.0.0/24"), "{error}");
        let error = with_pools(&[["10.77.0.9", "10.77.0.255"]], "10.77.0.1/24").unwrap_err();
        assert!(error.contains("not within"), "{error}");
        let error = with_pools(&[["10.77.0.5", "10.77.0.9"], ["10.77.0.9", "10.77.0.20"]], "10.77.0.1/24")
            .unwrap_err();
        assert!(error.contains("10.77.0.5-10.77.0.9 and 10.77.0.9-10.77.0.20 overlap"), "{error}");
        assert!(
            with_pools(&[["10.0.0.1", "10.1.0.1"]], "10.77.0.1/8").unwrap_err().contains("at most 65536")
        );
    }

    #[test]
    fn reservations_and_subnets_must_fit_the_networks() {
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
        let reserved = |address: &str| DhcpConfig {
            reservations: vec![Reservation { mac, address: address.parse().unwrap() }],
            ..DhcpConfig::default()
        };
        assert!(made(&reserved("10.77.0.9"), "10.77.0.1/24").is_ok());
        assert!(made(&reserved("10.77.0.1"), "10.77.0.1/24").unwrap_err().contains("the server's own"));
        assert!(
            made(&reserved("10.78.0.9"), "10.77.0.1/24").unwrap_err().contains("in none of the networks")
        );
        let behind = ("10.78.0.0/24".parse().unwrap(), Network::default());
        let config = DhcpConfig { subnets: vec![behind], ..reserved("10.78.0.9") };
        assert!(made(&config, "10.77.0.1/24").is_ok());
        assert!(made(&config, "10.78.0.1/16").unwrap_err().contains("overlaps the interface's network"));
        let off = DhcpConfig { mode: DhcpMode::Off, ..DhcpConfig::default() };
        assert_eq!(made(&off, "10.77.0.1/30"), Ok(String::new()));
    }
}
