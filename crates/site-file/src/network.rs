//! Who gives addresses, and which, on which network.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use dhcp_engine::{POOL_ADDRESSES_MAX, Prefix, Reservation, Subnet, UefiProxy, pool_size};

/// An hour suits most sites.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(3600);

/// How to give addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DhcpConfig {
    /// Whether to.
    pub mode: DhcpMode,
    /// A node that asks for an address that we don't know is told no: there is no other server.
    pub authoritative: bool,
    /// New dynamic addresses are not probed before they are offered.
    pub unprobed: bool,
    /// How UEFI is answered in mode `Proxy`.
    pub uefi_proxy: UefiProxy,
    /// The network on the interface.
    pub link: Network,
    /// Networks behind relays.
    pub subnets: Vec<(Prefix, Network)>,
    /// Addresses that belong to one node each.
    pub reservations: Vec<Reservation>,
}

/// Who gives addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DhcpMode {
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
pub struct Network {
    /// Addresses for nodes; none takes the upper half of the interface's network.
    pub pools: Vec<RangeInclusive<Ipv4Addr>>,
    /// Addresses of the pools that are somebody's already.
    pub excluded: Vec<Ipv4Addr>,
    /// Relays that ask for this network with an address that is not in it.
    pub relays: Vec<Ipv4Addr>,
    /// Router that nodes are told; `None` tells none.
    pub router: Option<Ipv4Addr>,
    /// Name servers that nodes are told.
    pub dns: Vec<Ipv4Addr>,
    /// Domain that nodes are told.
    pub domain: Option<String>,
    /// How long a node keeps its address without asking again.
    pub lease: Duration,
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
    #[must_use]
    pub fn problems(&self, prefix: Prefix) -> Vec<String> {
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

    /// The same as the DHCP engine takes it.
    #[must_use]
    pub fn subnet(&self, prefix: Prefix) -> Subnet {
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
