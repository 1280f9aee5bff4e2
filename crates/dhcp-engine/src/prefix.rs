//! IPv4 networks.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, shown and read as `10.77.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    network: u32,
    len: u8,
}

/// Text that is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a network; write one such as 10.77.0.0/24")]
pub struct ParsePrefixError;

impl Prefix {
    /// The network of `address` with `len` leading bits; `None` above 32.
    #[must_use]
    pub fn new(address: Ipv4Addr, len: u8) -> Option<Self> {
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(u32::from(len))?).unwrap_or(0);
        Some(Self { network: u32::from(address) & mask, len })
    }

    /// Leading bits.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length in bits; no network is empty")]
    pub fn len(self) -> u8 {
        self.len
    }

    /// The mask as a number.
    #[must_use]
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0)
    }

    /// The lowest address, which no node may have.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    /// The highest address, which no node may have.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        (self.network | !self.mask()).into()
    }

    /// True if `address` is in this network.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == self.network
    }

    /// True if a node of this network can have `address`: neither its lowest nor its highest.
    #[must_use]
    pub fn has_node(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.network() && address != self.broadcast()
    }

    /// True if some address is in both networks.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.len)
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = text.split_once('/').ok_or(ParsePrefixError)?;
        let digits = len.bytes().all(|byte| byte.is_ascii_digit());
        let len = len.parse().ok().filter(|_| digits).ok_or(ParsePrefixError)?;
        Self::new(address.parse().map_err(|_| ParsePrefixError)?, len).ok_or(ParsePrefixError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_shown_alike_and_nonsense_is_refused() {
        let prefix: Prefix = "10.77.3.4/22".parse().unwrap();
        assert_eq!(
            (prefix.to_string().as_str(), prefix.broadcast()),
            ("10.77.0.0/22", [10, 77, 3, 255].into())
        );
        assert!(prefix.has_node([10, 77, 2, 255].into()) && !prefix.has_node([10, 77, 3, 255].into()));
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/-1", "10.0.0.0/"] {
            assert_eq!(text.parse::<Prefix>(), Err(ParsePrefixError), "{text}");
        }
    }

    #[test]
    fn a_network_overlaps_its_parts_and_not_its_neighbours() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        assert!(
            prefix("10.0.0.0/8").overlaps(prefix("10.9.0.0/16"))
                && prefix("10.9.0.0/16").overlaps(prefix("10.0.0.0/8"))
        );
        assert!(!prefix("10.0.0.0/24").overlaps(prefix("10.0.1.0/24")));
        assert!(prefix("0.0.0.0/0").overlaps(prefix("10.0.1.0/24")));
    }
}
