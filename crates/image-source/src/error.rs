//! Why a source cannot be used, and paths as they can be printed.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

/// A source that no image can be made from. What was taken from it so far must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The bytes could not be had.
    #[error("reading it")]
    Read(#[from] io::Error),
    /// The bytes are not what they should be, or are damaged.
    #[error("{0}")]
    Malformed(Cow<'static, str>),
    /// Whole and known, but not something that an image can be made from here.
    #[error("{0}")]
    Unsupported(Cow<'static, str>),
    /// More than is accepted; see the constant that is named beside the bound.
    #[error("there are too many {what}: at most {limit} are accepted")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are accepted.
        limit: u64,
    },
    /// Where it happened.
    #[error("{place}")]
    At {
        /// A path, a layer, a partition.
        place: String,
        /// What happened there.
        #[source]
        source: Box<SourceError>,
    },
}

/// What every function of this crate gives.
pub(crate) type Result<T> = std::result::Result<T, SourceError>;

pub(crate) fn malformed(what: impl Into<Cow<'static, str>>) -> SourceError {
    SourceError::Malformed(what.into())
}

pub(crate) fn unsupported(what: impl Into<Cow<'static, str>>) -> SourceError {
    SourceError::Unsupported(what.into())
}

/// Adds where it happened.
pub(crate) trait At<T> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T>;
}

impl<T> At<T> for Result<T> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| SourceError::At { place: place(), source: Box::new(source) })
    }
}

/// A path as it can be printed: what is not printable text becomes `\xNN`, a backslash is doubled.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                character if character.is_control() => text.extend(character.escape_default()),
                character => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn unprintable_names() {
        assert_eq!(super::printable(b"a\xffb\nc\\d\xc3\xa4"), "a\\xffb\\nc\\\\dä");
    }
}
