//! Compares a conversation with the one that is kept, and shows what differs.

use std::fs;

use anyhow::{Result, bail};

/// Set, it makes what was seen the golden.
const REFRESH: &str = "ESIR_REFRESH_GOLDENS";

/// Compares `actual` with `goldens/NAME.txt`.
pub(super) fn check(name: &str, actual: &str) -> Result<()> {
    let path = super::goldens_dir().join(format!("{name}.txt"));
    if std::env::var_os(REFRESH).is_some() {
        fs::write(&path, actual)?;
        return Ok(());
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if actual != expected {
        bail!(
            "the conversation is not that of {} (- kept, + seen); if it is right, {REFRESH}=1 keeps it:\n{}",
            path.display(),
            difference(&expected, actual)
        );
    }
    Ok(())
}

/// Lines of both, those of one alone marked: by the longest common subsequence, as `diff` does.
fn difference(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    // longest[i][j]: common lines of old[i..] and new[j..].
    let mut longest = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    let at = |table: &[Vec<usize>], i: usize, j: usize| {
        table.get(i).and_then(|row| row.get(j)).copied().unwrap_or_default()
    };
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let best = if left == right {
                at(&longest, i + 1, j + 1) + 1
            } else {
                at(&longest, i + 1, j).max(at(&longest, i, j + 1))
            };
            if let Some(cell) = longest.get_mut(i).and_then(|row| row.get_mut(j)) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    loop {
        let (mark, line) = match (old.get(i), new.get(j)) {
            (Some(left), Some(right)) if left == right => {
                (i, j) = (i + 1, j + 1);
                (' ', *left)
            }
            (Some(left), right) if right.is_none() || at(&longest, i + 1, j) >= at(&longest, i, j + 1) => {
                i += 1;
                ('-', *left)
            }
            (_, Some(right)) => {
                j += 1;
                ('+', *right)
            }
            _ => return text,
        };
        text.push(mark);
        text.push_str(line);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_is_shown_between_those_that_stayed() {
        assert_eq!(difference("a\nb\nc\n", "a\nx\nc\n"), " a\n-b\n+x\n c\n");
        assert_eq!(difference("", "a\n"), "+a\n");
        assert_eq!(difference("a\nb\n", "b\n"), "-a\n b\n");
    }
}
