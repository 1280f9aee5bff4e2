//! The tar stream of an image for other programs: the one in its frames, with ACLs also in the form that bsdtar reads.

use std::fmt;
use std::io::Write;

use anyhow::{Context, Result};
use image_format::{END_OF_ARCHIVE, EntryKind, Node, data_padding, tar_header_with};
use image_source::acl_text;

use crate::image_file::ImageFile;
use crate::progress;
use crate::reader::{self, Reader};
use crate::text;

/// What was written.
pub(super) struct Summary {
    entries: usize,
    bytes: u64,
    sockets: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries with {} of data", self.entries, text::bytes(self.bytes))?;
        if self.sockets > 0 {
            write!(f, "; {} sockets left out, which tar has no kind for", self.sockets)?;
        }
        Ok(())
    }
}

/// Writes all members and the end of the archive.
pub(super) fn write(image: &ImageFile, out: &mut dyn Write) -> Result<Summary> {
    let toc = &image.toc;
    let mut reader = Reader::new(image);
    let mut summary = Summary { entries: 0, bytes: 0, sockets: 0 };
    let total = toc.frames().iter().map(|frame| u64::from(frame.raw_len)).sum();
    let bar = progress::bytes("exporting", total);
    for (index, entry) in toc.entries() {
        if entry.kind == EntryKind::Socket {
            summary.sockets += 1;
            continue;
        }
        let node = toc.node(index).context("an entry is not there")?;
        let target = match entry.kind {
            EntryKind::HardLink { to } => toc.node(to),
            _ => None,
        };
        let header = tar_header_with(&node, target.as_ref(), &acl_records(&node))?;
        out.write_all(&header).context("writing the archive")?;
        let (_, inode) = reader::inode(toc, index).context("an entry is not there")?;
        if matches!(entry.kind, EntryKind::File { .. }) {
            let mut bytes = 0;
            reader.data(inode, &mut |_, part| {
                bytes += part.len() as u64;
                bar.inc(part.len() as u64);
                out.write_all(part).context("writing the archive")
            })?;
            let padding = usize::try_from(data_padding(bytes))?;
            out.write_all(END_OF_ARCHIVE.get(..padding).unwrap_or_default())
                .context("writing the archive")?;
            summary.bytes += bytes;
        }
        summary.entries += 1;
    }
    out.write_all(&END_OF_ARCHIVE).context("writing the archive")?;
    bar.finish_and_clear();
    Ok(summary)
}

/// GNU tar takes ACLs from either form; bsdtar leaves `SCHILY.xattr.system.*` alone.
fn acl_records(node: &Node) -> Vec<(&'static str, Vec<u8>)> {
    let keys = [
        (&b"system.posix_acl_access"[..], "SCHILY.acl.access"),
        (b"system.posix_acl_default", "SCHILY.acl.default"),
    ];
    let record = |(name, key)| {
        let xattr = node.xattrs.iter().find(|xattr| xattr.name == name)?;
        Some((key, acl_text(&xattr.value)?.into_bytes()))
    };
    keys.into_iter().filter_map(record).collect()
}
