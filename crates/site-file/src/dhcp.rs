//! `[dhcp]` and what belongs to it: who gives addresses, and which.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use dhcp_engine::{Prefix, Reservation, UefiProxy};
use serde::Deserialize;
use toml::Spanned;

use crate::check::Checker;
use crate::network::{DEFAULT_LEASE, DhcpConfig, DhcpMode, Network};
use crate::raw::RawNode;

/// Below, nodes renew all the time; above, addresses of nodes that are gone stay taken for weeks.
const LEASE_S: RangeInclusive<u32> = 60..=604_800;
/// A domain name has at most so many characters (RFC 1035 section 2.3.4).
const DOMAIN_BYTES_MAX: usize = 253;
/// More name servers than any resolver asks.
const DNS_MAX: usize = 8;
const ADDRESS: &str = "an address such as 10.77.0.1";

/// `[dhcp]`: addresses for nodes on the interface's network, and rules for all.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDhcp {
    /// `dhcp` (default): this server gives addresses. `proxy`: another server does, this one says what to boot.
    /// `off`: another server does both; it names this server's boot files.
    mode: Option<Spanned<String>>,
    /// `FIRST-LAST`, both included; several with commas between. Default: the upper half of the interface's network.
    pool: Option<Spanned<String>>,
    /// Addresses of the pool that are somebody's already.
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    /// Router that nodes are told. Default: none.
    router: Option<Spanned<String>>,
    /// Name servers that nodes are told, at most 8. Default: none.
    #[serde(default)]
    dns: Vec<Spanned<String>>,
    /// Domain that nodes are told. Default: none.
    domain: Option<Spanned<String>>,
    /// Seconds that a lease lasts, 60 to 604800. Default 3600.
    lease_s: Option<Spanned<u32>>,
    /// Says no to nodes that ask for an address that nobody here knows, so that they ask anew at once. Default false:
    /// another server might know it.
    authoritative: Option<bool>,
    /// Asks the network whether somebody uses a new address before it is offered (300 ms, for that node alone).
    /// Default true. Addresses behind relays can't be asked for.
    probe: Option<bool>,
    /// With `mode = "proxy"`: `binl` (default), UEFI asks for its file on port 4011; `direct`, it is told at once,
    /// which some firmware does not take.
    uefi_proxy: Option<Spanned<String>>,
    /// Networks behind relays.
    #[serde(default)]
    subnet: Vec<RawSubnet>,
}

/// `[[dhcp.subnet]]`: one network behind a relay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSubnet {
    /// Such as `10.78.0.0/24`.
    network: Spanned<String>,
    /// As in `[dhcp]`; none means that only nodes with an address of their own get one.
    pool: Option<Spanned<String>>,
    /// As in `[dhcp]`.
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    /// Relays whose own address is not in this network.
    #[serde(default)]
    relays: Vec<Spanned<String>>,
    /// As in `[dhcp]`.
    router: Option<Spanned<String>>,
    /// As in `[dhcp]`. Default: those of `[dhcp]`.
    dns: Option<Vec<Spanned<String>>>,
    /// As in `[dhcp]`. Default: that of `[dhcp]`.
    domain: Option<Spanned<String>>,
    /// As in `[dhcp]`. Default: that of `[dhcp]`.
    lease_s: Option<Spanned<u32>>,
}

