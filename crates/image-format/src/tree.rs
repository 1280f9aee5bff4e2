//! A root tree as values: what a builder makes from a directory or a tar, and what tar stream and table of
//! contents are both made from.

use std::sync::Arc;

/// The file flags (`FS_IOC_GETFLAGS`, linux/fs.h) that an image keeps: those which a person sets and which mean the
/// same on every file system: S, i, a, d, A, j, D, T of chattr(1).
pub const FILE_FLAGS_KEPT: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x4000 | 0x1_0000 | 0x2_0000;

/// The one file of an image of a partition: as large as the partition, its data what the file system uses.
pub const PARTITION_FILE: &[u8] = b"partition.raw";

/// `NAME_MAX` of Linux.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// `PATH_MAX` of Linux without its final zero; relative paths beneath the root.
pub(crate) const PATH_BYTES_MAX: usize = 4095;
/// `XATTR_SIZE_MAX` of Linux.
pub(crate) const XATTR_VALUE_BYTES_MAX: usize = 65536;
/// Device numbers of Linux: 12 bits of major, 20 of minor.
pub(crate) const MAJOR_MAX: u32 = (1 << 12) - 1;
/// See [`MAJOR_MAX`].
pub(crate) const MINOR_MAX: u32 = (1 << 20) - 1;
/// `off_t` is signed.
pub(crate) const FILE_BYTES_MAX: u64 = i64::MAX.cast_unsigned();

/// A time of the file system: seconds since 1970 (negative before) and nanoseconds within the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// 0..1,000,000,000.
    pub nanoseconds: u32,
}

/// What every inode has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    /// Owner; not `u32::MAX`, which chown(2) takes for "leave it".
    pub uid: u32,
    /// Group; the same.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// File flags; a subset of [`FILE_FLAGS_KEPT`], for files and directories only.
    pub flags: u32,
}

/// What an inode's owner and group are called in the system that the tree is of; empty where nobody knows. Whoever
/// writes the tree goes by the numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerNames {
    /// Of [`Metadata::uid`].
    pub user: Arc<[u8]>,
    /// Of [`Metadata::gid`].
    pub group: Arc<[u8]>,
}

impl OwnerNames {
    /// These names, without what no account can be called.
    #[must_use]
    pub fn possible(user: &[u8], group: &[u8]) -> Self {
        let keep = |name| if check_owner_name(name).is_ok() { Arc::from(name) } else { Arc::default() };
        Self { user: keep(user), group: keep(group) }
    }
}

/// One extended attribute. ACLs are the kernel's binary `system.posix_acl_*`, capabilities `security.capability`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// With its namespace: `user.comment`.
    pub name: Vec<u8>,
    /// As the kernel gives it.
    pub value: Vec<u8>,
}

/// A run of a file's bytes that is data; what no extent covers is a hole and reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataExtent {
    /// First byte, from the beginning of the file.
    pub offset: u64,
    /// Bytes, at least one.
    pub len: u64,
}

/// A regular file's shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileContent {
    /// Bytes, holes counted.
    pub size: u64,
    /// Ascending, neither touching nor overlapping.
    pub extents: Vec<DataExtent>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileContent),
    /// A symbolic link.
    Symlink {
        /// Where it points, unresolved.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Another name of an earlier entry's inode.
    HardLink {
        /// Index of that entry in the tree.
        to: usize,
    },
}

/// One name in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Path beneath the root with `/` between names; empty for the root itself.
    pub path: Vec<u8>,
    /// Owner, mode, time, flags; the default for a hard link, whose inode is elsewhere.
    pub metadata: Metadata,
    /// What owner and group are called; empty for a hard link.
    pub names: OwnerNames,
    /// Ascending by name, no name twice; empty for a hard link.
    pub xattrs: Vec<Xattr>,
    /// What it is.
    pub kind: NodeKind,
}

/// A checked tree: the root first, a directory before what is in it, names within a directory ascending by bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
}

/// A tree that no image can carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("/{path}: {what}")]
pub struct TreeError {
    /// The entry, with bytes that are not UTF-8 shown as marks.
    pub path: String,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Tree {
    /// Checks `nodes` and takes them.
    ///
    /// # Errors
    /// The first entry that breaks a rule of [`Node`] or of the order.
    pub fn new(nodes: Vec<Node>) -> Result<Self, TreeError> {
        let mut open: Vec<&[u8]> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            check_place(index, node, nodes.get(index.wrapping_sub(1)), &mut open)
                .and_then(|()| check_inode(index, node, &nodes))
                .map_err(|what| TreeError { path: String::from_utf8_lossy(&node.path).into_owned(), what })?;
        }
        if nodes.is_empty() {
            return Err(TreeError { path: String::new(), what: "a tree has at least its root" });
        }
        Ok(Self { nodes })
    }

    /// In order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node at exactly `path`, found by the order.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<(usize, &Node)> {
        let key = |path: &[u8]| path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let wanted = key(path);
        let index = self
            .nodes
            .binary_search_by(|node| {
                if node.path.is_empty() { vec![].cmp(&wanted) } else { key(&node.path).cmp(&wanted) }
            })
            .ok()?;
        self.nodes.get(index).map(|node| (index, node))
    }
}

