//! Tar headers (POSIX pax with what GNU tar 1.34 writes for sparse files and extended attributes).
//!
//! Written from a [`Node`] alone, so that equal nodes give equal bytes: no access or change times. Sockets have no
//! header; only the table of contents keeps them.

use tar_core::{EntryType, HeaderBuilder};

use crate::tree::{DataExtent, FileContent, Node, NodeKind, Timestamp, Tree};

/// What ends a tar stream: two zero blocks.
pub const END_OF_ARCHIVE: [u8; 1024] = [0; 1024];

const BLOCK: u64 = 512;
const NAME_FIELD: usize = 100;
/// Bytes of the name of a user or group beside its final zero.
const OWNER_FIELD: usize = 31;
/// Largest numbers of the octal fields of ustar: 8 bytes and 12 bytes with their final zero.
const OCTAL_7_MAX: u32 = 0o777_7777;
const OCTAL_11_MAX: u64 = 0o777_7777_7777;

/// File flags by the names that libarchive gives them in `SCHILY.fflags`.
const FLAG_NAMES: [(u32, &str); 8] = [
    (0x20, "sappnd"),
    (0x10, "schg"),
    (0x40, "nodump"),
    (0x80, "noatime"),
    (0x1_0000, "dirsync"),
    (0x4000, "journal"),
    (0x8, "sync"),
    (0x2_0000, "topdir"),
];

/// The file flag that `SCHILY.fflags` calls `name`.
#[must_use]
pub fn file_flag_by_name(name: &str) -> Option<u32> {
    FLAG_NAMES.iter().find(|(_, known)| *known == name).map(|(flag, _)| *flag)
}

/// A field that ustar cannot hold although a checked node should fit: a defect, not bad input.
#[derive(Debug, thiserror::Error)]
#[error("a tar header field does not fit")]
pub struct HeaderTooLong(#[from] tar_core::HeaderError);

/// Where each node's header and data lie in the tar stream.
#[derive(Debug, Clone)]
pub struct TarLayout {
    /// First byte of each node's header, and one past the last node's data.
    starts: Vec<u64>,
    header_bytes: Vec<u64>,
}

impl TarLayout {
    /// Lays out `tree` in its order.
    ///
    /// # Errors
    /// [`HeaderTooLong`], which the checks of [`Tree`] rule out.
    pub fn new(tree: &Tree) -> Result<Self, HeaderTooLong> {
        let mut starts = vec![0];
        let mut header_bytes = Vec::with_capacity(tree.nodes().len());
        let mut at = 0;
        for node in tree.nodes() {
            let header = tar_header(node, hard_link_target(tree, node))?.len() as u64;
            header_bytes.push(header);
            let data = match &node.kind {
                NodeKind::File(content) => content.data_bytes(),
                _ => 0,
            };
            at += header + data + data_padding(data);
            starts.push(at);
        }
        Ok(Self { starts, header_bytes })
    }

    /// First byte of a node's header.
    #[must_use]
    pub fn start(&self, index: usize) -> u64 {
        self.starts.get(index).copied().unwrap_or_else(|| self.entries_end())
    }

    /// First byte of a node's data.
    #[must_use]
    pub fn data_offset(&self, index: usize) -> u64 {
        self.start(index) + self.header_bytes.get(index).copied().unwrap_or_default()
    }

    /// Bytes of the stream without [`END_OF_ARCHIVE`].
    #[must_use]
    pub fn entries_end(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// Bytes of the stream.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.entries_end() + END_OF_ARCHIVE.len() as u64
    }
}

/// The entry that a hard link's header names.
#[must_use]
pub fn hard_link_target<'a>(tree: &'a Tree, node: &Node) -> Option<&'a Node> {
    match node.kind {
        NodeKind::HardLink { to } => tree.nodes().get(to),
        _ => None,
    }
}

/// Zeros after `data` bytes of a file's data.
#[must_use]
pub const fn data_padding(data: u64) -> u64 {
    data.next_multiple_of(BLOCK) - data
}

/// Everything that stands before a node's data in the tar stream: pax records, header, sparse map. Empty for a
/// socket. `target` is the entry that a hard link names; its mode and owner are shown for the link too.
///
/// # Errors
/// [`HeaderTooLong`], which the checks of [`Tree`] rule out.
pub fn tar_header(node: &Node, target: Option<&Node>) -> Result<Vec<u8>, HeaderTooLong> {
    tar_header_with(node, target, &[])
}

