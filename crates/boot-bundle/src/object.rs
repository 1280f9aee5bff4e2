//! Objects of the store: file contents found by the BLAKE3 hash of the bytes that travel.

use serde::{Deserialize, Serialize};

/// No object is larger, packed or unpacked: the largest module of Debian's kernel has 4 MB, the largest
/// firmware file 26 MB.
pub const OBJECT_BYTES_MAX: u64 = 64 << 20;

/// BLAKE3-256 of an object, as 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectHash(String);

/// A text that is no BLAKE3 hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no BLAKE3 hash of 64 lower-case hex digits")]
pub struct HashError(String);

impl ObjectHash {
    /// The hash of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }

    /// The 64 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the object lies below a bundle's directory: `store/ab/abcd...`.
    #[must_use]
    pub fn store_path(&self) -> String {
        format!("store/{}/{}", self.0.get(..2).unwrap_or_default(), self.0)
    }
}

impl std::fmt::Display for ObjectHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ObjectHash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, HashError> {
        let valid = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(Self(text)) } else { Err(HashError(text)) }
    }
}

impl std::str::FromStr for ObjectHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        Self::try_from(text.to_owned())
    }
}

impl From<ObjectHash> for String {
    fn from(hash: ObjectHash) -> Self {
        hash.0
    }
}

/// How a file's contents are packed in its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As they are.
    #[default]
    Raw,
    /// One zstd frame.
    Zstd,
}

/// One object and what comes out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Hash of the object as it travels.
    pub hash: ObjectHash,
    /// Bytes of the object as it travels.
    pub size: u64,
    /// Bytes of the file's contents.
    pub raw_size: u64,
    /// How the contents are packed.
    pub encoding: Encoding,
}

/// An object that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The bytes are others than the hash says.
    #[error("object {expected} has the contents of {found}: damaged on the way or in the store")]
    Hash {
        /// What was asked for.
        expected: ObjectHash,
        /// What came.
        found: ObjectHash,
    },
    /// Larger than any object may be, or not as large as the manifest says.
    #[error("object {hash} has {bytes} bytes of contents where the manifest says {expected}")]
    Size {
        /// Which object.
        hash: ObjectHash,
        /// What it has.
        bytes: u64,
        /// What the manifest says.
        expected: u64,
    },
    /// The zstd frame is damaged.
    #[error("unpacking object {hash}")]
    Unpack {
        /// Which object.
        hash: ObjectHash,
        /// What zstd says.
        source: std::io::Error,
    },
}

impl ObjectRef {
    /// Packs a file's contents into an object at a zstd level of 1 to 22; contents that don't shrink stay raw.
    ///
    /// # Errors
    /// What zstd says; contents above [`OBJECT_BYTES_MAX`].
    pub fn pack(contents: &[u8], level: i32) -> std::io::Result<(Self, Vec<u8>)> {
        let raw_size = contents.len() as u64;
        if raw_size > OBJECT_BYTES_MAX {
            return Err(std::io::Error::other(format!("{raw_size} bytes are more than {OBJECT_BYTES_MAX}")));
        }
        let packed = zstd::bulk::compress(contents, level)?;
        let (encoding, bytes) = if packed.len() < contents.len() {
            (Encoding::Zstd, packed)
        } else {
            (Encoding::Raw, contents.to_vec())
        };
        Ok((Self { hash: ObjectHash::of(&bytes), size: bytes.len() as u64, raw_size, encoding }, bytes))
    }

    /// Describes bytes that [`Self::pack`] packed into zstd before.
    #[must_use]
    pub fn packed(bytes: &[u8], raw_size: u64) -> Self {
        Self { hash: ObjectHash::of(bytes), size: bytes.len() as u64, raw_size, encoding: Encoding::Zstd }
    }

    /// Checks the bytes that came for this object and unpacks them; nothing is unpacked before its hash is
    /// known good.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub fn unpack(&self, bytes: Vec<u8>) -> Result<Vec<u8>, ObjectError> {
        let found = ObjectHash::of(&bytes);
        if found != self.hash {
            return Err(ObjectError::Hash { expected: self.hash.clone(), found });
        }
        let size_error =
            |bytes| ObjectError::Size { hash: self.hash.clone(), bytes, expected: self.raw_size };
        if self.raw_size > OBJECT_BYTES_MAX {
            return Err(size_error(self.raw_size));
        }
        let contents = match self.encoding {
            Encoding::Raw => bytes,
            Encoding::Zstd => {
                zstd::bulk::decompress(&bytes, usize::try_from(self.raw_size).unwrap_or(usize::MAX))
                    .map_err(|source| ObjectError::Unpack { hash: self.hash.clone(), source })?
            }
        };
        let contents_bytes = contents.len() as u64;
        if contents_bytes == self.raw_size { Ok(contents) } else { Err(size_error(contents_bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_survive_the_store() {
        for contents in [&b""[..], b"short", &[7; 10_000]] {
            let (object, bytes) = ObjectRef::pack(contents, 3).unwrap();
            assert_eq!(object.unpack(bytes).unwrap(), contents);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_and_named() {
        let (object, mut bytes) = ObjectRef::pack(&[7; 10_000], 3).unwrap();
        bytes[4] ^= 1;
        let error = object.unpack(bytes).unwrap_err();
        assert!(matches!(error, ObjectError::Hash { .. }), "{error}");
    }

    #[test]
    fn a_manifest_that_promises_too_little_does_not_make_memory_grow() {
        let (mut object, bytes) = ObjectRef::pack(&[7; 10_000], 3).unwrap();
        object.raw_size = 100;
        assert!(object.unpack(bytes).is_err());
    }

    #[test]
    fn hashes_are_hex_and_nothing_else() {
        assert!("ab".parse::<ObjectHash>().is_err());
        assert!("../../etc/passwd".parse::<ObjectHash>().is_err());
        assert!("G".repeat(64).parse::<ObjectHash>().is_err());
        let hash = ObjectHash::of(b"x");
        assert_eq!(hash.as_str().parse::<ObjectHash>().unwrap(), hash);
        assert_eq!(hash.store_path(), format!("store/{}/{hash}", &hash.as_str()[..2]));
    }
}
