//! Two images -> a delta image: what a node that has the first needs to get the second.
//!
//! ```text
//! TOC         the second image's compressed table of contents, as in its file
//! manifest    its manifest
//! files/      contents that the first image has nowhere, each once, called by the first entry that needs it
//! ```
//! It is an image like any other, so it is signed, served, fetched and checked like any other.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use image_apply::staged_name;
use image_format::{
    ContentId, DELTA_FILES, DELTA_MANIFEST, DELTA_TABLE, Delta, EntryIndex, EntryKind, Extent, FileContent,
    FrameIndex, Hash, Metadata, Mode, Node, NodeKind, OwnerNames, Toc, Tree,
};

use crate::build::{self, BuildOptions};
use crate::contents::Contents;
use crate::image_file::{ImageFile, read_range, require_companion};

/// What every node has its own of, so that no node has the image's: always sent, because they are small and a node
/// would have to fetch whole frames for them. The last character of a directory is `/`.
const OF_ONE_NODE: [&str; 22] = [
    "boot/grub/grub.cfg",
    "boot/grub/grubenv",
    "boot/grub2/",
    "etc/NetworkManager/system-connections/",
    "etc/crypttab",
    "etc/default/grub",
    "etc/fstab",
    "etc/group",
    "etc/gshadow",
    "etc/hostname",
    "etc/hosts",
    "etc/machine-id",
    "etc/netplan/",
    "etc/network/",
    "etc/passwd",
    "etc/resolv.conf",
    "etc/shadow",
    "etc/ssh/",
    "etc/subgid",
    "etc/systemd/network/",
    "root/.ssh/",
    "var/lib/dbus/machine-id",
];
/// Larger ones are not sent for that reason: nobody has his own of those.
const OF_ONE_NODE_BYTES_MAX: u64 = 64 << 10;
/// Uncompressed frames that are kept: neighbours are read together, by as many threads.
const FRAMES_KEPT: usize = 8;

/// From what to what.
#[derive(Debug, Args)]
pub(crate) struct DeltaArguments {
    /// The image that nodes have.
    base: PathBuf,
    /// The image that they will have.
    new: PathBuf,
    #[command(flatten)]
    build: BuildOptions,
    /// A minisign public key that may have signed both. May be repeated.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
}

/// Makes the delta image.
pub(crate) fn run(arguments: &DeltaArguments) -> Result<()> {
    let base = ImageFile::open(&arguments.base, &arguments.trust)?;
    let new = ImageFile::open(&arguments.new, &arguments.trust)?;
    for image in [&base, &new] {
        let mode = image.require_manifest()?.mode;
        ensure!(mode == Mode::Files, "{} is not an image of files", image.path.display());
    }
    let delta = Delta { base: base.toc.image_id(), image: new.toc.image_id() };
    ensure!(delta.base != delta.image, "the two images are the same");
    let (tree, sources) = choose(&base.toc, &new)?;
    let contents = DeltaContents { new: &new, sources, frames: Mutex::default() };
    let files = tree.nodes().len().saturating_sub(4);
    let bytes: u64 = contents.sources.iter().map(Source::bytes).sum();
    eprintln!("{files} contents with {} are not in {}", crate::text::bytes(bytes), base.path.display());
    build::build_delta(&tree, &contents, &arguments.build, delta)
}

/// Where a node's data is.
enum Source {
    Bytes(Vec<u8>),
    Entry(EntryIndex, u64),
}

impl Source {
    const fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(_) => 0,
            Self::Entry(_, bytes) => *bytes,
        }
    }
}

/// The delta image's tree and where each node's data comes from.
fn choose(base: &Toc, new: &ImageFile) -> Result<(Tree, Vec<Source>)> {
    let known: HashSet<ContentId> = base.entries().filter_map(|(_, entry)| base.content_id(entry)).collect();
    let table = read_range(&new.file, new.header.toc_offset, new.header.toc_len)?;
    let manifest = require_companion(&new.path, "manifest")?;
    let mut nodes = vec![
        (node("", NodeKind::Directory), Source::Bytes(Vec::new())),
        small(DELTA_TABLE, table),
        (node(DELTA_FILES, NodeKind::Directory), Source::Bytes(Vec::new())),
    ];
    let mut sent: HashSet<Hash> = HashSet::new();
    for (index, entry) in new.toc.entries() {
        let EntryKind::File { size, hash: Some(hash), sparse } = entry.kind else { continue };
        let is_known = new.toc.content_id(entry).is_some_and(|content| known.contains(&content));
        let needed = !is_known || is_of_one_node(&new.toc.path(index), size);
        // Nodes find a file with holes by its place in the table, any other by its hash.
        if needed && (sparse || sent.insert(hash)) {
            let Some(Node { kind: kind @ NodeKind::File(_), .. }) = new.toc.node(index) else { continue };
            let bytes = if let NodeKind::File(content) = &kind { content.data_bytes() } else { 0 };
            let path = format!("{DELTA_FILES}/{}", staged_name(index));
            nodes.push((node(&path, kind), Source::Entry(index, bytes)));
        }
    }
    nodes.push(small(DELTA_MANIFEST, manifest));
    let (nodes, sources): (Vec<Node>, Vec<Source>) = nodes.into_iter().unzip();
    let tree = Tree::new(nodes).map_err(|error| anyhow!("the delta image cannot hold {error}"))?;
    Ok((tree, sources))
}