/// Checks the order: `open` is the chain of names from the root to the previous entry.
fn check_place<'a>(
    index: usize,
    node: &'a Node,
    previous: Option<&Node>,
    open: &mut Vec<&'a [u8]>,
) -> Result<(), &'static str> {
    if index == 0 {
        let is_root = node.path.is_empty() && node.kind == NodeKind::Directory;
        return if is_root { Ok(()) } else { Err("the first entry must be the root directory") };
    }
    if node.path.len() > PATH_BYTES_MAX {
        return Err("the path is longer than 4095 bytes");
    }
    let names: Vec<&[u8]> = node.path.split(|&byte| byte == b'/').collect();
    let depth = names.len();
    let (Some((name, parents)), Some(previous)) = (names.split_last(), previous) else {
        return Err("the path is empty");
    };
    check_name(name)?;
    if depth > open.len() + 1 || open.get(..depth - 1) != Some(parents) {
        return Err("its directory is not the one that was listed before it");
    }
    match open.get(depth - 1) {
        None if previous.kind != NodeKind::Directory => return Err("its parent is not a directory"),
        Some(sibling) if sibling >= name => return Err("names are not in order, or one appears twice"),
        _ => {}
    }
    open.truncate(depth - 1);
    open.push(name);
    Ok(())
}

/// One path component as it may be in an image.
pub(crate) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" => Err("a name is empty"),
        b"." | b".." => Err("a name is `.` or `..`"),
        _ if name.len() > NAME_BYTES_MAX => Err("a name is longer than 255 bytes"),
        _ if name.contains(&b'/') || name.contains(&0) => Err("a name holds `/` or a zero byte"),
        _ => Ok(()),
    }
}

fn check_inode(index: usize, node: &Node, nodes: &[Node]) -> Result<(), &'static str> {
    let has_flags = matches!(node.kind, NodeKind::Directory | NodeKind::File(_));
    check_metadata(&node.metadata, has_flags)?;
    check_owner_name(&node.names.user)?;
    check_owner_name(&node.names.group)?;
    check_xattrs(&node.xattrs)?;
    match &node.kind {
        NodeKind::Directory | NodeKind::Fifo | NodeKind::Socket => Ok(()),
        NodeKind::File(content) => check_content(content),
        NodeKind::Symlink { target } => check_symlink(target),
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            check_device(*major, *minor)
        }
        NodeKind::HardLink { to } => {
            let target = nodes.get(..index).and_then(|earlier| earlier.get(*to)).map(|node| &node.kind);
            match target {
                None => Err("a hard link names no earlier entry"),
                Some(NodeKind::Directory | NodeKind::HardLink { .. }) => {
                    Err("a hard link names a directory or another hard link")
                }
                Some(_)
                    if node.metadata != Metadata::default()
                        || node.names != OwnerNames::default()
                        || !node.xattrs.is_empty() =>
                {
                    Err("a hard link has metadata of its own; its inode's belong to the first name")
                }
                Some(_) => Ok(()),
            }
        }
    }
}

/// `has_flags`: whether this kind of entry can have file flags.
pub(crate) fn check_metadata(metadata: &Metadata, has_flags: bool) -> Result<(), &'static str> {
    if metadata.mode > 0o7777 {
        return Err("the mode has more than 12 bits");
    }
    if metadata.uid == u32::MAX || metadata.gid == u32::MAX {
        return Err("its owner or group is -1, which is nobody");
    }
    if metadata.flags != 0 && !has_flags {
        return Err("only files and directories have file flags");
    }
    if metadata.mtime.nanoseconds >= 1_000_000_000 {
        return Err("the time has more nanoseconds than a second");
    }
    if metadata.flags & !FILE_FLAGS_KEPT != 0 {
        return Err("it has a file flag that images do not keep");
    }
    Ok(())
}

/// What passwd(5) and group(5) can hold.
pub(crate) fn check_owner_name(name: &[u8]) -> Result<(), &'static str> {
    if name.len() > NAME_BYTES_MAX || name.iter().any(|byte| matches!(byte, 0 | b':' | b'\n')) {
        return Err("the name of its owner or group is none that an account can have");
    }
    Ok(())
}

pub(crate) fn check_xattrs(xattrs: &[Xattr]) -> Result<(), &'static str> {
    for xattr in xattrs {
        if xattr.name.is_empty() || xattr.name.len() > NAME_BYTES_MAX || xattr.name.contains(&0) {
            return Err("an extended attribute's name is empty, too long or holds a zero byte");
        }
        if xattr.value.len() > XATTR_VALUE_BYTES_MAX {
            return Err("an extended attribute is larger than 64 KiB");
        }
    }
    if xattrs.windows(2).any(|pair| matches!(pair, [a, b] if a.name >= b.name)) {
        return Err("extended attributes are not in order, or one appears twice");
    }
    Ok(())
}

pub(crate) fn check_symlink(target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains(&0) {
        return Err("the symbolic link's target is empty, too long or holds a zero byte");
    }
    Ok(())
}

pub(crate) fn check_device(major: u32, minor: u32) -> Result<(), &'static str> {
    if major > MAJOR_MAX || minor > MINOR_MAX { Err("the device number is too large") } else { Ok(()) }
}

pub(crate) fn check_content(content: &FileContent) -> Result<(), &'static str> {
    if content.size > FILE_BYTES_MAX {
        return Err("the file is too large");
    }
    let mut end = None;
    for extent in &content.extents {
        if extent.len == 0 || end.is_some_and(|end| extent.offset <= end) {
            return Err("data extents are empty, overlap, touch or are out of order");
        }
        end = extent.offset.checked_add(extent.len);
        if end.is_none_or(|end| end > content.size) {
            return Err("data lies behind the end of the file");
        }
    }
    Ok(())
}

impl FileContent {
    /// A file of `size` bytes without holes.
    #[must_use]
    pub fn plain(size: u64) -> Self {
        let extents = if size == 0 { vec![] } else { vec![DataExtent { offset: 0, len: size }] };
        Self { size, extents }
    }

    /// Whether there are no holes.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::plain(self.size)
    }

    /// Bytes of data.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }
}
