//! A tar stream -> members with everything that an image keeps. For importing archives, and for proving that an
//! image's stream says the same as its table of contents.

use std::io::Read;

use image_format::{DataExtent, FileContent, Metadata, OwnerNames, Timestamp, Xattr, file_flag_by_name};
use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, PaxExtensions, SparseEntry};

use crate::acl;
use crate::error::{At, Result, SourceError, malformed, printable, unsupported};
use crate::member::{Member, MemberKind, split_path};

/// Bytes of pax records per member: a few attributes of 64 KiB, or the map of a very sparse file.
const RECORD_BYTES_MAX: u32 = 16 << 20;
/// Extents of a sparse file.
const EXTENTS_MAX: usize = 1_000_000;
/// Marks an empty file that stands for a socket, which tar has no kind for. Only our own streams carry it.
pub(crate) const SOCKET_RECORD: &str = "ESIR.socket";
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
const BLOCK: u64 = 512;

/// Reads a stream member by member.
pub struct TarReader<R> {
    input: R,
    parser: Parser,
    /// Bytes read and not yet used.
    buffer: Vec<u8>,
    /// Offset in the stream of the first of them.
    position: u64,
    /// Data of the last member not yet read, and the zeros behind it.
    data_left: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    /// A reader at the beginning of a stream.
    pub fn new(input: R) -> Self {
        let limits = Limits {
            max_metadata_size: RECORD_BYTES_MAX,
            max_path_len: Some(8192),
            max_sparse_entries: EXTENTS_MAX,
            ..Limits::default()
        };
        let mut parser = Parser::new(limits);
        // It refuses times before 1970; we read times ourselves and check the numbers that it would then let pass.
        parser.set_ignore_pax_errors(true);
        Self { input, parser, buffer: Vec::new(), position: 0, data_left: 0, padding: 0 }
    }

    /// The next member; `None` at the end of the archive. Data that was not read is skipped.
    ///
    /// # Errors
    /// What is not tar, cannot be a member of a root file system, or leaves the archive by `..`.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        self.read_data(&mut |_| Ok::<(), SourceError>(()))?;
        loop {
            let (consumed, wanted, found) =
                match self.parser.parse(&self.buffer).map_err(|error| no_tar(&error))? {
                    ParseEvent::NeedData { min_bytes } => (0, Some(min_bytes), None),
                    ParseEvent::Entry { consumed, entry } => (consumed, None, Some(member(&entry, None)?)),
                    ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                        (consumed, None, Some(member(&entry, Some((sparse_map, real_size)))?))
                    }
                    ParseEvent::GlobalExtensions { consumed, .. } => (consumed, None, None),
                    ParseEvent::End { .. } => return Ok(None),
                };
            if let Some(wanted) = wanted {
                // QUIRK(tar-core): where zeros follow an extended header, it asks for bytes that it has, for ever.
                if wanted <= self.buffer.len() {
                    return Err(malformed("the archive ends between an extended header and its member"));
                }
                if !self.fill(wanted)? {
                    if !self.buffer.is_empty() {
                        return Err(malformed("the archive ends in the middle of a member"));
                    }
                    return Ok(None);
                }
                continue;
            }
            self.buffer.drain(..consumed);
            self.position += consumed as u64;
            if let Some((mut member, data)) = found {
                member.data_offset = self.position;
                self.data_left = data;
                self.padding = data.next_multiple_of(BLOCK) - data;
                return Ok(Some(member));
            }
        }
    }

    /// Calls `each` with the last member's data, holes left out.
    ///
    /// # Errors
    /// The stream ends early, or what `each` says.
    pub fn read_data<E: From<SourceError>>(
        &mut self,
        each: &mut dyn FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        while self.data_left + self.padding > 0 {
            if self.buffer.is_empty() {
                let wanted =
                    usize::try_from(self.data_left + self.padding).unwrap_or(usize::MAX).min(READ_BYTES);
                if !self.fill(wanted)? {
                    return Err(malformed("the archive ends in the middle of a file").into());
                }
            }
            let available = self.buffer.len() as u64;
            let data = self.data_left.min(available);
            let skipped = self.padding.min(available - data);
            // Both are within the buffer, whose length is a `usize`.
            let fits = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer.len());
            let (data_len, used) = (fits(data), fits(data + skipped));
            each(self.buffer.get(..data_len).unwrap_or_default())?;
            self.buffer.drain(..used);
            self.position += data + skipped;
            self.data_left -= data;
            self.padding -= skipped;
        }
        Ok(())
    }

    /// What is left of the input behind the archive: padding, or bytes that belong to nobody.
    pub fn into_input(self) -> R {
        self.input
    }

    /// Reads until `wanted` bytes are there; whether they are.
    fn fill(&mut self, wanted: usize) -> Result<bool> {
        let missing = wanted.saturating_sub(self.buffer.len());
        (&mut self.input).take(missing as u64).read_to_end(&mut self.buffer)?;
        Ok(self.buffer.len() >= wanted)
    }
}

fn no_tar(error: &tar_core::parse::ParseError) -> SourceError {
    malformed(format!("this is not a tar archive, or it is damaged: {error}"))
}

/// A member, and how many bytes of data follow it.
fn member(entry: &ParsedEntry<'_>, sparse: Option<(Vec<SparseEntry>, u64)>) -> Result<(Member, u64)> {
    parse_member(entry, sparse).at(|| printable(&entry.path))
}

