//! Reading and writing the integers of the table of contents. The reader never reads past its end.

/// Longest encoding of a `u64` in base 128.
const VARINT_BYTES_MAX: u32 = 10;

/// The bytes ended, or an integer was not in its shortest form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Where, counted from the first byte.
    pub(crate) at: usize,
}

/// A position in bytes that nobody trusts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(len).ok_or(Malformed { at: self.at })?;
        let bytes = self.bytes.get(self.at..end).ok_or(Malformed { at: self.at })?;
        self.at = end;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| Malformed { at })
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Unsigned LEB128 in its shortest form: one value has one encoding, so equal tables are equal bytes.
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let at = self.at;
        let mut value = 0_u64;
        for step in 0..VARINT_BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * step);
            if shifted >> (7 * step) != bits {
                return Err(Malformed { at });
            }
            value |= shifted;
            if byte & 0x80 == 0 {
                return if byte == 0 && step > 0 { Err(Malformed { at }) } else { Ok(value) };
            }
        }
        Err(Malformed { at })
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, Malformed> {
        let at = self.at;
        u32::try_from(self.varint()?).map_err(|_| Malformed { at })
    }

    /// Signed, as zigzag.
    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        let magnitude = (value >> 1).cast_signed();
        Ok(if value & 1 == 1 { !magnitude } else { magnitude })
    }

    /// A length and so many bytes.
    pub(crate) fn counted(&mut self, len_max: usize) -> Result<&'a [u8], Malformed> {
        let at = self.at;
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed { at })?;
        if len > len_max {
            return Err(Malformed { at });
        }
        self.take(len)
    }
}

/// The writing side of [`Reader`].
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.bytes.push(low & 0x7f);
                return;
            }
            self.bytes.push(low | 0x80);
        }
    }

    pub(crate) fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    pub(crate) fn counted(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Writer};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn integers_come_back(unsigned in any::<u64>(), signed in any::<i64>()) {
            let mut writer = Writer::default();
            writer.varint(unsigned);
            writer.signed(signed);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(unsigned));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.remaining(), 0);
        }
    }

    #[test]
    fn longer_forms_and_overflow_are_refused() {
        assert!(Reader::new(&[0x80, 0x00]).varint().is_err());
        assert!(Reader::new(&[0xff; 10]).varint().is_err());
        assert!(Reader::new(&[0x80]).varint().is_err());
        assert!(Reader::new(&[5, 1, 2]).counted(10).is_err());
    }
}
