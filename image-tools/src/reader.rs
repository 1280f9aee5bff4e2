//! The files of an image by their names, without extracting it.
//!
//! Every frame is checked against the table of contents before a byte of it is given.

use anyhow::{Context, Result, bail};
use image_format::{Entry, EntryIndex, EntryKind, FrameIndex, Hash, Toc};

use crate::image_file::ImageFile;
use crate::text;

/// Symbolic links followed on the way to a file, as Linux does.
const LINKS_MAX: usize = 40;
/// Zeros that a hole is read as, in one go.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Reads data; keeps the last frame, so that files one after the other cost each frame once.
pub(crate) struct Reader<'a> {
    image: &'a ImageFile,
    frame: Option<FrameIndex>,
    raw: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(image: &'a ImageFile) -> Self {
        Self { image, frame: None, raw: Vec::new() }
    }

    /// Calls `each` with the file's data and where it lies in the file, ascending; holes are left out.
    pub(crate) fn data(
        &mut self,
        entry: &Entry,
        each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for extent in self.image.toc.extents(entry) {
            self.load(extent.frame)?;
            let start = extent.frame_offset as usize;
            let part = self.raw.get(start..start.saturating_add(extent.len as usize));
            each(extent.file_offset, part.context("a file's data lies outside its frame")?)?;
        }
        Ok(())
    }

    /// As [`Reader::data`], with zeros for the holes: what a program reads.
    pub(crate) fn contents(
        &mut self,
        entry: &Entry,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let EntryKind::File { size, .. } = entry.kind else { bail!("it is not a file") };
        let mut at = 0;
        let zeros = |count: u64, each: &mut dyn FnMut(&[u8]) -> Result<()>| {
            let mut left = count;
            while left > 0 {
                let now = left.min(ZEROS.len() as u64);
                each(ZEROS.get(..usize::try_from(now)?).unwrap_or_default())?;
                left -= now;
            }
            anyhow::Ok(())
        };
        self.data(entry, &mut |offset, bytes| {
            zeros(offset - at, each)?;
            at = offset + bytes.len() as u64;
            each(bytes)
        })?;
        zeros(size - at, each)
    }

    /// The hash of what a program reads.
    pub(crate) fn contents_hash(&mut self, entry: &Entry) -> Result<Hash> {
        let mut hasher = blake3::Hasher::new();
        self.contents(entry, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        Ok(Hash::from(hasher.finalize()))
    }

    fn load(&mut self, index: FrameIndex) -> Result<()> {
        if self.frame == Some(index) {
            return Ok(());
        }
        self.frame = None;
        self.image.read_checked(index, &mut self.raw)?;
        self.frame = Some(index);
        Ok(())
    }
}

/// The entry that a program in the system would open by this path: links are followed within the tree.
pub(crate) fn find(toc: &Toc, path: &[u8]) -> Result<EntryIndex> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let missing = |path: &[u8]| format!("the image has no /{}", text::path(path));
    let mut rest: Vec<Vec<u8>> = path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect();
    let mut at = EntryIndex::ROOT;
    let mut links = 0;
    while let Some(name) = rest.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at = toc.entry(at).map_or(EntryIndex::ROOT, Entry::parent);
                continue;
            }
            _ => {}
        }
        let found = child(toc, at, &name).with_context(|| missing(path))?;
        let entry = toc.entry(found).with_context(|| missing(path))?;
        if entry.kind == EntryKind::Symlink {
            links += 1;
            if links > LINKS_MAX {
                bail!("/{}: too many symbolic links", text::path(path));
            }
            let target = toc.link_target(entry);
            if target.first() == Some(&b'/') {
                at = EntryIndex::ROOT;
            }
            rest.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
        } else {
            at = found;
        }
    }
    Ok(at)
}

/// What is called `name` in a directory.
pub(crate) fn child(toc: &Toc, directory: EntryIndex, name: &[u8]) -> Option<EntryIndex> {
    let depth = toc.entry(directory)?.depth() + 1;
    let first = usize::try_from(directory.get()).ok()? + 1;
    toc.entries()
        .skip(first)
        .take_while(|(_, entry)| entry.depth() >= depth)
        .find(|(_, entry)| entry.depth() == depth && toc.name(entry) == name)
        .map(|(index, _)| index)
}

/// The entry that has the inode: of a hard link, the one that it names.
pub(crate) fn inode(toc: &Toc, index: EntryIndex) -> Option<(EntryIndex, &Entry)> {
    let entry = toc.entry(index)?;
    match entry.kind {
        EntryKind::HardLink { to } => toc.entry(to).map(|entry| (to, entry)),
        _ => Some((index, entry)),
    }
}