impl Checker<'_> {
    pub(crate) fn dhcp(&mut self, raw: &RawDhcp, nodes: &[RawNode]) -> DhcpConfig {
        let mode = [("dhcp", DhcpMode::Dhcp), ("proxy", DhcpMode::Proxy), ("off", DhcpMode::Off)];
        let uefi_proxy = [("binl", UefiProxy::Binl), ("direct", UefiProxy::Direct)];
        let link = Network {
            pools: self.pools(raw.pool.as_ref(), "dhcp.pool"),
            excluded: self.addresses(&raw.exclude, "dhcp.exclude"),
            relays: Vec::new(),
            router: self.parsed(raw.router.as_ref(), "dhcp.router", ADDRESS),
            dns: self.name_servers(&raw.dns, "dhcp.dns"),
            domain: self.domain(raw.domain.as_ref(), "dhcp.domain"),
            lease: self.lease(raw.lease_s.as_ref(), "dhcp.lease_s").unwrap_or(DEFAULT_LEASE),
        };
        DhcpConfig {
            mode: self.word(raw.mode.as_ref(), "dhcp.mode", &mode),
            authoritative: raw.authoritative.unwrap_or(false),
            unprobed: !raw.probe.unwrap_or(true),
            uefi_proxy: self.word(raw.uefi_proxy.as_ref(), "dhcp.uefi_proxy", &uefi_proxy),
            subnets: self.subnets(&raw.subnet, &link),
            link,
            reservations: self.reservations(nodes),
        }
    }

    fn subnets(&mut self, raw: &[RawSubnet], link: &Network) -> Vec<(Prefix, Network)> {
        let mut subnets: Vec<(Prefix, Network)> = Vec::new();
        for subnet in raw {
            let field = "dhcp.subnet.network";
            let prefix: Option<Prefix> =
                self.parsed(Some(&subnet.network), field, "a network such as 10.78.0.0/24");
            let dns = subnet.dns.as_ref().map(|dns| self.name_servers(dns, "dhcp.subnet.dns"));
            let domain = self.domain(subnet.domain.as_ref(), "dhcp.subnet.domain");
            let network = Network {
                pools: self.pools(subnet.pool.as_ref(), "dhcp.subnet.pool"),
                excluded: self.addresses(&subnet.exclude, "dhcp.subnet.exclude"),
                relays: self.addresses(&subnet.relays, "dhcp.subnet.relays"),
                router: self.parsed(subnet.router.as_ref(), "dhcp.subnet.router", ADDRESS),
                dns: dns.unwrap_or_else(|| link.dns.clone()),
                domain: domain.or_else(|| link.domain.clone()),
                lease: self.lease(subnet.lease_s.as_ref(), "dhcp.subnet.lease_s").unwrap_or(link.lease),
            };
            let Some(prefix) = prefix else { continue };
            for problem in network.problems(prefix) {
                self.problem(
                    subnet.pool.as_ref().map(Spanned::span),
                    format!("dhcp.subnet.pool: {problem}; correct the pool or the network"),
                );
            }
            if let Some((other, _)) = subnets.iter().find(|(other, _)| other.overlaps(prefix)) {
                self.problem(
                    Some(subnet.network.span()),
                    format!("dhcp.subnet.network {prefix} overlaps {other}; remove one of them"),
                );
            }
            subnets.push((prefix, network));
        }
        subnets
    }

    /// Of nodes whose hardware address cannot be read, somebody else complains.
    fn reservations(&mut self, nodes: &[RawNode]) -> Vec<Reservation> {
        let mut reservations: Vec<Reservation> = Vec::new();
        for node in nodes {
            let address = self.parsed(node.address.as_ref(), "node.address", ADDRESS);
            let (Some(address), Ok(mac)) = (address, node.mac.get_ref().parse()) else { continue };
            if let Some(other) = reservations.iter().find(|other| other.address == address) {
                let what =
                    format!("node.address = \"{address}\" is also that of {}; give one another", other.mac);
                self.problem(node.address.as_ref().map(Spanned::span), what);
            }
            reservations.push(Reservation { mac, address });
        }
        reservations
    }

    fn pools(&mut self, text: Option<&Spanned<String>>, field: &str) -> Vec<RangeInclusive<Ipv4Addr>> {
        let Some(text) = text else { return Vec::new() };
        let pools: Option<Vec<_>> = text.get_ref().split(',').map(range).collect();
        if pools.is_none() {
            self.problem(
                Some(text.span()),
                format!(
                    "{field} = \"{}\" is no range; write FIRST-LAST such as 10.77.0.100-10.77.0.250, several with \
                     commas between",
                    text.get_ref()
                ),
            );
        }
        pools.unwrap_or_default()
    }

    fn addresses(&mut self, texts: &[Spanned<String>], field: &str) -> Vec<Ipv4Addr> {
        texts.iter().filter_map(|text| self.parsed(Some(text), field, ADDRESS)).collect()
    }

    fn name_servers(&mut self, texts: &[Spanned<String>], field: &str) -> Vec<Ipv4Addr> {
        if let Some(beyond) = texts.get(DNS_MAX) {
            self.problem(
                Some(beyond.span()),
                format!("{field} has more than {DNS_MAX} name servers; remove some"),
            );
        }
        self.addresses(texts, field)
    }

    fn domain(&mut self, text: Option<&Spanned<String>>, field: &str) -> Option<String> {
        let text = text?;
        let domain = text.get_ref();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX || !domain.bytes().all(plain) {
            let what = format!("{field} = \"{domain}\" is no domain; write one such as cluster.example.org");
            self.problem(Some(text.span()), what);
        }
        Some(domain.clone())
    }

    fn lease(&mut self, lease_s: Option<&Spanned<u32>>, field: &str) -> Option<Duration> {
        let seconds = *lease_s?.get_ref();
        if !LEASE_S.contains(&seconds) {
            let what = format!("{field} = {seconds} is out of range; write 60 to 604800 (a week)");
            self.problem(lease_s.map(Spanned::span), what);
        }
        Some(Duration::from_secs(u64::from(seconds)))
    }

    /// One of a few words; absent is the default.
    fn word<T: Copy + Default>(
        &mut self,
        text: Option<&Spanned<String>>,
        field: &str,
        words: &[(&str, T)],
    ) -> T {
        let Some(text) = text else { return T::default() };
        let found = words.iter().find(|(word, _)| word == text.get_ref()).map(|(_, value)| *value);
        found.unwrap_or_else(|| {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let what = format!("{field} = \"{}\" is unknown; write {}", text.get_ref(), known.join(" or "));
            self.problem(Some(text.span()), what);
            T::default()
        })
    }
}

