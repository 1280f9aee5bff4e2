//! `fnmatch(pattern, text, 0)` of POSIX.1-2017 section 2.13, the rule by which kmod matches aliases.

/// What the head of a pattern does with the head of a text.
enum Step<'a> {
    /// Both are used up.
    End,
    /// A `*`; the pattern after it.
    Star(&'a [u8]),
    /// One character matched; what is left of pattern and text.
    One(&'a [u8], &'a [u8]),
    /// No match from here.
    Mismatch,
}

/// Whether `text` as a whole matches `pattern`: `*` is any run (also of `/`), `?` any byte, `[a-f]` and `[!x]`
/// sets, a backslash takes the next byte literally. Named classes such as `[:digit:]` are not known; no kernel
/// alias has one. Takes at most pattern x text steps.
#[must_use]
pub fn fnmatch(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // The pattern after the last star, and the text that the star has not swallowed yet.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match step(pattern, text) {
            Step::End => return true,
            Step::Star(after) => {
                retry = Some((after, text));
                pattern = after;
            }
            Step::One(pattern_left, text_left) => (pattern, text) = (pattern_left, text_left),
            Step::Mismatch => {
                // Only the last star needs to give way: an earlier one could not do better.
                let Some((after, [_, left @ ..])) = retry else { return false };
                retry = Some((after, left));
                (pattern, text) = (after, left);
            }
        }
    }
}

fn step<'a>(pattern: &'a [u8], text: &'a [u8]) -> Step<'a> {
    match (pattern, text) {
        ([b'*', after @ ..], _) => Step::Star(after),
        ([], []) => Step::End,
        ([], _) | (_, []) => Step::Mismatch,
        ([b'?', pattern_left @ ..], [_, text_left @ ..]) => Step::One(pattern_left, text_left),
        ([b'[', set @ ..], [byte, text_left @ ..]) => match in_set(set, *byte) {
            Some((true, pattern_left)) => Step::One(pattern_left, text_left),
            Some((false, _)) => Step::Mismatch,
            // A bracket that is never closed stands for itself.
            None if *byte == b'[' => Step::One(set, text_left),
            None => Step::Mismatch,
        },
        ([b'\\', literal, pattern_left @ ..], [byte, text_left @ ..]) if literal == byte => {
            Step::One(pattern_left, text_left)
        }
        // Also a backslash at the very end, which glibc matches with nothing.
        ([b'\\', ..], _) => Step::Mismatch,
        ([literal, pattern_left @ ..], [byte, text_left @ ..]) if literal == byte => {
            Step::One(pattern_left, text_left)
        }
        _ => Step::Mismatch,
    }
}

/// Whether `byte` is in the set that begins after `[`, and the pattern after its `]`; `None` if it never closes.
fn in_set(set: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut set) = match set {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut found = false;
    let mut first = true;
    loop {
        let (low, rest) = match set {
            [b']', after @ ..] if !first => return Some((found != negated, after)),
            [b'\\', literal, rest @ ..] => (*literal, rest),
            [literal, rest @ ..] => (*literal, rest),
            [] => return None,
        };
        first = false;
        set = match rest {
            [b'-', b'\\', high, rest @ ..] => {
                found |= (low..=*high).contains(&byte);
                rest
            }
            [b'-', high, rest @ ..] if *high != b']' => {
                found |= (low..=*high).contains(&byte);
                rest
            }
            _ => {
                found |= low == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::fnmatch;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        fnmatch(pattern.as_bytes(), text.as_bytes())
    }

    #[test]
    fn answers_are_those_of_the_c_library() {
        // Each row was asked of glibc's fnmatch(3) with flags 0.
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("a*c", "a/b/c", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("?", "", false),
            ("?", "/", true),
            ("[abc]x", "bx", true),
            ("[!abc]x", "bx", false),
            ("[^abc]x", "dx", true),
            ("[a-c]", "b", true),
            ("[a-c]", "-", false),
            ("[a-]", "-", true),
            ("[]]", "]", true),
            ("[]-a]", "_", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", false),
            ("[\\]]", "]", true),
            (".", ".", true),
            ("*", ".hidden", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "fnmatch({pattern:?}, {text:?})");
        }
    }

    #[test]
    fn aliases_of_the_kernel_match_their_devices() {
        assert!(matches(
            "pci:v00008086d0000100Esv*sd*bc*sc*i*",
            "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"
        ));
        assert!(matches(
            "usb:v0403p6001d*dc*dsc*dp*ic*isc*ip*in*",
            "usb:v0403p6001d0600dc00dsc00dp00icFFiscFFipFFin00"
        ));
        assert!(matches("usb:v0BDAp0138d[0-2]*dc*", "usb:v0BDAp0138d1234dc00"));
        assert!(matches("mdio:0000000001001101110100000111????", "mdio:00000000010011011101000001110100"));
        assert!(!matches("pci:v00008086d0000100Esv*", "pci:v00008086d0000100F"));
    }

    /// The oracle: the textbook definition, recursive and without sets.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.first() {
            None => text.is_empty(),
            Some(b'*') => (0..=text.len()).any(|skip| oracle(&pattern[1..], &text[skip..])),
            Some(b'?') => !text.is_empty() && oracle(&pattern[1..], &text[1..]),
            Some(literal) => text.first() == Some(literal) && oracle(&pattern[1..], &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn stars_and_marks_agree_with_the_textbook(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), oracle(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn a_set_is_the_same_as_its_members(members in "[a-e]{1,4}", text in "[a-f]") {
            let expected = members.contains(&text);
            let positive = format!("[{members}]");
            let negative = format!("[!{members}]");
            prop_assert_eq!(matches(&positive, &text), expected);
            prop_assert_eq!(matches(&negative, &text), !expected);
        }

        #[test]
        fn any_bytes_are_survived(pattern in proptest::collection::vec(any::<u8>(), 0..40),
                                  text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = fnmatch(&pattern, &text);
        }
    }
}
