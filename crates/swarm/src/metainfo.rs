//! Metainfo v1 of one file (BEP 3), private by default (BEP 27).

use crate::bencode::{BencodeError, Data, Value};
use crate::geometry::{Geometry, GeometryError};
use sha1::{Digest, Sha1};
use std::fmt;

/// Largest metainfo taken: 20 bytes for each of [`crate::PIECES_MAX`] pieces and some room.
pub const METAINFO_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest file name taken, in bytes (NAME_MAX).
pub const NAME_BYTES_MAX: usize = 255;

/// Why bytes are no metainfo that we take.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// Longer than [`METAINFO_BYTES_MAX`].
    #[error("a metainfo of {0} bytes is longer than {METAINFO_BYTES_MAX}")]
    TooLong(usize),
    /// Not bencode.
    #[error("not valid bencode")]
    Bencode(#[from] BencodeError),
    /// A key is missing or of the wrong kind.
    #[error("the key {0:?} is missing or of the wrong kind")]
    Key(&'static str),
    /// Several files: an image is one file.
    #[error("it holds several files; an image is one file")]
    SeveralFiles,
    /// The name is empty, too long, or has a separator or a zero byte.
    #[error("the file name is not usable")]
    Name,
    /// Lengths that make no torrent.
    #[error("lengths do not make a torrent")]
    Geometry(#[from] GeometryError),
    /// The list of hashes has another length than the pieces.
    #[error("{hashes} bytes of piece hashes do not fit {pieces} pieces")]
    Hashes {
        /// Bytes in `pieces`.
        hashes: usize,
        /// Pieces by the lengths.
        pieces: u32,
    },
}

/// SHA-1 of the bencoded `info`: the torrent's name in handshakes and announces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash(pub [u8; 20]);

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A torrent of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metainfo {
    /// SHA-1 of the raw `info` dictionary.
    pub info_hash: InfoHash,
    /// Length of every piece but the last, in bytes.
    pub piece_length: u32,
    /// Length of the file in bytes.
    pub length: u64,
    /// The file's name; a label, never a path.
    pub name: String,
    /// SHA-1 of each piece.
    pub pieces: Vec<[u8; 20]>,
    /// Whether only this torrent's trackers may name peers (BEP 27).
    pub private: bool,
    /// The tracker's URL, if the metainfo names one; of several (BEP 12) the first that speaks plain HTTP.
    pub announce: Option<String>,
    /// Web seeds (BEP 19): where the file can be read by ranges.
    pub web_seeds: Vec<String>,
}

impl Metainfo {
    /// Reads a metainfo (the bytes of a `.torrent` file).
    pub fn parse(bytes: &[u8]) -> Result<Metainfo, MetainfoError> {
        if bytes.len() > METAINFO_BYTES_MAX {
            return Err(MetainfoError::TooLong(bytes.len()));
        }
        let root = Value::parse(bytes)?;
        let info = root.get("info").ok_or(MetainfoError::Key("info"))?;
        if info.get("files").is_some() {
            return Err(MetainfoError::SeveralFiles);
        }
        let length = integer(info, "length")?;
        let piece_length = integer(info, "piece length")?;
        let piece_length = u32::try_from(piece_length).map_err(|_| MetainfoError::Key("piece length"))?;
        let geometry = Geometry::new(length, piece_length)?;
        let hashes = info.get("pieces").and_then(Value::bytes).ok_or(MetainfoError::Key("pieces"))?;
        let (pieces, rest) = hashes.as_chunks::<20>();
        if !rest.is_empty() || pieces.len() != geometry.pieces() as usize {
            return Err(MetainfoError::Hashes { hashes: hashes.len(), pieces: geometry.pieces() });
        }
        let name = info.get("name").and_then(Value::bytes).ok_or(MetainfoError::Key("name"))?;
        Ok(Metainfo {
            info_hash: InfoHash(Sha1::digest(info.raw).into()),
            piece_length,
            length,
            name: checked_name(name)?,
            pieces: pieces.to_vec(),
            private: info.get("private").and_then(Value::integer) == Some(1),
            announce: announce(&root),
            web_seeds: strings(root.get("url-list")),
        })
    }

    /// The same torrent with another tracker and other web seeds, and nothing else: the bytes of `info`, and with
    /// them the info-hash, stay what they are.
    pub fn with_sources(
        bytes: &[u8],
        announce: Option<&str>,
        web_seeds: &[&str],
    ) -> Result<Vec<u8>, MetainfoError> {
        Metainfo::parse(bytes)?;
        let root = Value::parse(bytes)?;
        let info = root.get("info").ok_or(MetainfoError::Key("info"))?;
        let mut sources = vec![];
        let announce =
            announce.map(|url| [Data::text("announce").encode(), Data::text(url).encode()].concat());
        sources.extend(announce);
        sources.push([&Data::text("info").encode(), info.raw].concat());
        if !web_seeds.is_empty() {
            let list = Data::List(web_seeds.iter().map(|url| Data::text(url)).collect());
            sources.push([Data::text("url-list").encode(), list.encode()].concat());
        }
        Ok([b"d", sources.concat().as_slice(), b"e"].concat())
    }

    /// The lengths, as the maker of piece and block numbers.
    pub fn geometry(&self) -> Result<Geometry, GeometryError> {
        Geometry::new(self.length, self.piece_length)
    }

    /// Writes the metainfo of one file with `private=1`; no dates and no author, so equal input gives equal
    /// bytes. `pieces` holds the SHA-1 of each piece in order.
    pub fn encode_single_file(
        name: &str,
        length: u64,
        piece_length: u32,
        pieces: &[[u8; 20]],
        announce: Option<&str>,
    ) -> Result<Vec<u8>, MetainfoError> {
        let geometry = Geometry::new(length, piece_length)?;
        if pieces.len() != geometry.pieces() as usize {
            return Err(MetainfoError::Hashes { hashes: pieces.len() * 20, pieces: geometry.pieces() });
        }
        checked_name(name.as_bytes())?;
        let info = Data::dictionary([
            ("length", Data::Integer(i64::try_from(length).map_err(|_| MetainfoError::Key("length"))?)),
            ("name", Data::text(name)),
            ("piece length", Data::Integer(i64::from(piece_length))),
            ("pieces", Data::Bytes(pieces.concat())),
            ("private", Data::Integer(1)),
        ]);
        let mut root = vec![("info", info)];
        root.extend(announce.map(|url| ("announce", Data::text(url))));
        Ok(Data::dictionary(root).encode())
    }
}

/// The tracker of BEP 3, unless it is of a kind that we don't speak and the first tier of BEP 12 has a better one.
fn announce(root: &Value<'_>) -> Option<String> {
    let named = root.get("announce").and_then(Value::bytes).and_then(text);
    let first_tier = root.get("announce-list").and_then(Value::list).and_then(<[_]>::first);
    let tier = strings(first_tier);
    let plain = named.iter().chain(&tier).find(|url| url.starts_with("http://")).cloned();
    plain.or(named).or_else(|| tier.into_iter().next())
}

/// One string, or a list of them.
fn strings(value: Option<&Value<'_>>) -> Vec<String> {
    let Some(value) = value else { return Vec::new() };
    let one = value.bytes().and_then(text);
    let list = value.list().unwrap_or_default();
    one.into_iter().chain(list.iter().filter_map(|item| item.bytes().and_then(text))).collect()
}

fn integer(info: &Value<'_>, key: &'static str) -> Result<u64, MetainfoError> {
    let number = info.get(key).and_then(Value::integer).ok_or(MetainfoError::Key(key))?;
    u64::try_from(number).map_err(|_| MetainfoError::Key(key))
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn checked_name(bytes: &[u8]) -> Result<String, MetainfoError> {
    let name = text(bytes).ok_or(MetainfoError::Name)?;
    let usable = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(['/', '\\', '\0'])
        && name != "."
        && name != "..";
    if usable { Ok(name) } else { Err(MetainfoError::Name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> Vec<u8> {
        Metainfo::encode_single_file(
            "a.esir",
            40_000,
            32_768,
            &[[1; 20], [2; 20]],
            Some("http://10.0.0.1/announce"),
        )
        .unwrap()
    }

    #[test]
    fn what_is_encoded_is_parsed_and_private() {
        let metainfo = Metainfo::parse(&encoded()).unwrap();
        assert_eq!((metainfo.length, metainfo.piece_length), (40_000, 32_768));
        assert_eq!(metainfo.pieces, [[1; 20], [2; 20]]);
        assert!(metainfo.private);
        assert_eq!(metainfo.name, "a.esir");
        assert_eq!(metainfo.announce.as_deref(), Some("http://10.0.0.1/announce"));
    }

    #[test]
    fn the_info_hash_is_over_the_raw_bytes_of_info() {
        let bytes = encoded();
        let raw = Value::parse(&bytes).unwrap().get("info").unwrap().raw.to_vec();
        let expected: [u8; 20] = Sha1::digest(&raw).into();
        assert_eq!(Metainfo::parse(&bytes).unwrap().info_hash, InfoHash(expected));
    }

    #[test]
    fn other_sources_leave_the_info_hash_alone() {
        let before = Metainfo::parse(&encoded()).unwrap();
        let urls = ["http://10.0.0.2/a.esir", "http://10.0.0.3/a.esir"];
        let bytes = Metainfo::with_sources(&encoded(), Some("http://10.0.0.2/announce"), &urls).unwrap();
        let after = Metainfo::parse(&bytes).unwrap();
        assert_eq!(after.info_hash, before.info_hash);
        assert_eq!(after.announce.as_deref(), Some("http://10.0.0.2/announce"));
        assert_eq!(after.web_seeds, urls);
        let none = Metainfo::parse(&Metainfo::with_sources(&bytes, None, &[]).unwrap()).unwrap();
        assert_eq!((none.announce, none.web_seeds), (None, vec![]));
        assert!(Metainfo::with_sources(b"de", None, &[]).is_err());
    }

    #[test]
    fn of_several_trackers_the_first_that_speaks_http_is_taken() {
        let check = |root: &str, expected: Option<&str>| {
            let bytes = encoded();
            let info = Value::parse(&bytes).unwrap().get("info").unwrap().raw.to_vec();
            let whole = [b"d", root.as_bytes(), b"4:info", &info, b"8:url-list8:http://xe"].concat();
            let metainfo = Metainfo::parse(&whole).unwrap();
            assert_eq!(metainfo.announce.as_deref(), expected, "{root}");
            assert_eq!(metainfo.web_seeds, ["http://x"]);
        };
        check("", None);
        check("8:announce7:udp://a", Some("udp://a"));
        check("8:announce7:udp://a13:announce-listll7:udp://b8:http://cee", Some("http://c"));
        check("13:announce-listll8:http://bel8:http://cee", Some("http://b"));
        check("8:announcei1e13:announce-listi1e", None);
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        for name in ["../x", "/etc/passwd", "", "..", "a\0b", "a\\b"] {
            let made = Metainfo::encode_single_file(name, 1, 1, &[[0; 20]], None);
            assert_eq!(made, Err(MetainfoError::Name), "{name:?}");
        }
    }

    #[test]
    fn wrong_hash_counts_and_lengths_are_refused() {
        let wrong =
            b"d4:infod6:lengthi40000e4:name1:a12:piece lengthi32768e6:pieces20:aaaaaaaaaaaaaaaaaaaaee";
        assert_eq!(Metainfo::parse(wrong), Err(MetainfoError::Hashes { hashes: 20, pieces: 2 }));
        let negative = b"d4:infod6:lengthi-1e4:name1:a12:piece lengthi32768e6:pieces0:ee";
        assert_eq!(Metainfo::parse(negative), Err(MetainfoError::Key("length")));
        assert_eq!(Metainfo::parse(b"de"), Err(MetainfoError::Key("info")));
    }
}
