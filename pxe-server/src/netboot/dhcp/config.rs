//! What the site wants of DHCP, and what that means on this interface.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use anyhow::{Context as _, ensure};
use dhcp_engine::{BootNames, Mode, POOL_ADDRESSES_MAX, Prefix, Reservation, Settings, pool_size};
use dhcp_wire::MacAddr;
use site_file::{DhcpConfig, DhcpMode};

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

#[cfg(test)]
mod tests {
    use super::*;
    use site_file::Network;

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
