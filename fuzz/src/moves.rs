//! The bytes of a fuzz input, taken one after the other.
//!
//! Never depends on a target: each of them brings this file along.

/// What is left of an input.
pub(crate) struct Moves<'a>(pub(crate) &'a [u8]);

#[allow(dead_code)] // not every target takes each kind
impl<'a> Moves<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Two bytes, the high one first.
    pub(crate) fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// As many as the next byte says, or what is left.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(taken)
    }
}