/// `FIRST-LAST`.
fn range(text: &str) -> Option<RangeInclusive<Ipv4Addr>> {
    let (first, last) = text.split_once('-')?;
    let (first, last): (Ipv4Addr, Ipv4Addr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{check, site};

    #[test]
    fn networks_pools_and_addresses_of_nodes_are_read() {
        let site = site(
            "[dhcp]\npool = '10.77.0.10-10.77.0.20, 10.77.0.30-10.77.0.30'\nexclude = ['10.77.0.15']\n\
             router = '10.77.0.254'\ndns = ['10.77.0.1']\ndomain = 'rack.example'\nlease_s = 120\nauthoritative = true\n\
             probe = false\n[[dhcp.subnet]]\nnetwork = '10.78.0.0/24'\npool = '10.78.0.9-10.78.0.99'\n\
             relays = ['172.16.0.1']\nlease_s = 60\n[[node]]\nmac = '52:54:00:00:00:01'\nname = 'n1'\n\
             address = '10.77.0.5'\n",
        );
        let DhcpConfig { mode, authoritative, unprobed, uefi_proxy, link, subnets, reservations } = site.dhcp;
        assert_eq!((mode, authoritative, unprobed), (DhcpMode::Dhcp, true, true));
        assert_eq!((uefi_proxy, link.pools.len(), link.excluded.len()), (UefiProxy::Binl, 2, 1));
        assert_eq!((link.domain.as_deref(), link.lease), (Some("rack.example"), Duration::from_secs(120)));
        let (prefix, network) = &subnets[0];
        assert_eq!((prefix.to_string().as_str(), &network.dns), ("10.78.0.0/24", &link.dns));
        assert_eq!((network.relays.len(), network.router), (1, None));
        assert_eq!(
            (network.lease, network.domain.as_deref()),
            (Duration::from_secs(60), Some("rack.example"))
        );
        assert_eq!(reservations[0].address, Ipv4Addr::new(10, 77, 0, 5));
    }

    #[test]
    fn another_server_s_network_is_one_word() {
        assert_eq!(site("[dhcp]\nmode = 'proxy'\n").dhcp.mode, DhcpMode::Proxy);
        assert_eq!(site("[dhcp]\nmode = 'off'\n").dhcp.mode, DhcpMode::Off);
        let direct = site("[dhcp]\nmode = 'proxy'\nuefi_proxy = 'direct'\n");
        assert_eq!(direct.dhcp.uefi_proxy, UefiProxy::Direct);
        check(
            "[dhcp]\nmode = 'on'\n",
            &["2: dhcp.mode = \"on\" is unknown; write \"dhcp\" or \"proxy\" or \"off\""],
        );
    }

    #[test]
    fn every_problem_of_the_networks_is_found_with_its_line() {
        check(
            "[dhcp]\npool = '10.0.0.1'\nrouter = 'x'\ndns = ['y']\ndomain = 'a b'\n[[dhcp.subnet]]\n\
             network = '10.78.0.0'\n[[dhcp.subnet]]\nnetwork = '10.78.0.0/16'\npool = '10.79.0.1-10.79.0.9'\n\
             [[dhcp.subnet]]\nnetwork = '10.78.9.0/24'\nrelays = ['z']\n",
            &[
                "2: dhcp.pool",
                "3: dhcp.router",
                "4: dhcp.dns",
                "5: dhcp.domain",
                "7: dhcp.subnet.network",
                "10: dhcp.subnet.pool",
                "13: dhcp.subnet.relays",
                "12: dhcp.subnet.network 10.78.9.0/24 overlaps 10.78.0.0/16",
            ],
        );
    }

    #[test]
    fn address_of_two_nodes_is_refused() {
        check(
            "[[node]]\nmac = '52:54:00:00:00:01'\nname = 'a'\naddress = '10.77.0.5'\n[[node]]\n\
             mac = '52:54:00:00:00:02'\nname = 'b'\naddress = '10.77.0.5'\n",
            &["8: node.address"],
        );
    }
}