/// As [`tar_header`], with more pax records: keys and values, for readers that know an attribute by another name.
///
/// # Errors
/// As [`tar_header`].
pub fn tar_header_with(
    node: &Node,
    target: Option<&Node>,
    more: &[(&str, Vec<u8>)],
) -> Result<Vec<u8>, HeaderTooLong> {
    let sparse_map = match &node.kind {
        NodeKind::Socket => return Ok(Vec::new()),
        NodeKind::File(content) if !content.is_plain() => sparse_map(content),
        _ => Vec::new(),
    };
    let name = member_name(node);
    let link = match (&node.kind, target) {
        (NodeKind::Symlink { target }, _) => target.clone(),
        (_, Some(target)) => [b"./", target.path.as_slice()].concat(),
        _ => Vec::new(),
    };
    let size = match &node.kind {
        NodeKind::File(content) => content.data_bytes() + sparse_map.len() as u64,
        _ => 0,
    };
    let mut records = pax_records(node, &name, &link, size, !sparse_map.is_empty());
    for (key, value) in more {
        record(&mut records, key.as_bytes(), value);
    }
    let mut bytes = Vec::new();
    if !records.is_empty() {
        bytes.extend_from_slice(&pax_block(&name, &records)?);
    }
    let shown = if sparse_map.is_empty() {
        name
    } else {
        // Readers that know no sparse files see by this name that it is not the plain file.
        [b"./GNUSparseFile.0/", last_name(&name)].concat()
    };
    let inode = target.unwrap_or(node);
    bytes.extend_from_slice(&ustar_block(&node.kind, inode, &shown, &link, size)?);
    bytes.extend_from_slice(&sparse_map);
    Ok(bytes)
}

/// `./`, `./etc/`, `./etc/passwd`.
fn member_name(node: &Node) -> Vec<u8> {
    let mut name = [b"./", node.path.as_slice()].concat();
    if node.kind == NodeKind::Directory && !node.path.is_empty() {
        name.push(b'/');
    }
    name
}

fn ustar_block(
    kind: &NodeKind,
    inode: &Node,
    name: &[u8],
    link: &[u8],
    size: u64,
) -> Result<[u8; 512], HeaderTooLong> {
    let (entry_type, device) = match *kind {
        NodeKind::Directory => (EntryType::Directory, None),
        NodeKind::File(_) | NodeKind::Socket => (EntryType::Regular, None),
        NodeKind::Symlink { .. } => (EntryType::Symlink, None),
        NodeKind::CharDevice { major, minor } => (EntryType::Char, Some((major, minor))),
        NodeKind::BlockDevice { major, minor } => (EntryType::Block, Some((major, minor))),
        NodeKind::Fifo => (EntryType::Fifo, None),
        NodeKind::HardLink { .. } => (EntryType::Link, None),
    };
    let metadata = &inode.metadata;
    let short = |name: &'_ [u8]| if name.len() > OWNER_FIELD { Vec::new() } else { name.to_vec() };
    let octal_7 = |value: u32| u64::from(if value > OCTAL_7_MAX { 0 } else { value });
    let octal_11 = |value: u64| if value > OCTAL_11_MAX { 0 } else { value };
    let mut header = HeaderBuilder::new_ustar();
    header
        .path(clipped(name))?
        .mode(metadata.mode)?
        .uid(octal_7(metadata.uid))?
        .gid(octal_7(metadata.gid))?
        .size(octal_11(size))?
        .mtime(octal_11(u64::try_from(metadata.mtime.seconds).unwrap_or_default()))?
        .entry_type(entry_type)
        .username(short(&inode.names.user))?
        .groupname(short(&inode.names.group))?
        .link_name(clipped(link))?;
    if let Some((major, minor)) = device {
        header.device(major, minor)?;
    }
    Ok(*header.finish().as_bytes())
}

/// The extended header: its own block and its records, padded.
fn pax_block(name: &[u8], records: &[u8]) -> Result<Vec<u8>, HeaderTooLong> {
    let mut header = HeaderBuilder::new_ustar();
    header
        .path(clipped(&[b"./PaxHeaders/", last_name(name)].concat()))?
        .mode(0o644)?
        .uid(0)?
        .gid(0)?
        .size(records.len() as u64)?
        .mtime(0)?
        .entry_type(EntryType::XHeader);
    let mut bytes = header.finish().as_bytes().to_vec();
    bytes.extend_from_slice(records);
    pad_to_block(&mut bytes);
    Ok(bytes)
}

