//! Bencode (BEP 3): strict, canonical, bounded.
//!
//! The reader takes only the one canonical form: no leading zeros, no `-0`, dictionary keys strictly
//! ascending, nothing after the value. What it reads borrows from the input, so a value can't be larger than
//! the bytes that it came from by more than its token bound allows.

use std::collections::BTreeMap;

/// Deepest nesting taken; a torrent needs three.
pub const DEPTH_MAX: usize = 32;

/// Most values in one document; a torrent of ours has about ten, a tracker reply fewer than its peers.
pub const VALUES_MAX: usize = 16 * 1024;

/// Why bytes are no bencode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BencodeError {
    /// The input stops inside a value.
    #[error("the input ends inside a value")]
    Truncated,
    /// A byte that begins no value, or ends none.
    #[error("unexpected byte at offset {0}")]
    Unexpected(usize),
    /// A number with leading zeros, `-0`, no digits or more than 64 bits.
    #[error("number at offset {0} is not canonical")]
    Number(usize),
    /// Dictionary keys out of order or twice.
    #[error("dictionary keys are not in strictly ascending order at offset {0}")]
    KeyOrder(usize),
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// More values than [`VALUES_MAX`].
    #[error("more than {VALUES_MAX} values")]
    TooMany,
    /// Bytes after the value.
    #[error("bytes follow the value at offset {0}")]
    Trailing(usize),
}

/// A value and the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// What it is.
    pub kind: Kind<'a>,
    /// The exact bytes: what an info-hash is taken over.
    pub raw: &'a [u8],
}

/// The four kinds of bencode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// `i42e`
    Integer(i64),
    /// `4:spam`
    Bytes(&'a [u8]),
    /// `l...e`
    List(Vec<Value<'a>>),
    /// `d...e`, keys ascending.
    Dictionary(Vec<(&'a [u8], Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Reads one value that is the whole input.
    pub fn parse(input: &'a [u8]) -> Result<Value<'a>, BencodeError> {
        let (value, used) = Value::parse_prefix(input)?;
        if used == input.len() { Ok(value) } else { Err(BencodeError::Trailing(used)) }
    }

    /// Reads one value at the start of the input; also gives the bytes used (BEP 9 and 10 put data behind).
    pub fn parse_prefix(input: &'a [u8]) -> Result<(Value<'a>, usize), BencodeError> {
        let mut reader = Reader { input, at: 0, values: 0 };
        let value = reader.value(0)?;
        Ok((value, reader.at))
    }

    /// The value under `key` if this is a dictionary that has it.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        match &self.kind {
            Kind::Dictionary(entries) => {
                let at = entries.binary_search_by(|(name, _)| (*name).cmp(key.as_bytes())).ok()?;
                entries.get(at).map(|(_, value)| value)
            }
            Kind::Integer(_) | Kind::Bytes(_) | Kind::List(_) => None,
        }
    }

    /// The number, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self.kind {
            Kind::Integer(number) => Some(number),
            Kind::Bytes(_) | Kind::List(_) | Kind::Dictionary(_) => None,
        }
    }

    /// The bytes, if it is a string.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Bytes(bytes) => Some(bytes),
            Kind::Integer(_) | Kind::List(_) | Kind::Dictionary(_) => None,
        }
    }

    /// The items, if it is a list.
    pub fn list(&self) -> Option<&[Value<'a>]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            Kind::Integer(_) | Kind::Bytes(_) | Kind::Dictionary(_) => None,
        }
    }
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    values: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, BencodeError> {
        self.input.get(self.at).copied().ok_or(BencodeError::Truncated)
    }

    /// Recursion is bounded by [`DEPTH_MAX`]: a few KiB of stack.
    fn value(&mut self, depth: usize) -> Result<Value<'a>, BencodeError> {
        if depth >= DEPTH_MAX {
            return Err(BencodeError::TooDeep);
        }
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(BencodeError::TooMany);
        }
        let start = self.at;
        let kind = match self.peek()? {
            b'i' => {
                self.at += 1;
                Kind::Integer(self.number(b'e')?)
            }
            b'0'..=b'9' => Kind::Bytes(self.string()?),
            b'l' => self.list(depth)?,
            b'd' => self.dictionary(depth)?,
            _ => return Err(BencodeError::Unexpected(self.at)),
        };
        let raw = self.input.get(start..self.at).ok_or(BencodeError::Truncated)?;
        Ok(Value { kind, raw })
    }

    fn list(&mut self, depth: usize) -> Result<Kind<'a>, BencodeError> {
        self.at += 1;
        let mut items = Vec::new();
        while self.peek()? != b'e' {
            items.push(self.value(depth + 1)?);
        }
        self.at += 1;
        Ok(Kind::List(items))
    }

    fn dictionary(&mut self, depth: usize) -> Result<Kind<'a>, BencodeError> {
        self.at += 1;
        let mut entries: Vec<(&'a [u8], Value<'a>)> = Vec::new();
        while self.peek()? != b'e' {
            let start = self.at;
            let key = self.string()?;
            if entries.last().is_some_and(|(before, _)| *before >= key) {
                return Err(BencodeError::KeyOrder(start));
            }
            entries.push((key, self.value(depth + 1)?));
        }
        self.at += 1;
        Ok(Kind::Dictionary(entries))
    }

    fn string(&mut self) -> Result<&'a [u8], BencodeError> {
        if !self.peek()?.is_ascii_digit() {
            return Err(BencodeError::Unexpected(self.at));
        }
        let start = self.at;
        let length = usize::try_from(self.number(b':')?).map_err(|_| BencodeError::Number(start))?;
        let end = self.at.checked_add(length).ok_or(BencodeError::Number(start))?;
        let bytes = self.input.get(self.at..end).ok_or(BencodeError::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    /// Digits up to `end`, in the one canonical form.
    fn number(&mut self, end: u8) -> Result<i64, BencodeError> {
        let start = self.at;
        let rest = self.input.get(start..).unwrap_or_default();
        // 20 bytes hold any 64-bit number; the bound keeps a run of digits from being scanned twice.
        let length = rest.iter().take(21).position(|&byte| byte == end);
        let Some(length) = length else {
            let digits = rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
            return Err(if digits && rest.len() < 21 {
                BencodeError::Truncated
            } else {
                BencodeError::Number(start)
            });
        };
        let text = rest.get(..length).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = text.and_then(|text| text.parse::<i64>().ok()).ok_or(BencodeError::Number(start))?;
        if text != Some(number.to_string().as_str()) {
            return Err(BencodeError::Number(start));
        }
        self.at = start + length + 1;
        Ok(number)
    }
}

/// A value to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A number.
    Integer(i64),
    /// A string of bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Data>),
    /// A dictionary; the map keeps its keys in canonical order.
    Dictionary(BTreeMap<Vec<u8>, Data>),
}

impl Data {
    /// A string.
    pub fn text(text: &str) -> Data {
        Data::Bytes(text.as_bytes().to_vec())
    }

    /// A dictionary of these entries.
    pub fn dictionary<'k>(entries: impl IntoIterator<Item = (&'k str, Data)>) -> Data {
        Data::Dictionary(entries.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), value)).collect())
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Data::Integer(number) => out.extend(format!("i{number}e").bytes()),
            Data::Bytes(bytes) => write_bytes(out, bytes),
            Data::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Data::Dictionary(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    write_bytes(out, key);
                    value.write(out);
                }
                out.push(b'e');
            }
        }
    }
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(format!("{}:", bytes.len()).bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