fn small(path: &str, bytes: Vec<u8>) -> (Node, Source) {
    (node(path, NodeKind::File(FileContent::plain(bytes.len() as u64))), Source::Bytes(bytes))
}

/// Equal deltas are equal bytes, so nothing here is of now or of whoever makes it.
fn node(path: &str, kind: NodeKind) -> Node {
    let mode = if kind == NodeKind::Directory { 0o700 } else { 0o600 };
    let metadata = Metadata { mode, ..Metadata::default() };
    Node { path: path.as_bytes().to_vec(), metadata, names: OwnerNames::default(), xattrs: Vec::new(), kind }
}

fn is_of_one_node(path: &[u8], size: u64) -> bool {
    let is_named = |own: &str| {
        if own.ends_with('/') { path.starts_with(own.as_bytes()) } else { path == own.as_bytes() }
    };
    size <= OF_ONE_NODE_BYTES_MAX && OF_ONE_NODE.iter().any(|own| is_named(own))
}

/// Data out of the frames of the new image.
struct DeltaContents<'a> {
    new: &'a ImageFile,
    /// By node of the delta image's tree.
    sources: Vec<Source>,
    /// The last ones used, the latest at the end.
    frames: Mutex<Vec<(FrameIndex, Arc<Vec<u8>>)>>,
}

impl Contents for DeltaContents<'_> {
    fn read_part(
        &self,
        index: usize,
        _: &Node,
        _: &FileContent,
        part: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match self.sources.get(index).context("a node of another tree")? {
            Source::Bytes(bytes) => each(within(bytes, 0, &part)),
            Source::Entry(entry, _) => {
                let entry = self.new.toc.entry(*entry).context("an entry of another table")?;
                let mut at = 0;
                for extent in self.new.toc.extents(entry) {
                    let end = at + u64::from(extent.len);
                    if at < part.end && end > part.start {
                        each(within(&self.part(extent)?, at, &part))?;
                    }
                    at = end;
                }
                Ok(())
            }
        }
    }
}

/// What of `part` lies in these bytes, the first of which is at `at`.
fn within<'a>(bytes: &'a [u8], at: u64, part: &Range<u64>) -> &'a [u8] {
    let index = |place: u64| usize::try_from(place.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(index(part.start)..index(part.end)).unwrap_or_default()
}

impl DeltaContents<'_> {
    fn part(&self, extent: &Extent) -> Result<Vec<u8>> {
        let frame = self.frame(extent.frame)?;
        let from = extent.frame_offset as usize;
        let part = frame.get(from..from + extent.len as usize);
        Ok(part.context("an extent beyond its frame")?.to_vec())
    }

    fn frame(&self, index: FrameIndex) -> Result<Arc<Vec<u8>>> {
        let kept = || self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, frame)) = kept().iter().find(|(known, _)| *known == index) {
            return Ok(Arc::clone(frame));
        }
        let mut raw = Vec::new();
        self.new.read_checked(index, &mut raw)?;
        let raw = Arc::new(raw);
        let mut kept = kept();
        if kept.len() >= FRAMES_KEPT {
            kept.remove(0);
        }
        kept.push((index, Arc::clone(&raw)));
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::{is_of_one_node, within};

    #[test]
    fn parts_of_data_are_cut_out_of_what_is_read() {
        assert_eq!(within(b"abcdef", 0, &(0..6)), b"abcdef");
        assert_eq!(within(b"abcdef", 10, &(12..14)), b"cd");
        assert_eq!(within(b"abcdef", 10, &(0..12)), b"ab");
        assert_eq!(within(b"abcdef", 10, &(14..99)), b"ef");
        assert_eq!(within(b"abcdef", 10, &(16..99)), b"");
    }

    #[test]
    fn what_each_node_has_its_own_of_is_named_by_path() {
        for (path, size, expected) in [
            ("etc/fstab", 100, true),
            ("etc/fstab", 1 << 20, false),
            ("etc/fstab.d", 1, false),
            ("etc/netplan/x.yaml", 1, true),
            ("usr/etc/fstab", 1, false),
        ] {
            assert_eq!(is_of_one_node(path.as_bytes(), size), expected, "{path}");
        }
    }
}
