//! One name of a source, with everything that an image keeps of it.

use image_format::{FileContent, Metadata, NodeKind, OwnerNames, Xattr};

use crate::error::{Result, malformed};

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A directory.
    Directory,
    /// A regular file; its data comes from wherever the member came from.
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
    /// Another name of the member of that path.
    HardLink {
        /// Its path components.
        target: Vec<Vec<u8>>,
    },
}

impl MemberKind {
    /// The kind of an inode, which is never a hard link.
    #[must_use]
    pub fn of_inode(kind: &NodeKind) -> Self {
        match kind {
            NodeKind::Directory | NodeKind::HardLink { .. } => Self::Directory,
            NodeKind::File(content) => Self::File(content.clone()),
            NodeKind::Symlink { target } => Self::Symlink { target: target.clone() },
            &NodeKind::CharDevice { major, minor } => Self::CharDevice { major, minor },
            &NodeKind::BlockDevice { major, minor } => Self::BlockDevice { major, minor },
            NodeKind::Fifo => Self::Fifo,
            NodeKind::Socket => Self::Socket,
        }
    }
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Path components; none for the root.
    pub names: Vec<Vec<u8>>,
    /// Owner, mode, time, flags.
    pub metadata: Metadata,
    /// What owner and group are called, if an account can be called so.
    pub owner_names: OwnerNames,
    /// Ascending by name.
    pub xattrs: Vec<Xattr>,
    /// What it is.
    pub kind: MemberKind,
    /// First byte of its data in a tar stream; 0 elsewhere.
    pub data_offset: u64,
}

/// Path components without empty ones and `.`.
///
/// # Errors
/// `..` is refused: no member leaves its source.
pub fn split_path(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names
        .map(|name| {
            if name == b".." {
                Err(malformed("the path leaves the archive by `..`"))
            } else {
                Ok(name.to_vec())
            }
        })
        .collect()
}
