//! Bytes that nobody trusts -> a checked [`Toc`].

use std::ops::Range;

use super::{
    Entry, EntryIndex, EntryKind, Extent, FrameEntry, FrameIndex, KIND_BLOCK_DEVICE, KIND_CHAR_DEVICE,
    KIND_DIRECTORY, KIND_FIFO, KIND_FILE, KIND_HARD_LINK, KIND_SOCKET, KIND_SPARSE_FILE, KIND_SYMLINK, Owner,
    TOC_MAGIC, Toc, TocError, TocLimits,
};
use crate::bytes::{Malformed, Reader};
use crate::container::{CONTAINER_BYTES_MAX, CONTAINER_BYTES_MIN, FRAME_RAW_BYTES_MAX};
use crate::id::Hash;
use crate::tree::{
    DataExtent, FileContent, Metadata, NAME_BYTES_MAX, OwnerNames, PATH_BYTES_MAX, Timestamp,
    XATTR_VALUE_BYTES_MAX, Xattr, check_content, check_device, check_metadata, check_name, check_owner_name,
    check_symlink, check_xattrs,
};

/// Fewest bytes of an entry, a frame, a set, an owner and an extent in the table; bounds what a count can make us
/// reserve.
const ENTRY_BYTES_MIN: usize = 4;
const FRAME_BYTES_MIN: usize = 35;
const XATTR_SET_BYTES_MIN: usize = 1;
const OWNER_BYTES_MIN: usize = 4;
const DATA_EXTENT_BYTES_MIN: usize = 2;

impl From<Malformed> for TocError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.at)
    }
}

/// See [`Toc::parse`].
pub(super) fn parse(bytes: Vec<u8>, limits: &TocLimits) -> Result<Toc, TocError> {
    let claimed = bytes.len() as u64;
    let bytes_max = limits.toc_bytes_max.min(u64::from(u32::MAX));
    check_limit("a length", claimed, bytes_max)?;
    let mut parser = Parser::new(&bytes);
    parser.read_all(limits)?;
    let Parser { container_bytes, frames, entries, extents, xattr_sets, owners, .. } = parser;
    let frame_extents = frame_bounds(&frames, &extents);
    let image_id = Hash::of(&bytes);
    Ok(Toc { bytes, image_id, container_bytes, frames, entries, extents, frame_extents, xattr_sets, owners })
}

/// Everything that is read so far, and where in the stream and in the tree we are.
struct Parser<'a> {
    reader: Reader<'a>,
    /// Whether an entry holds its owner itself, without names.
    is_version_1: bool,
    container_bytes: u64,
    xattr_sets: Vec<Vec<Xattr>>,
    owners: Vec<Owner>,
    frames: Vec<FrameEntry>,
    entries: Vec<Entry>,
    extents: Vec<Extent>,
    /// End of the last file's data in the tar stream.
    data_end: u64,
    /// Frame that holds `data_end`.
    data_frame: usize,
    /// Entries from the root to the last one.
    open: Vec<EntryIndex>,
    /// Length of the path of each of `open`.
    open_path_bytes: Vec<usize>,
    /// The last name seen at each depth of `open`.
    open_names: Vec<&'a [u8]>,
}

fn check_limit(what: &'static str, value: u64, limit: u64) -> Result<(), TocError> {
    if value > limit { Err(TocError::Limit { what, value, limit }) } else { Ok(()) }
}

