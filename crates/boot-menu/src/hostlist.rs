//! Lists of node names as cluster administrators write them: `n[001-512],login[1-2,7]`.
//!
//! Never expands a list: a name is compared with it, so that a range of a billion costs nothing.

use std::str::FromStr;

/// Parts between commas, outside brackets; more is a list that a program wrote.
const PARTS_MAX: usize = 256;
/// Ranges in one pair of brackets.
const RANGES_MAX: usize = 256;
/// Digits of a number in a name.
const DIGITS_MAX: usize = 9;

/// A checked list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostlist(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    prefix: String,
    ranges: Vec<Range>,
    suffix: String,
}

/// Numbers from `first` to `last`; with leading zeros a name has exactly `width` digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    width: Option<usize>,
}

impl Hostlist {
    /// Whether `name` is in the list.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|part| part.contains(name))
    }
}

impl Part {
    fn contains(&self, name: &str) -> bool {
        if self.ranges.is_empty() {
            return name == self.prefix;
        }
        let middle = name.strip_prefix(&self.prefix).and_then(|rest| rest.strip_suffix(&self.suffix));
        middle.is_some_and(|digits| self.ranges.iter().any(|range| range.contains(digits)))
    }
}

impl Range {
    fn contains(self, digits: &str) -> bool {
        let plain =
            !digits.is_empty() && digits.len() <= DIGITS_MAX && digits.bytes().all(|b| b.is_ascii_digit());
        let width = match self.width {
            Some(width) => digits.len() == width,
            None => digits.len() == 1 || !digits.starts_with('0'),
        };
        plain && width && digits.parse().is_ok_and(|number| (self.first..=self.last).contains(&number))
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |digits: &str| {
            let plain =
                (1..=DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u32>().ok()).flatten()
        };
        let range = Self { first: number(first)?, last: number(last)?, width: None };
        let padded = first.len() > 1 && first.starts_with('0');
        // `[001-512]` has names of one width; `[08-512]` would leave open what 9 is called.
        if range.first > range.last || (padded && first.len() != last.len()) {
            return None;
        }
        Some(Self { width: padded.then_some(first.len()), ..range })
    }
}

impl FromStr for Hostlist {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts = split_outside_brackets(text).ok_or(())?;
        if parts.is_empty() || parts.len() > PARTS_MAX {
            return Err(());
        }
        parts.into_iter().map(|part| parse_part(part.trim()).ok_or(())).collect::<Result<_, _>>().map(Self)
    }
}

fn split_outside_brackets(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, symbol) in text.char_indices() {
        match symbol {
            '[' if inside => return None,
            '[' => inside = true,
            ']' if !inside => return None,
            ']' => inside = false,
            ',' if !inside => {
                parts.push(text.get(begin..at)?);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(begin..)?);
    (!inside).then_some(parts)
}

fn parse_part(text: &str) -> Option<Part> {
    let plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let Some((prefix, rest)) = text.split_once('[') else {
        let whole = Part { prefix: text.to_owned(), ranges: Vec::new(), suffix: String::new() };
        return (!text.is_empty() && plain(text)).then_some(whole);
    };
    let (ranges, suffix) = rest.split_once(']')?;
    let ranges: Vec<Range> =
        ranges.split(',').map(|range| Range::parse(range.trim())).collect::<Option<_>>()?;
    let good = plain(prefix) && plain(suffix) && ranges.len() <= RANGES_MAX;
    good.then(|| Part { prefix: prefix.to_owned(), ranges, suffix: suffix.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, inside: &[&str], outside: &[&str]) {
        let list: Hostlist = list.parse().unwrap();
        for name in inside {
            assert!(list.contains(name), "{name} is in {list:?}");
        }
        for name in outside {
            assert!(!list.contains(name), "{name} is not in {list:?}");
        }
    }

    #[test]
    fn names_are_found_by_number_and_width() {
        check(
            "n[001-512]",
            &["n001", "n512", "n099"],
            &["n1", "n0001", "n513", "n000", "n", "nx01", "xn001"],
        );
        check("n[1-20]", &["n1", "n20"], &["n01", "n21", "n0"]);
        check("gpu[1-2,7]-a, login", &["gpu7-a", "gpu1-a", "login"], &["gpu3-a", "gpu1", "login1"]);
        check("n[0-999999999]", &["n0", "n999999999"], &["n1000000000"]);
    }

    #[test]
    fn lists_that_mean_nothing_are_refused() {
        for wrong in
            ["", ",", "n[", "n]", "n[]", "n[5-1]", "n[01-100]", "n[a-b]", "n[1][2]", "n[1-2", "N1", "n 1"]
        {
            assert!(wrong.parse::<Hostlist>().is_err(), "{wrong}");
        }
    }
}