fn pax_records(node: &Node, name: &[u8], link: &[u8], size: u64, sparse: bool) -> Vec<u8> {
    let mut records = Vec::new();
    let metadata = &node.metadata;
    if name.len() > NAME_FIELD && !sparse {
        record(&mut records, b"path", name);
    }
    if link.len() > NAME_FIELD {
        record(&mut records, b"linkpath", link);
    }
    if size > OCTAL_11_MAX {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    if matches!(node.kind, NodeKind::HardLink { .. }) {
        return records;
    }
    if metadata.uid > OCTAL_7_MAX {
        record(&mut records, b"uid", metadata.uid.to_string().as_bytes());
    }
    if metadata.gid > OCTAL_7_MAX {
        record(&mut records, b"gid", metadata.gid.to_string().as_bytes());
    }
    for (key, name) in [("uname", &node.names.user), ("gname", &node.names.group)] {
        if name.len() > OWNER_FIELD {
            record(&mut records, key.as_bytes(), name);
        }
    }
    let seconds = metadata.mtime.seconds;
    if metadata.mtime.nanoseconds != 0 || !u64::try_from(seconds).is_ok_and(|seconds| seconds <= OCTAL_11_MAX)
    {
        record(&mut records, b"mtime", pax_time(metadata.mtime).as_bytes());
    }
    if let (true, NodeKind::File(content)) = (sparse, &node.kind) {
        record(&mut records, b"GNU.sparse.major", b"1");
        record(&mut records, b"GNU.sparse.minor", b"0");
        record(&mut records, b"GNU.sparse.name", name);
        record(&mut records, b"GNU.sparse.realsize", content.size.to_string().as_bytes());
    }
    let flags: Vec<&str> =
        FLAG_NAMES.iter().filter(|(flag, _)| metadata.flags & flag != 0).map(|(_, name)| *name).collect();
    if !flags.is_empty() {
        record(&mut records, b"SCHILY.fflags", flags.join(",").as_bytes());
    }
    for xattr in &node.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", xattr.name.as_slice()].concat(), &xattr.value);
    }
    records
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len = len.to_string().len() + rest;
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Decimal seconds, as short as they can be: `-0.5`, `1700000000.000000001`, `3`.
fn pax_time(time: Timestamp) -> String {
    let (sign, seconds, nanoseconds) = if time.seconds < 0 && time.nanoseconds > 0 {
        ("-", time.seconds.saturating_add(1).unsigned_abs(), 1_000_000_000 - time.nanoseconds)
    } else {
        (if time.seconds < 0 { "-" } else { "" }, time.seconds.unsigned_abs(), time.nanoseconds)
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// GNU sparse format 1.0: the count of extents and each one's offset and length, one number per line, padded. A file
/// that ends in a hole gets a last, empty extent at its end, as GNU tar does.
fn sparse_map(content: &FileContent) -> Vec<u8> {
    let mut extents = content.extents.clone();
    if extents.last().is_none_or(|last| last.offset + last.len < content.size) {
        extents.push(DataExtent { offset: content.size, len: 0 });
    }
    let mut map = format!("{}\n", extents.len()).into_bytes();
    for extent in &extents {
        map.extend_from_slice(format!("{}\n{}\n", extent.offset, extent.len).as_bytes());
    }
    pad_to_block(&mut map);
    map
}

fn pad_to_block(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

fn clipped(name: &[u8]) -> &[u8] {
    name.get(..NAME_FIELD).unwrap_or(name)
}

fn last_name(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    name.rsplit(|&byte| byte == b'/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::{pax_time, record};
    use crate::tree::Timestamp;

    #[test]
    fn record_length_counts_itself() {
        for value in ["", "x", &"y".repeat(85), &"z".repeat(90), &"z".repeat(984), &"z".repeat(9985)] {
            let mut bytes = Vec::new();
            record(&mut bytes, b"path", value.as_bytes());
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert_eq!(
                text.split(' ').next().unwrap().parse::<usize>().unwrap(),
                bytes.len(),
                "{}",
                value.len()
            );
        }
    }

    #[test]
    fn times_before_1970_and_fractions() {
        let time = |seconds, nanoseconds| pax_time(Timestamp { seconds, nanoseconds });
        assert_eq!(time(3, 0), "3");
        assert_eq!(time(0, 1), "0.000000001");
        assert_eq!(time(-1, 500_000_000), "-0.5");
        assert_eq!(time(-2, 500_000_000), "-1.5");
        assert_eq!(time(-7, 0), "-7");
        assert_eq!(time(1_700_000_000, 100), "1700000000.0000001");
        assert_eq!(time(20, 0), "20");
    }
}
