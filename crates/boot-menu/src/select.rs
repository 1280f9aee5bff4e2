//! Which rule is a node's: globs, lists and subnets compared with what is known of it.

use std::net::Ipv4Addr;
use std::str::FromStr;

use dhcp_wire::MacAddr;

use crate::hostlist::Hostlist;
use crate::model::Firmware;

/// A node in the act of booting. All of it but `name` is unauthenticated text from the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The NIC that boots.
    pub mac: MacAddr,
    /// Its name here.
    pub name: String,
    /// SMBIOS serial number.
    pub serial: Option<String>,
    /// SMBIOS UUID.
    pub uuid: Option<String>,
    /// Where it asks from.
    pub address: Option<Ipv4Addr>,
    /// The relay agent that forwarded its DHCP.
    pub relay: Option<Ipv4Addr>,
    /// What started it.
    pub firmware: Firmware,
}

/// Hardware addresses by pattern: `52:54:00:*`, `52:54:00:1?:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacGlob(Glob);

/// Text with `*` for any run of characters and `?` for any one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(String);

/// Addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    address: Ipv4Addr,
    len: u8,
}

/// What a group asks of its nodes; every list that is not empty names nodes of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) mac: Vec<MacGlob>,
    pub(crate) serial: Vec<Glob>,
    pub(crate) uuid: Vec<String>,
    pub(crate) hosts: Vec<Hostlist>,
    pub(crate) subnet: Vec<Subnet>,
    pub(crate) relay: Vec<Ipv4Addr>,
}

/// How surely a rule means this very node: higher goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Default,
    Group,
    Uuid,
    /// Letters of the pattern that are no wildcards.
    Serial(usize),
    /// Likewise; a node named by its whole address has all 17.
    Mac(usize),
}

impl Match {
    /// The best reason for which a node is in the group.
    pub(crate) fn rank(&self, facts: &Facts) -> Option<Rank> {
        let mac = facts.mac.to_string();
        let of_mac =
            self.mac.iter().filter(|glob| glob.0.matches(&mac)).map(|glob| Rank::Mac(glob.0.literals()));
        let serial = facts.serial.as_deref();
        let of_serial = self.serial.iter().filter(|glob| serial.is_some_and(|serial| glob.matches(serial)));
        let of_serial = of_serial.map(|glob| Rank::Serial(glob.literals()));
        let uuid = facts.uuid.as_deref();
        let of_uuid = uuid.filter(|uuid| self.uuid.iter().any(|wanted| wanted.eq_ignore_ascii_case(uuid)));
        let in_subnet =
            facts.address.is_some_and(|address| self.subnet.iter().any(|net| net.contains(address)));
        let by_relay = facts.relay.is_some_and(|relay| self.relay.contains(&relay));
        let by_name = self.hosts.iter().any(|list| list.contains(&facts.name));
        let of_group = (in_subnet || by_relay || by_name).then_some(Rank::Group);
        of_mac.chain(of_serial).chain(of_uuid.map(|_| Rank::Uuid)).chain(of_group).max()
    }

    /// Whether it can match nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Glob {
    /// `None` for a pattern that nothing printable can match.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let good = (1..=128).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        good.then(|| Self(text.to_owned()))
    }

    fn literals(&self) -> usize {
        self.0.bytes().filter(|byte| !b"*?".contains(byte)).count()
    }

    /// Without recursion, in at most pattern times text steps.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t, mut star) = (0, 0, None);
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(symbol) if *symbol == b'?' || Some(symbol) == text.get(t) => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    // The last star takes one character more.
                    let Some((at, taken)) = star else { return false };
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
            }
        }
        pattern.get(p..).unwrap_or_default().iter().all(|symbol| *symbol == b'*')
    }
}

impl FromStr for MacGlob {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.to_ascii_lowercase().replace('-', ":");
        let good = text.bytes().all(|byte| byte.is_ascii_hexdigit() || b":*?".contains(&byte));
        if !good || text.len() > 17 || (!text.contains('*') && text.len() != 17) {
            return Err(());
        }
        Glob::new(&text).map(Self).ok_or(())
    }
}

impl Subnet {
    /// Whether `address` has the prefix.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
        u32::from(self.address) & mask == u32::from(address) & mask
    }
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, len) = text.split_once('/').ok_or(())?;
        let (address, len) = (address.parse().map_err(drop)?, len.parse().map_err(drop)?);
        if len > 32 { Err(()) } else { Ok(Self { address, len }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_a_shell() {
        let check = |pattern: &str, text: &str| Glob::new(pattern).unwrap().matches(text);
        assert!(
            check("SN-4*", "SN-4711") && check("*", "") && check("a*b?c*", "aXXbYcZZ") && check("a*a", "aa")
        );
        assert!(!check("SN-4*", "SN-5") && !check("?", "") && !check("a*b", "aXc"));
        assert!(Glob::new("").is_none() && Glob::new("a\nb").is_none());
        let mac: MacGlob = "52-54-00-*".parse().unwrap();
        assert!(mac.0.matches("52:54:00:aa:bb:cc"));
        for wrong in ["52:54:00", "host*", "", "52:54:00:aa:bb:cc:dd:*"] {
            assert!(wrong.parse::<MacGlob>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn subnets_of_every_length() {
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        assert!(subnet("10.0.0.0/22").contains(Ipv4Addr::new(10, 0, 3, 255)));
        assert!(!subnet("10.0.0.0/22").contains(Ipv4Addr::new(10, 0, 4, 0)));
        assert!(subnet("0.0.0.0/0").contains(Ipv4Addr::BROADCAST));
        assert!(subnet("1.2.3.4/32").contains(Ipv4Addr::new(1, 2, 3, 4)));
        assert!("10.0.0.0/33".parse::<Subnet>().is_err() && "10.0.0.0".parse::<Subnet>().is_err());
    }
}
