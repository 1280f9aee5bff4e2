//! One of two trees that are compared: an image or a directory.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_apply::{open_file, open_root};
use image_format::{EntryIndex, EntryKind, Hash, Mode, Node, NodeKind, Tree};

use crate::capture::Walk;
use crate::contents::{Contents, DirectoryContents, read_range};
use crate::exclude::Excludes;
use crate::image_file::ImageFile;
use crate::owners::Accounts;
use crate::reader::Reader;

/// One name. A hard link has its inode's values.
pub(super) struct Item {
    pub(super) node: Node,
    /// The first name of its inode, if that is another one.
    pub(super) first_name: Option<Vec<u8>>,
    /// Number of its inode in its own tree.
    inode: usize,
}

/// A tree.
pub(super) enum Side {
    Image { image: Box<ImageFile>, entries: Vec<EntryIndex> },
    Directory { tree: Tree, contents: DirectoryContents },
}

impl Side {
    pub(super) fn open(path: &Path, trust: &[PathBuf], excludes: &Excludes) -> Result<Self> {
        if !path.is_dir() {
            let image = ImageFile::open(path, trust)?;
            let is_files = image.manifest.as_ref().is_none_or(|manifest| manifest.mode == Mode::Files);
            ensure!(is_files, "it is not an image of files");
            let entries = image.toc.entries().map(|(index, _)| index).collect();
            return Ok(Self::Image { image: Box::new(image), entries });
        }
        let root = open_root(path)?;
        let accounts = Accounts::read(root.as_fd())?;
        let (tree, stamps) = Walk::new(&root, excludes, &accounts).run()?;
        Ok(Self::Directory { tree, contents: DirectoryContents { root, stamps } })
    }

    /// All names in order.
    pub(super) fn items(&self) -> Box<dyn Iterator<Item = Item> + '_> {
        let node: Box<dyn Fn(usize) -> Option<Node>> = match self {
            Self::Image { image, entries } => {
                Box::new(move |index| entries.get(index).and_then(|index| image.toc.node(*index)))
            }
            Self::Directory { tree, .. } => Box::new(|index| tree.nodes().get(index).cloned()),
        };
        let len = match self {
            Self::Image { entries, .. } => entries.len(),
            Self::Directory { tree, .. } => tree.nodes().len(),
        };
        Box::new((0..len).filter_map(move |index| {
            let found = node(index)?;
            let NodeKind::HardLink { to } = found.kind else {
                return Some(Item { node: found, first_name: None, inode: index });
            };
            let target = node(to)?;
            let first_name = Some(target.path.clone());
            Some(Item { node: Node { path: found.path, ..target }, first_name, inode: to })
        }))
    }

    /// The hash of a file's data without its holes; `None` if it has none.
    pub(super) fn data_hash(&self, item: &Item) -> Result<Option<Hash>> {
        match self {
            Self::Image { image, entries } => {
                let entry = entries.get(item.inode).and_then(|index| image.toc.entry(*index));
                match entry.context("it is not there")?.kind {
                    EntryKind::File { hash, .. } => Ok(hash),
                    _ => Ok(None),
                }
            }
            Self::Directory { tree, contents } => {
                let node = tree.nodes().get(item.inode).context("it is not there")?;
                let NodeKind::File(content) = &node.kind else { return Ok(None) };
                if content.extents.is_empty() {
                    return Ok(None);
                }
                let mut hasher = blake3::Hasher::new();
                contents.read(item.inode, node, content, &mut |bytes| {
                    hasher.update(bytes);
                    Ok(())
                })?;
                Ok(Some(Hash::from(hasher.finalize())))
            }
        }
    }

    /// The hash of what a program reads of a file.
    pub(super) fn contents_hash(&self, item: &Item) -> Result<Hash> {
        match self {
            Self::Image { image, entries } => {
                let entry = entries.get(item.inode).and_then(|index| image.toc.entry(*index));
                Reader::new(image).contents_hash(entry.context("it is not there")?)
            }
            Self::Directory { tree, contents } => {
                let node = tree.nodes().get(item.inode).context("it is not there")?;
                let size = if let NodeKind::File(content) = &node.kind { content.size } else { 0 };
                let file = open_file(contents.root.as_fd(), &node.path)?.into();
                let mut hasher = blake3::Hasher::new();
                read_range(&file, 0..size, &mut |bytes| {
                    hasher.update(bytes);
                    Ok(())
                })?;
                Ok(Hash::from(hasher.finalize()))
            }
        }
    }
}
