//! Which paths a capture leaves out.

/// What no image of a running or installed system should carry: contents of mount points that the kernel fills, and
/// caches that a package manager fills again.
const DEFAULTS: [&str; 11] = [
    "proc/*",
    "sys/*",
    "dev/*",
    "run/*",
    "tmp/*",
    "var/tmp/*",
    "lost+found",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/archives/partial/*",
    "var/lib/apt/lists/*",
];

/// A path is left out, with all beneath it, if one of the patterns matches it. `*` and `?` stay within a name, `**`
/// crosses names; everything is anchored at the root.
#[derive(Debug, Default)]
pub(crate) struct Excludes {
    patterns: Vec<Vec<u8>>,
}

impl Excludes {
    /// With the patterns that a command was given, after [`DEFAULTS`] unless those are not wanted.
    pub(crate) fn given(patterns: &[String], no_defaults: bool) -> Self {
        let mut excludes = Self::default();
        let defaults = DEFAULTS.iter().filter(|_| !no_defaults).copied();
        defaults.chain(patterns.iter().map(String::as_str)).for_each(|pattern| excludes.add(pattern));
        excludes
    }

    /// Adds a pattern; a leading `/` or `./` means nothing.
    pub(crate) fn add(&mut self, pattern: &str) {
        let pattern = pattern.trim_start_matches("./").trim_matches('/');
        if !pattern.is_empty() {
            self.patterns.push(pattern.as_bytes().to_vec());
        }
    }

    /// Whether exactly this path is left out.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| matches(pattern, path))
    }
}

fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => {
            (0..=path.len()).any(|at| matches(rest, path.get(at..).unwrap_or_default()))
        }
        [b'*', rest @ ..] => {
            let name = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
            (0..=name).any(|at| matches(rest, path.get(at..).unwrap_or_default()))
        }
        [b'?', rest @ ..] => matches!(path, [byte, path @ ..] if *byte != b'/' && matches(rest, path)),
        [byte, rest @ ..] => matches!(path, [first, path @ ..] if first == byte && matches(rest, path)),
    }
}

#[cfg(test)]
mod tests {
    use super::Excludes;

    #[test]
    fn patterns_are_anchored_and_stars_stay_in_a_name() {
        let check = |pattern, path: &str, expected| {
            let mut excludes = Excludes::default();
            excludes.add(pattern);
            assert_eq!(excludes.matches(path.as_bytes()), expected, "{pattern} {path}");
        };
        check("proc/*", "proc/1", true);
        check("/proc/*", "proc", false);
        check("proc/*", "proc/1/fd", false);
        check("*.deb", "var/x.deb", false);
        check("**.deb", "var/x.deb", true);
        check("./a?c/", "abc", true);
        check("a?c", "a/c", false);
        check("home/**/cache", "home/a/b/cache", true);
    }
}
