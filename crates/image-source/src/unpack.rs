//! Compressed streams, known by their first bytes and bounded, and streams that are hashed on the way.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{Result, unsupported};

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames, skippable ones among them.
    Zstd,
}

/// First bytes that are looked at.
const MAGIC_BYTES: u64 = 6;
/// What the decoder says where [`Bounded`] ended it.
const TOO_LONG: &str = "it unpacks to more bytes than are accepted";

/// What `raw` unpacks to, which must not be more than `bytes_max`. `window_log_max` bounds the memory of zstd: 2 to
/// that power.
///
/// # Errors
/// Compressions that are not known here; the message says what to use instead.
pub fn unpack<'a>(
    raw: impl Read + 'a,
    window_log_max: u32,
    bytes_max: u64,
) -> Result<(Compression, Box<dyn Read + 'a>)> {
    let mut raw = BufReader::with_capacity(256 << 10, raw);
    let mut magic = Vec::new();
    (&mut raw).take(MAGIC_BYTES).read_to_end(&mut magic)?;
    let kind = magic.clone();
    let whole = Cursor::new(magic).chain(raw);
    let (compression, stream): (_, Box<dyn Read + 'a>) = match kind.as_slice() {
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(window_log_max)?;
            (Compression::Zstd, Box::new(decoder))
        }
        [0x1f, 0x8b, ..] => (Compression::Gzip, Box::new(flate2::bufread::MultiGzDecoder::new(whole))),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            return Err(unsupported("it is compressed by xz; unpack it with `xzcat` first"));
        }
        [b'B', b'Z', b'h', ..] => {
            return Err(unsupported("it is compressed by bzip2; unpack it with `bzcat` first"));
        }
        _ => (Compression::None, Box::new(whole)),
    };
    Ok((compression, Box::new(Bounded { inner: stream, left: bytes_max })))
}

/// Ends in an error, not in an end, where it would give more than it may.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other(TOO_LONG))?;
        Ok(count)
    }
}

/// The hash functions of container images.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn hex(&self) -> String {
        match self.clone() {
            Self::Sha256(hasher) => hex::encode(hasher.finalize()),
            Self::Sha512(hasher) => hex::encode(hasher.finalize()),
        }
    }
}

/// Hashes and counts what passes. Its state is shared, because a decoder owns the reader itself.
pub(crate) struct Hashed<R> {
    pub(crate) inner: R,
    pub(crate) seen: Rc<RefCell<Seen>>,
}

/// What has passed so far.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) hasher: Hasher,
    pub(crate) bytes: u64,
}

impl Seen {
    pub(crate) fn with(hasher: Hasher) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { hasher, bytes: 0 }))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        let mut seen = self.seen.borrow_mut();
        seen.hasher.update(out.get(..count).unwrap_or_default());
        seen.bytes += count as u64;
        Ok(count)
    }
}

/// Reads to the end and throws it away.
pub(crate) fn drain(reader: impl Read) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    loop {
        let count = reader.fill_buf()?.len();
        if count == 0 {
            return Ok(());
        }
        reader.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::{Compression, unpack};

    #[test]
    fn streams_are_known_by_their_first_bytes_and_bombs_end() {
        let text = vec![b'x'; 1 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::bulk::compress(&text, 1).unwrap();
        for (bytes, expected) in
            [(&text, Compression::None), (&gzip, Compression::Gzip), (&zstd, Compression::Zstd)]
        {
            let (compression, mut stream) = unpack(bytes.as_slice(), 27, 1 << 20).unwrap();
            assert_eq!(compression, expected);
            let mut out = Vec::new();
            stream.read_to_end(&mut out).unwrap();
            assert_eq!(out, text);
            let (_, mut stream) = unpack(bytes.as_slice(), 27, (1 << 20) - 1).unwrap();
            let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("more bytes than are accepted"), "{error}");
        }
        assert!(
            unpack(&b"\xfd7zXZ\0rest"[..], 27, 100).is_err_and(|error| error.to_string().contains("xzcat"))
        );
    }
}
