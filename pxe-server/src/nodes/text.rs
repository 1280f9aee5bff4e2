//! Text that a node sent, made fit for storing and showing.

/// Longest text of a node that is kept; longer ones are cut.
pub(crate) const TEXT_CHARS_MAX: usize = 1024;

/// Without control characters (terminals obey them) and cut at [`TEXT_CHARS_MAX`].
pub(crate) fn clean(text: &str) -> String {
    let mut chars = text.chars().map(|c| if is_unfit(c) { ' ' } else { c });
    let mut cleaned: String = chars.by_ref().take(TEXT_CHARS_MAX).collect();
    if chars.next().is_some() {
        cleaned.push('…');
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

/// Control characters, and those that turn the direction of what follows.
fn is_unfit(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_endless_lines_lose_their_sting() {
        assert_eq!(clean("a\u{1b}[31mb\r\n"), "a [31mb");
        assert_eq!(clean("x\u{202e}y"), "x y");
        let cut = clean(&"é".repeat(5000));
        assert_eq!(cut.chars().count(), TEXT_CHARS_MAX + 1);
        assert!(cut.ends_with('…'));
    }
}
