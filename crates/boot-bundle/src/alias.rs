//! Which modules drive a device: patterns of `modules.alias` against the device's modalias.

use std::collections::HashMap;

use crate::fnmatch::fnmatch;

/// Folds `-` to `_` outside brackets, as kmod does with patterns and with aliases. `None` where kmod calls an
/// alias invalid: a bracket that doesn't open or doesn't close.
#[must_use]
pub fn normalise_alias(alias: &str) -> Option<String> {
    let mut folded = String::with_capacity(alias.len());
    let mut in_brackets = false;
    for character in alias.chars() {
        match character {
            '[' => in_brackets = true,
            ']' if !in_brackets => return None,
            ']' => in_brackets = false,
            _ => {}
        }
        folded.push(if character == '-' && !in_brackets { '_' } else { character });
    }
    (!in_brackets).then_some(folded)
}

/// One line of `modules.alias`.
#[derive(Clone, Debug)]
struct Alias {
    pattern: Box<str>,
    module: Box<str>,
}

/// The patterns of `modules.alias`, found by bus.
///
/// A pattern lies in the bucket of the text before its first `:`. Patterns without one, or with a wildcard
/// before it (`acpi*:`, `dmi*:`), are asked about every device: without them 74 of 3,065 aliases of Debian's
/// kernel found nothing.
#[derive(Clone, Debug, Default)]
pub struct AliasIndex {
    aliases: Vec<Alias>,
    buckets: HashMap<Box<str>, Vec<usize>>,
    unbucketed: Vec<usize>,
}

impl AliasIndex {
    /// Reads the text of `modules.alias`; lines that are no `alias PATTERN MODULE`, and patterns that kmod
    /// would call invalid, are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut index = Self::default();
        for line in text.lines() {
            // The module is the last word: a pattern of dmi data may hold spaces.
            let Some((pattern, module)) = line.strip_prefix("alias ").and_then(|rest| rest.rsplit_once(' '))
            else {
                continue;
            };
            if let Some(pattern) = normalise_alias(pattern.trim()) {
                index.insert(pattern, &module.replace('-', "_"));
            }
        }
        index
    }

    fn insert(&mut self, pattern: String, module: &str) {
        let position = self.aliases.len();
        match bucket_of_pattern(&pattern) {
            Some(bucket) => self.buckets.entry(bucket.into()).or_default().push(position),
            None => self.unbucketed.push(position),
        }
        self.aliases.push(Alias { pattern: pattern.into(), module: module.into() });
    }

    /// The modules whose patterns match, in the order of the file, each once.
    #[must_use]
    pub fn matches(&self, alias: &str) -> Vec<&str> {
        let Some(alias) = normalise_alias(alias) else { return Vec::new() };
        let bucket = alias.split_once(':').and_then(|(bus, _)| self.buckets.get(bus));
        let mut positions: Vec<usize> = bucket
            .into_iter()
            .flatten()
            .chain(&self.unbucketed)
            .copied()
            .filter(|position| {
                let candidate = self.aliases.get(*position);
                candidate.is_some_and(|candidate| fnmatch(candidate.pattern.as_bytes(), alias.as_bytes()))
            })
            .collect();
        positions.sort_unstable();
        let mut modules = Vec::new();
        for candidate in positions.iter().filter_map(|position| self.aliases.get(*position)) {
            if !modules.contains(&&*candidate.module) {
                modules.push(&*candidate.module);
            }
        }
        modules
    }

    /// The lines of `modules.alias` whose module is wanted, patterns already folded.
    #[must_use]
    pub fn text_for(&self, wanted: &dyn Fn(&str) -> bool) -> String {
        let mut text = String::new();
        for alias in self.aliases.iter().filter(|alias| wanted(&alias.module)) {
            text.push_str("alias ");
            text.push_str(&alias.pattern);
            text.push(' ');
            text.push_str(&alias.module);
            text.push('\n');
        }
        text
    }

    /// Number of patterns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.aliases.len()
    }

    /// Whether there is no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.aliases.is_empty()
    }
}

fn bucket_of_pattern(pattern: &str) -> Option<&str> {
    let (bus, _) = pattern.split_once(':')?;
    (!bus.contains(['*', '?', '[', '\\'])).then_some(bus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "# Aliases extracted from modules themselves.\n\
        alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000\n\
        alias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
        alias acpi*:PNP0C14:* wmi\n\
        alias dmi*:svnFoo-Bar:* foo-bar\n\
        alias usb:v0BDAp0138d[0-2]*dc* ums-realtek\n\
        alias block-major-8-* sd_mod\n\
        alias scsi:t-0x00* sd_mod\n\
        alias fs-ext4 ext4\n\
        alias pci:v00008086d0000100Esv*sd*bc*sc*i* second\n\
        nonsense\n";

    fn matched(alias: &str) -> Vec<String> {
        AliasIndex::parse(TEXT).matches(alias).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn devices_find_their_modules() {
        assert_eq!(matched("pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"), ["e1000", "second"]);
        assert_eq!(matched("pci:v00001234d00005678sv0sd0bc01sc06i01"), ["ahci"]);
        assert_eq!(matched("acpi:PNP0C14:APP0001:"), ["wmi"]);
        assert_eq!(matched("usb:v0BDAp0138d1000dc00"), ["ums_realtek"]);
        assert_eq!(matched("block-major-8-0"), ["sd_mod"]);
        assert_eq!(matched("fs-ext4"), ["ext4"]);
        assert!(matched("pci:v1").is_empty());
    }

    #[test]
    fn scsi_disks_find_sd_mod_although_their_alias_has_a_dash() {
        assert_eq!(matched("scsi:t-0x00"), ["sd_mod"]);
        assert_eq!(matched("dmi:bvn:svnFoo-Bar:pn"), ["foo_bar"]);
    }

    #[test]
    fn dashes_in_brackets_stay() {
        assert_eq!(normalise_alias("a-b[0-9]c-d").as_deref(), Some("a_b[0-9]c_d"));
        assert_eq!(normalise_alias("a]b"), None);
        assert_eq!(normalise_alias("a[b"), None);
    }

    proptest! {
        /// The oracle: every pattern against every alias, without buckets.
        #[test]
        fn buckets_lose_nothing(patterns in proptest::collection::vec("[ab:*?-]{1,6}", 0..12), alias in "[ab:-]{0,8}") {
            let text: String = patterns.iter().enumerate().map(|(n, pattern)| format!("alias {pattern} m{n}\n")).collect();
            let folded = alias.replace('-', "_");
            let expected: Vec<String> = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| fnmatch(pattern.replace('-', "_").as_bytes(), folded.as_bytes()))
                .map(|(n, _)| format!("m{n}"))
                .collect();
            let index = AliasIndex::parse(&text);
            prop_assert_eq!(index.matches(&alias), expected);
        }
    }
}
