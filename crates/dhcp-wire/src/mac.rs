//! Hardware addresses of Ethernet.

use std::fmt;
use std::str::FromStr;

/// An Ethernet hardware address. Shown as `52:54:00:aa:bb:cc`; read with `:` or `-` between the bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// Text that is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a hardware address; write six hex bytes such as 52:54:00:aa:bb:cc")]
pub struct ParseMacError;

impl MacAddr {
    /// All ones: everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// True for an address that one NIC can have: not all zeros, not a group address.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self.0 != [0; 6]
    }

    /// `52-54-00-aa-bb-cc`, as in file names, URLs and (after `01-`) in `BOOTIF`.
    #[must_use]
    pub fn hyphenated(self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let byte = |part: &str| {
            let hex = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(part, 16).ok().filter(|_| hex)
        };
        let bytes: Option<Vec<u8>> = text.split(separator).take(7).map(byte).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(ParseMacError)
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_are_read_and_nonsense_is_refused() {
        let mac = MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);
        assert_eq!("52:54:00:AA:bb:cc".parse(), Ok(mac));
        assert_eq!("52-54-00-aa-bb-cc".parse(), Ok(mac));
        assert_eq!(
            (mac.to_string().as_str(), mac.hyphenated().as_str()),
            ("52:54:00:aa:bb:cc", "52-54-00-aa-bb-cc")
        );
        for text in [
            "",
            "52:54:00:aa:bb",
            "52:54:00:aa:bb:cc:dd",
            "+2:54:00:aa:bb:cc",
            "525400aabbcc",
            "52:54-00:aa:bb:cc",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(ParseMacError), "{text}");
        }
    }

    #[test]
    fn only_addresses_of_one_nic_are_unicast() {
        assert!(MacAddr([0x52, 0x54, 0, 0, 0, 1]).is_unicast());
        assert!(!MacAddr::BROADCAST.is_unicast());
        assert!(!MacAddr([0; 6]).is_unicast());
        assert!(!MacAddr([1, 0, 0x5e, 0, 0, 1]).is_unicast());
    }
}