impl<'a> Parser<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(bytes),
            is_version_1: false,
            container_bytes: 0,
            xattr_sets: Vec::new(),
            owners: Vec::new(),
            frames: Vec::new(),
            entries: Vec::new(),
            extents: Vec::new(),
            data_end: 0,
            data_frame: 0,
            open: Vec::new(),
            open_path_bytes: Vec::new(),
            open_names: Vec::new(),
        }
    }

    fn read_all(&mut self, limits: &TocLimits) -> Result<(), TocError> {
        if self.reader.take(TOC_MAGIC.len()).ok() != Some(TOC_MAGIC) {
            return Err(TocError::Magic);
        }
        self.is_version_1 = match self.reader.byte()? {
            b'1' => true,
            b'2' => false,
            _ => return Err(TocError::Version),
        };
        self.container_bytes = self.reader.varint()?;
        let allowed = CONTAINER_BYTES_MIN..=CONTAINER_BYTES_MAX;
        if !allowed.contains(&self.container_bytes) || !self.container_bytes.is_power_of_two() {
            let value = self.container_bytes;
            return Err(TocError::Limit { what: "a container length", value, limit: CONTAINER_BYTES_MAX });
        }
        let sets = self.count("a number of attribute sets", limits.entries_max, XATTR_SET_BYTES_MIN)?;
        let owners = if self.is_version_1 {
            0
        } else {
            self.count("a number of owners", limits.entries_max, OWNER_BYTES_MIN)?
        };
        let frames = self.count("a number of frames", limits.frames_max, FRAME_BYTES_MIN)?;
        let entries = self.count("a number of entries", limits.entries_max, ENTRY_BYTES_MIN)?;
        // Set 0 is the empty one, so that an entry's number can be used as it is.
        self.xattr_sets.push(Vec::new());
        for _ in 0..sets {
            let set = self.read_xattr_set()?;
            self.xattr_sets.push(set);
        }
        // So is owner 0 one without names.
        self.owners.push(Owner::default());
        for _ in 0..owners {
            let owner = self.read_owner()?;
            self.owners.push(owner);
        }
        self.frames.reserve_exact(frames);
        for index in 0..frames {
            let frame = self.read_frame(index as u64, limits.image_bytes)?;
            self.frames.push(frame);
        }
        self.entries.reserve_exact(entries);
        for _ in 0..entries {
            self.read_entry()?;
        }
        if self.entries.is_empty() || self.reader.remaining() > 0 {
            return Err(TocError::Malformed(self.reader.position()));
        }
        Ok(())
    }

    /// A count that the remaining bytes can possibly hold.
    fn count(&mut self, what: &'static str, limit: u64, bytes_each: usize) -> Result<usize, TocError> {
        let value = self.reader.varint()?;
        let possible = (self.reader.remaining() / bytes_each) as u64;
        check_limit(what, value, limit.min(possible).min(u64::from(u32::MAX)))?;
        usize::try_from(value).map_err(|_| TocError::Limit { what, value, limit })
    }

    fn read_xattr_set(&mut self) -> Result<Vec<Xattr>, TocError> {
        let at = self.reader.position();
        let mut set = Vec::new();
        for _ in 0..self.count("a number of attributes", u64::MAX, 2)? {
            let name = self.reader.counted(NAME_BYTES_MAX)?.to_vec();
            let value = self.reader.counted(XATTR_VALUE_BYTES_MAX)?.to_vec();
            set.push(Xattr { name, value });
        }
        if set.is_empty() || check_xattrs(&set).is_err() {
            return Err(TocError::Malformed(at));
        }
        Ok(set)
    }

    fn read_owner(&mut self) -> Result<Owner, TocError> {
        let at = self.reader.position();
        let (uid, gid) = (self.reader.varint_u32()?, self.reader.varint_u32()?);
        let (user, group) = (self.reader.counted(NAME_BYTES_MAX)?, self.reader.counted(NAME_BYTES_MAX)?);
        if check_owner_name(user).is_err() || check_owner_name(group).is_err() {
            return Err(TocError::Malformed(at));
        }
        Ok(Owner { uid, gid, names: OwnerNames { user: user.into(), group: group.into() } })
    }

    fn read_frame(&mut self, index: u64, image_bytes: u64) -> Result<FrameEntry, TocError> {
        let wrong = |what| TocError::Frame { frame: index, what };
        let (end, raw_end) = self
            .frames
            .last()
            .map_or((0, 0), |frame| (frame.range().end, frame.raw_offset + u64::from(frame.raw_len)));
        let offset = end.checked_add(self.reader.varint()?).ok_or_else(|| wrong("it begins nowhere"))?;
        let len = self.reader.varint_u32()?;
        let raw_len = self.reader.varint_u32()?;
        let hash = Hash::new(self.reader.array()?);
        if raw_len == 0 || raw_len > FRAME_RAW_BYTES_MAX {
            return Err(wrong("it claims to hold nothing, or more than a frame may"));
        }
        let last = (u64::from(len).checked_sub(1)).and_then(|rest| offset.checked_add(rest));
        let last = last.ok_or_else(|| wrong("it is empty or ends nowhere"))?;
        if last >= image_bytes || last > i64::MAX.cast_unsigned() {
            return Err(wrong("it lies outside the image file"));
        }
        if offset / self.container_bytes != last / self.container_bytes {
            return Err(wrong("it crosses a container boundary"));
        }
        Ok(FrameEntry { offset, len, raw_len, raw_offset: raw_end, hash })
    }

    fn read_entry(&mut self) -> Result<(), TocError> {
        let index = self.entries.len();
        let kind = self.reader.byte()?;
        let depth = self.reader.varint_u32()?;
        let name_start = self.reader.position();
        let name = self.reader.counted(NAME_BYTES_MAX)?;
        let name_range = text_range(self.reader.position() - name.len(), name.len());
        let wrong = |what| TocError::Entry {
            entry: index as u64,
            name: String::from_utf8_lossy(name).into_owned(),
            what,
        };
        let index = u32::try_from(index).map(EntryIndex).map_err(|_| TocError::Malformed(name_start))?;
        let parent = self.place(index, kind, depth, name).map_err(wrong)?;
        let mut entry = Entry {
            kind: EntryKind::Directory,
            metadata: Metadata::default(),
            parent,
            depth,
            name: name_range,
            target: 0..0,
            extents: 0..0,
            xattr_set: 0,
            owner: 0,
        };
        if kind == KIND_HARD_LINK {
            entry.kind = self.read_hard_link()?.map_err(wrong)?;
        } else {
            self.read_metadata(kind, &mut entry)?.map_err(wrong)?;
            self.read_kind(kind, index, &mut entry)?.map_err(wrong)?;
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Checks that the entry lies in a directory that is still open and comes after its siblings.
    fn place(
        &mut self,
        index: EntryIndex,
        kind: u8,
        depth: u32,
        name: &'a [u8],
    ) -> Result<EntryIndex, &'static str> {
        let depth = depth as usize;
        if index == EntryIndex::ROOT {
            if depth != 0 || !name.is_empty() || kind != KIND_DIRECTORY {
                return Err("the first entry is not the root directory");
            }
            self.open = vec![index];
            self.open_path_bytes = vec![0];
            self.open_names = vec![&[]];
            return Ok(index);
        }
        if depth == 0 || depth > self.open.len() {
            return Err("it lies in no directory that was listed before it");
        }
        check_name(name)?;
        let parent = self.open.get(depth - 1).copied().ok_or("it has no parent")?;
        let is_directory = |entry: &Entry| entry.kind == EntryKind::Directory;
        if !self.entries.get(parent.0 as usize).is_some_and(is_directory) {
            return Err("its parent is not a directory");
        }
        if self.open_names.get(depth).is_some_and(|sibling| *sibling >= name) {
            return Err("names are not in order, or one appears twice");
        }
        let above = self.open_path_bytes.get(depth - 1).copied().unwrap_or_default();
        let path_bytes = if above == 0 { name.len() } else { above + 1 + name.len() };
        if path_bytes > PATH_BYTES_MAX {
            return Err("its path is too long");
        }
        self.open.truncate(depth);
        self.open.push(index);
        self.open_path_bytes.truncate(depth);
        self.open_path_bytes.push(path_bytes);
        self.open_names.truncate(depth);
        self.open_names.push(name);
        Ok(parent)
    }

    fn read_hard_link(&mut self) -> Result<Result<EntryKind, &'static str>, TocError> {
        let to = self.reader.varint_u32()?;
        Ok(match self.entries.get(to as usize).map(|entry| &entry.kind) {
            None => Err("a hard link names no earlier entry"),
            Some(EntryKind::Directory | EntryKind::HardLink { .. }) => {
                Err("a hard link names a directory or another hard link")
            }
            Some(_) => Ok(EntryKind::HardLink { to: EntryIndex(to) }),
        })
    }

    fn read_metadata(&mut self, kind: u8, entry: &mut Entry) -> Result<Result<(), &'static str>, TocError> {
        let mode = self.reader.varint_u32()?;
        let first = self.reader.varint_u32()?;
        let (uid, gid) = if self.is_version_1 {
            (first, self.reader.varint_u32()?)
        } else {
            entry.owner = first.saturating_add(1);
            match self.owners.get(entry.owner as usize) {
                Some(owner) => (owner.uid, owner.gid),
                None => return Ok(Err("it names an owner that is not there")),
            }
        };
        let seconds = self.reader.signed()?;
        let nanoseconds = self.reader.varint_u32()?;
        let flags = self.reader.varint_u32()?;
        let set = self.reader.varint_u32()?;
        entry.metadata = Metadata { mode, uid, gid, mtime: Timestamp { seconds, nanoseconds }, flags };
        entry.xattr_set = set;
        if set as usize >= self.xattr_sets.len() {
            return Ok(Err("it names an attribute set that is not there"));
        }
        let has_flags = matches!(kind, KIND_DIRECTORY | KIND_FILE | KIND_SPARSE_FILE);
        Ok(check_metadata(&entry.metadata, has_flags))
    }

    fn read_kind(
        &mut self,
        kind: u8,
        index: EntryIndex,
        entry: &mut Entry,
    ) -> Result<Result<(), &'static str>, TocError> {
        entry.kind = match kind {
            KIND_DIRECTORY => EntryKind::Directory,
            KIND_FIFO => EntryKind::Fifo,
            KIND_SOCKET => EntryKind::Socket,
            KIND_SYMLINK => {
                let target = self.reader.counted(PATH_BYTES_MAX)?;
                entry.target = text_range(self.reader.position() - target.len(), target.len());
                if let Err(what) = check_symlink(target) {
                    return Ok(Err(what));
                }
                EntryKind::Symlink
            }
            KIND_CHAR_DEVICE | KIND_BLOCK_DEVICE => {
                let (major, minor) = (self.reader.varint_u32()?, self.reader.varint_u32()?);
                if let Err(what) = check_device(major, minor) {
                    return Ok(Err(what));
                }
                if kind == KIND_CHAR_DEVICE {
                    EntryKind::CharDevice { major, minor }
                } else {
                    EntryKind::BlockDevice { major, minor }
                }
            }
            KIND_FILE | KIND_SPARSE_FILE => match self.read_file(kind == KIND_SPARSE_FILE, index)? {
                Ok((kind, extents)) => {
                    entry.extents = extents;
                    kind
                }
                Err(what) => return Ok(Err(what)),
            },
            _ => return Ok(Err("its kind is unknown")),
        };
        Ok(Ok(()))
    }

    #[allow(clippy::type_complexity, reason = "outer: the bytes end; inner: the file is impossible")]
    fn read_file(
        &mut self,
        sparse: bool,
        index: EntryIndex,
    ) -> Result<Result<(EntryKind, Range<u32>), &'static str>, TocError> {
        let size = self.reader.varint()?;
        let content = if sparse {
            FileContent { size, extents: self.read_data_extents()? }
        } else {
            FileContent::plain(size)
        };
        if let Err(what) = check_content(&content) {
            return Ok(Err(what));
        }
        if sparse && content.is_plain() {
            return Ok(Err("a file without holes is listed as one with holes"));
        }
        if content.extents.is_empty() {
            return Ok(Ok((EntryKind::File { size, hash: None, sparse }, 0..0)));
        }
        let gap = self.reader.varint()?;
        let hash = Some(Hash::new(self.reader.array()?));
        Ok(self
            .locate(gap, &content.extents, index)
            .map(|extents| (EntryKind::File { size, hash, sparse }, extents)))
    }

    fn read_data_extents(&mut self) -> Result<Vec<DataExtent>, TocError> {
        let mut extents = Vec::new();
        let mut end = 0_u64;
        for _ in 0..self.count("a number of extents", u64::MAX, DATA_EXTENT_BYTES_MIN)? {
            let at = self.reader.position();
            let offset = end.checked_add(self.reader.varint()?).ok_or(TocError::Malformed(at))?;
            let len = self.reader.varint()?;
            end = offset.checked_add(len).ok_or(TocError::Malformed(at))?;
            extents.push(DataExtent { offset, len });
        }
        Ok(extents)
    }

    /// Finds the frames that hold a file's data, which begins `gap` bytes of tar stream after the previous file's.
    fn locate(
        &mut self,
        gap: u64,
        data: &[DataExtent],
        index: EntryIndex,
    ) -> Result<Range<u32>, &'static str> {
        const OUTSIDE: &str = "its data lies outside the frames";
        let first = self.extents.len();
        let mut at = self.data_end.checked_add(gap).ok_or(OUTSIDE)?;
        for run in data {
            let mut file_offset = run.offset;
            let mut left = run.len;
            while left > 0 {
                let frame = self.frames.get(self.data_frame).ok_or(OUTSIDE)?;
                let frame_offset = at.checked_sub(frame.raw_offset).ok_or(OUTSIDE)?;
                let in_frame = u64::from(frame.raw_len).saturating_sub(frame_offset);
                if in_frame == 0 {
                    self.data_frame += 1;
                    continue;
                }
                let len = in_frame.min(left);
                let narrow = |value: u64| u32::try_from(value).map_err(|_| OUTSIDE);
                let frame = narrow(self.data_frame as u64).map(FrameIndex)?;
                let (frame_offset, short) = (narrow(frame_offset)?, narrow(len)?);
                self.extents.push(Extent { entry: index, frame, frame_offset, file_offset, len: short });
                at = at.checked_add(len).ok_or(OUTSIDE)?;
                file_offset += len;
                left -= len;
            }
        }
        self.data_end = at;
        let bound = |value: usize| u32::try_from(value).map_err(|_| "there are too many extents");
        Ok(bound(first)?..bound(self.extents.len())?)
    }
}

/// `at` and `len` lie within a table of at most 4 GiB.
fn text_range(at: usize, len: usize) -> Range<u32> {
    let start = u32::try_from(at).unwrap_or(u32::MAX);
    start..start.saturating_add(u32::try_from(len).unwrap_or(u32::MAX))
}

/// The first extent of each frame, and one past the last; extents ascend by frame.
fn frame_bounds(frames: &[FrameEntry], extents: &[Extent]) -> Vec<u32> {
    let mut bounds = vec![0_u32; frames.len() + 1];
    for extent in extents {
        if let Some(bound) = bounds.get_mut(extent.frame.0 as usize + 1) {
            *bound += 1;
        }
    }
    let mut sum = 0;
    for bound in &mut bounds {
        sum += *bound;
        *bound = sum;
    }
    bounds
}