fn parse_member(entry: &ParsedEntry<'_>, sparse: Option<(Vec<SparseEntry>, u64)>) -> Result<(Member, u64)> {
    let names = split_path(&entry.path)?;
    let records = Records::read(entry.pax.unwrap_or_default())?;
    let is_v7_directory = entry.path.ends_with(b"/") && entry.size == 0;
    let device =
        || entry.dev_major.zip(entry.dev_minor).ok_or_else(|| malformed("a device without a number"));
    let target = || entry.link_target.as_deref().ok_or_else(|| malformed("a link without a target"));
    let mut data = entry.size;
    let kind = match entry.entry_type {
        _ if records.is_socket => MemberKind::Socket,
        EntryType::Directory => MemberKind::Directory,
        EntryType::Regular if is_v7_directory => MemberKind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
            let content = match sparse {
                Some((map, size)) => FileContent { size, extents: extents(&map)? },
                None => FileContent::plain(entry.size),
            };
            data = content.data_bytes();
            MemberKind::File(content)
        }
        EntryType::Symlink => MemberKind::Symlink { target: target()?.to_vec() },
        EntryType::Link => MemberKind::HardLink { target: split_path(target()?)? },
        EntryType::Char => device().map(|(major, minor)| MemberKind::CharDevice { major, minor })?,
        EntryType::Block => device().map(|(major, minor)| MemberKind::BlockDevice { major, minor })?,
        EntryType::Fifo => MemberKind::Fifo,
        other => {
            return Err(unsupported(format!("a member of kind {other:?}, which no root file system has")));
        }
    };
    let id = |value: u64| u32::try_from(value).map_err(|_| malformed("an owner's number is too large"));
    let header_time = i64::try_from(entry.mtime).unwrap_or(i64::MAX);
    let metadata = Metadata {
        mode: entry.mode & 0o7777,
        uid: id(entry.uid)?,
        gid: id(entry.gid)?,
        mtime: records.mtime.unwrap_or(Timestamp { seconds: header_time, nanoseconds: 0 }),
        flags: records.flags,
    };
    let owner_names = OwnerNames::possible(
        entry.uname.as_deref().unwrap_or_default(),
        entry.gname.as_deref().unwrap_or_default(),
    );
    let mut xattrs: Vec<Xattr> = entry
        .xattrs
        .iter()
        .map(|(name, value)| Xattr { name: name.to_vec(), value: value.to_vec() })
        .chain(records.acls)
        .collect();
    // The kernel's own form comes first and wins over the text form of the same ACL.
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    xattrs.dedup_by(|later, first| later.name == first.name);
    Ok((Member { names, metadata, owner_names, xattrs, kind, data_offset: 0 }, data))
}

/// A sparse map in an image's form: no empty runs, none that touch.
fn extents(map: &[SparseEntry]) -> Result<Vec<DataExtent>> {
    let impossible = || malformed("a sparse map is impossible");
    let mut extents: Vec<DataExtent> = Vec::new();
    for entry in map.iter().filter(|entry| entry.length > 0) {
        match extents.last_mut() {
            Some(last) if last.offset.checked_add(last.len) == Some(entry.offset) => {
                last.len = last.len.checked_add(entry.length).ok_or_else(impossible)?;
            }
            _ => extents.push(DataExtent { offset: entry.offset, len: entry.length }),
        }
    }
    extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.len)).ok_or_else(impossible)?;
    Ok(extents)
}

/// The pax records that the parser leaves to us.
#[derive(Default)]
struct Records {
    mtime: Option<Timestamp>,
    flags: u32,
    acls: Vec<Xattr>,
    is_socket: bool,
}

impl Records {
    fn read(pax: &[u8]) -> Result<Self> {
        let mut records = Self::default();
        for record in PaxExtensions::new(pax) {
            let record = record.map_err(|error| malformed(format!("a pax record is malformed: {error}")))?;
            let (Ok(key), value) = (record.key(), record.value_bytes()) else { continue };
            let value = || std::str::from_utf8(value).map_err(|_| malformed("a pax value is not text"));
            match key {
                "mtime" => records.mtime = Some(parse_time(value()?)?),
                "size" | "uid" | "gid" => {
                    let number = value()?.parse::<u64>();
                    number.map_err(|_| malformed(format!("the pax record {key} is no number")))?;
                }
                "SCHILY.fflags" => {
                    records.flags =
                        value()?.split(',').filter_map(file_flag_by_name).fold(0, |all, flag| all | flag);
                }
                "SCHILY.acl.access" | "SCHILY.acl.default" => {
                    let name = key.replace("SCHILY.acl.", "system.posix_acl_").into_bytes();
                    records.acls.extend(acl::parse(value()?)?.map(|value| Xattr { name, value }));
                }
                SOCKET_RECORD => records.is_socket = true,
                _ => {}
            }
        }
        Ok(records)
    }
}

/// Decimal seconds; digits beyond nanoseconds are dropped.
fn parse_time(text: &str) -> Result<Timestamp> {
    let (negative, number) = text.strip_prefix('-').map_or((false, text), |number| (true, number));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let wrong = || malformed("a time is no decimal number");
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9).unwrap_or("0").parse().map_err(|_| wrong())?;
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::parse_time;
    use image_format::Timestamp;

    #[test]
    fn decimal_times() {
        let check = |text, seconds, nanoseconds| {
            assert_eq!(parse_time(text).unwrap(), Timestamp { seconds, nanoseconds }, "{text}");
        };
        check("5", 5, 0);
        check("1700000000.123456789", 1_700_000_000, 123_456_789);
        check("0.5", 0, 500_000_000);
        check("-0.5", -1, 500_000_000);
        check("-1.5", -2, 500_000_000);
        check("-3", -3, 0);
        check("1.0000000019", 1, 1);
        assert!(parse_time("1e5").is_err());
        assert!(parse_time("").is_err());
    }
}
