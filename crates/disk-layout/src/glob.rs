//! Shell-style patterns over short texts such as serial numbers.

/// Whether `text` as a whole meets `pattern`: `*` any run, `?` any one character, `[a-c]` and `[!a-c]` a
/// set; ASCII letters match in either case, because firmware and labels disagree about it. A `[` that is never
/// closed stands for itself.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.to_ascii_lowercase().chars().collect();
    let text: Vec<char> = text.to_ascii_lowercase().chars().collect();
    // One pass with one point of return: after a later `*` no earlier one can help, so time is
    // pattern x text at worst, however many stars a pattern has.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&c) = text.get(t) {
        let rest = pattern.get(p..).unwrap_or_default();
        if rest.first() == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(used) = match_one(rest, c) {
            p += used;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|&c| c == '*')
}

/// How many characters of `pattern` were used up by matching `c`; `None` if it does not match.
fn match_one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', rest @ ..] => match split_set(rest) {
            Some((set, negated, used)) => (set_holds(set, c) != negated).then_some(1 + used),
            None => (c == '[').then_some(1),
        },
        [first, ..] => (*first == c).then_some(1),
        [] => None,
    }
}

/// The set's characters, whether it is negated, and how many characters it takes after the `[`.
fn split_set(rest: &[char]) -> Option<(&[char], bool, usize)> {
    let negated = rest.first() == Some(&'!');
    let start = usize::from(negated);
    // A `]` directly after the opening stands for itself.
    let end = rest.iter().skip(start + 1).position(|&c| c == ']')? + start + 1;
    Some((rest.get(start..end)?, negated, end + 1))
}

fn set_holds(set: &[char], c: char) -> bool {
    let mut rest = set;
    loop {
        match rest {
            [low, '-', high, after @ ..] => {
                if (*low..=*high).contains(&c) {
                    return true;
                }
                rest = after;
            }
            [one, after @ ..] => {
                if *one == c {
                    return true;
                }
                rest = after;
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("S4EV*", "s4ev1234", true),
            ("S4EV*", "XS4EV", false),
            ("*a*b*c", "xxaxxbxxbc", true),
            ("*a*b*c", "xxaxxbxxbcd", false),
            ("disk?", "disk7", true),
            ("disk?", "disk", false),
            ("disk[0-3]", "disk2", true),
            ("disk[!0-3]", "disk2", false),
            ("a[]]b", "a]b", true),
            ("a[b", "a[b", true),
            ("", "", true),
            ("", "x", false),
            ("***", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        assert!(!matches(&"*a".repeat(200), &"b".repeat(5000)));
    }
}
