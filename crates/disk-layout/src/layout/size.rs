//! Sizes as people write them.

use std::fmt;

use serde::{Serialize, Serializer};

const MIB: u64 = 1 << 20;
/// What "the rest" must at least be: less holds no system.
const REST_MIN_MIB: u64 = 64;

/// Binary units of memory and partitions, decimal ones of disks as they are sold.
const UNITS: [(&str, u64); 11] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("B", 1),
];

/// Size of a partition or a volume: a number of MiB, or the rest with a least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    mib: u64,
    grows: bool,
}

impl Default for Size {
    fn default() -> Self {
        Self::REST
    }
}

impl Size {
    /// What the others leave.
    pub const REST: Self = Self { mib: REST_MIN_MIB, grows: true };

    /// Exactly so many MiB; 0 is the rest.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        if mib == 0 { Self::REST } else { Self { mib, grows: false } }
    }

    /// Exactly so many MiB, or at least so many of what grows.
    #[must_use]
    pub const fn least_mib(self) -> u64 {
        self.mib
    }

    /// Whether it takes what the others leave.
    #[must_use]
    pub const fn grows(self) -> bool {
        self.grows
    }

    /// Reads `40GiB`, `rest` or `40GiB..`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "rest" {
            return Some(Self::REST);
        }
        let (size, grows) = text.strip_suffix("..").map_or((text, false), |least| (least, true));
        let bytes = parse_bytes(size)?;
        // Partitions lie on whole MiB; who writes 10GB gets the next one.
        let mib = bytes.div_ceil(MIB);
        (mib > 0).then_some(Self { mib, grows })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}MiB{}", self.mib, if self.grows { ".." } else { "" })
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes of `512MiB`, `200GB` or `1.5TB`.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = (text.get(..digits)?, text.get(digits..)?.trim_start());
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    // One digit behind the point is how disks are sold.
    let tenths: u64 = if tenths.len() == 1 { tenths.parse().ok()? } else { return None };
    let bytes = whole.parse::<u64>().ok()?.checked_mul(*unit)?;
    bytes.checked_add(unit.checked_mul(tenths)? / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mib, grows) in [
            ("1MiB", 1, false),
            ("40GiB", 40 << 10, false),
            ("40 GiB", 40 << 10, false),
            ("1.5TiB", 3 << 19, false),
            ("10GB", 9537, false),
            ("rest", 64, true),
            ("20GiB..", 20 << 10, true),
        ] {
            assert_eq!(Size::parse(text), Some(Size { mib, grows }), "{text}");
        }
        for text in
            ["", "12", "GiB", "1.25GiB", "-1GiB", "1gib", "0MiB", "18446744073709551615TiB", "1GiB..2GiB"]
        {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for size in [Size::mib(0), Size::mib(7), Size { mib: 99, grows: true }] {
            assert_eq!(Size::parse(&size.to_string()), Some(size));
        }
    }
}
