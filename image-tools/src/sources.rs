//! The sources of an import: each one is opened by what it is and laid over those before it.
//!
//! Data of streams is copied into one file without a name; data of directories is read where it is.

mod containers;
mod disks;

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image_apply::open_root;
use image_format::{FileContent, Node, NodeKind, SourceFileSystem, Tree};
use image_source::disk::{DISK_HEAD_BYTES, is_disk};
use image_source::oci::{self, Platform, Wanted};
use image_source::{Member, MemberKind, Merge, Over, SourceError, TarReader, unpack};

use crate::capture::Walk;
use crate::contents::{Contents, DirectoryContents, read_range};
use crate::exclude::Excludes;
use crate::owners::Accounts;
use crate::pending::Pending;
use containers::{DirectoryBlobs, SpoolBlobs};

/// Windows of `zstd --long=31`: whoever packed the archive wanted that.
const WINDOW_LOG_MAX: u32 = 31;

/// How to read sources that leave a choice.
#[derive(Debug)]
pub(crate) struct SourceOptions {
    pub(crate) reference: Option<String>,
    pub(crate) platform: Platform,
    /// Of a disk: the partition with the root file system.
    pub(crate) root_partition: Option<u32>,
}

/// Where the data of one file is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Place {
    /// It has none.
    #[default]
    Nowhere,
    /// In the copy, from this byte on.
    Spool(u64),
    /// In a directory: its number, and the node's in its tree.
    Directory(usize, usize),
}

/// All sources so far.
pub(crate) struct Sources {
    merge: Merge<Place>,
    spool: Spool,
    directories: Vec<(Tree, DirectoryContents)>,
    /// Beside what copies are made.
    output: PathBuf,
    /// Of the first disk, the root's first.
    file_systems: Vec<SourceFileSystem>,
}

/// The copy of what came as a stream.
struct Spool {
    file: Pending,
    used: u64,
    /// Bytes that may still be unpacked.
    left: u64,
}

impl Sources {
    /// None yet. `bytes_max` bounds what they unpack to; the copy lies beside `output`.
    pub(crate) fn new(output: &Path, bytes_max: u64) -> Result<Self> {
        let spool = Spool { file: Pending::beside(output)?, used: 0, left: bytes_max };
        Ok(Self {
            merge: Merge::default(),
            spool,
            directories: Vec::new(),
            output: output.to_owned(),
            file_systems: Vec::new(),
        })
    }

    /// Lays one more over the others.
    pub(crate) fn add(&mut self, path: &Path, options: &SourceOptions) -> Result<()> {
        let source = if path == Path::new("-") {
            self.read_stream(&mut io::stdin().lock(), options)?
        } else if path.is_dir() {
            self.read_directory(path, options)?
        } else {
            let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            if is_disk(&head(&mut file)?)? {
                self.read_disk(disks::Disk::open(path, file, &self.output, self.spool.left)?, options)?
            } else {
                file.rewind().with_context(|| format!("reading {}", path.display()))?;
                self.read_stream(&mut file, options)?
            }
        };
        ensure!(!source.is_empty(), "it is empty");
        self.merge.begin(Over::Unpacked);
        self.merge.absorb(source)?;
        Ok(())
    }

    /// Lays the files of a node over the others.
    pub(crate) fn add_stream(&mut self, input: &mut dyn Read) -> Result<()> {
        let (_, stream) = unpack(input, WINDOW_LOG_MAX, self.spool.left)?;
        let mut merge = Merge::default();
        self.spool.read_members(&mut TarReader::new(stream), &mut merge)?;
        ensure!(!merge.is_empty(), "it is empty");
        self.merge.begin(Over::Unpacked);
        self.merge.absorb(merge)?;
        Ok(())
    }

    fn read_directory(&mut self, path: &Path, options: &SourceOptions) -> Result<Merge<Place>> {
        let has = |name: &str| path.join(name).is_file();
        if has("index.json") && has("oci-layout") || has("manifest.json") && !path.join("etc").exists() {
            let root = open_root(path)?;
            let image = oci::find(&DirectoryBlobs(&root), &options.wanted())?;
            return self.spool.read_layers(&DirectoryBlobs(&root), &image);
        }
        let root: OwnedFd = open_root(path)?;
        let excludes = Excludes::default();
        let accounts = Accounts::read(root.as_fd())?;
        let (tree, stamps) = Walk::new(&root, &excludes, &accounts).run()?;
        let number = self.directories.len();
        let mut merge = Merge::default();
        merge_tree(&mut merge, &[], &tree, |index| Place::Directory(number, index))?;
        self.directories.push((tree, DirectoryContents { root, stamps }));
        Ok(merge)
    }

    /// A tar, which may be the archive of a container image; or a disk that is compressed as a whole.
    fn read_stream(&mut self, input: &mut dyn Read, options: &SourceOptions) -> Result<Merge<Place>> {
        let (_, mut stream) = unpack(input, WINDOW_LOG_MAX, self.spool.left)?;
        let head = head(&mut stream)?;
        let is_disk = is_disk(&head)?;
        let mut stream = Cursor::new(head).chain(stream);
        if is_disk {
            let disk = disks::Disk::copy_stream(&mut stream, &self.output, self.spool.left)?;
            return self.read_disk(disk, options);
        }
        let mut merge = Merge::default();
        let mut reader = TarReader::new(stream);
        self.spool.read_members(&mut reader, &mut merge)?;
        let is_file = |path: &[u8]| matches!(merge.find(path), Some((NodeKind::File(_), _)));
        let is_layout = is_file(b"oci-layout") && is_file(b"index.json");
        let is_archive = is_file(b"manifest.json") && merge.find(b"etc").is_none();
        if !(is_layout || is_archive) {
            return Ok(merge);
        }
        let copy = self.spool.file.file().try_clone()?;
        let blobs = SpoolBlobs { file: &copy, merge: &merge };
        let image = oci::find(&blobs, &options.wanted())?;
        self.spool.read_layers(&blobs, &image)
    }

    /// What the disk that was imported calls its file systems; nothing if there was none.
    pub(crate) fn file_systems(&self) -> &[SourceFileSystem] {
        &self.file_systems
    }

    /// The tree without what is left out, and its files' data.
    pub(crate) fn into_tree(mut self, excludes: &Excludes) -> Result<(Tree, MergedContents)> {
        self.merge.leave_out(|path| excludes.matches(path));
        let (tree, places) = self.merge.into_tree()?;
        let spool = self.spool.file.file().try_clone()?;
        Ok((tree, MergedContents { spool, directories: self.directories, places }))
    }
}

impl SourceOptions {
    fn wanted(&self) -> Wanted {
        Wanted { reference: self.reference.clone(), platform: self.platform.clone() }
    }
}

impl Spool {
    /// Copies the data of all members and remembers the rest.
    fn read_members(&mut self, reader: &mut TarReader<impl Read>, merge: &mut Merge<Place>) -> Result<()> {
        while let Some(member) = reader.next_member()? {
            let place = Place::Spool(self.used);
            if matches!(member.kind, MemberKind::File(_)) {
                let (used, left) = (&mut self.used, &mut self.left);
                let mut file = self.file.file();
                reader.read_data(&mut |bytes| {
                    *used += bytes.len() as u64;
                    *left = left.saturating_sub(bytes.len() as u64);
                    file.write_all(bytes).context("copying the archive's data")
                })?;
            }
            merge.add(member, place)?;
        }
        Ok(())
    }

    fn read_layers(&mut self, blobs: &dyn oci::Blobs, image: &oci::ContainerImage) -> Result<Merge<Place>> {
        ensure!(!image.layers.is_empty(), "the image has no layers");
        let mut merge = Merge::default();
        for layer in &image.layers {
            let doing = || format!("layer {}", layer.name());
            merge.begin(Over::Layer);
            let stream = layer.open(blobs, self.left).with_context(doing)?;
            let mut reader = TarReader::new(stream);
            self.read_members(&mut reader, &mut merge).with_context(doing)?;
            reader.into_input().finish().with_context(doing)?;
        }
        Ok(merge)
    }
}

/// Adds a tree of a walk beneath `above`, with each node's place.
fn merge_tree(
    merge: &mut Merge<Place>,
    above: &[Vec<u8>],
    tree: &Tree,
    place: impl Fn(usize) -> Place,
) -> Result<(), SourceError> {
    let split = |path: &[u8]| {
        let names = image_source::split_path(path)?;
        Ok::<_, SourceError>(above.iter().cloned().chain(names).collect::<Vec<_>>())
    };
    for (index, node) in tree.nodes().iter().enumerate() {
        let kind = match &node.kind {
            NodeKind::HardLink { to } => MemberKind::HardLink {
                target: split(tree.nodes().get(*to).map(|node| node.path.as_slice()).unwrap_or_default())?,
            },
            inode => MemberKind::of_inode(inode),
        };
        let (names, metadata, xattrs) = (split(&node.path)?, node.metadata, node.xattrs.clone());
        let owner_names = node.names.clone();
        merge.add(Member { names, metadata, owner_names, xattrs, kind, data_offset: 0 }, place(index))?;
    }
    Ok(())
}

/// The first bytes of a file or stream, by which a disk is known.
fn head(input: &mut dyn Read) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    input.take(DISK_HEAD_BYTES as u64).read_to_end(&mut head).context("reading it")?;
    Ok(head)
}

/// The data of all sources.
pub(crate) struct MergedContents {
    spool: File,
    directories: Vec<(Tree, DirectoryContents)>,
    /// By node index.
    places: Vec<Place>,
}

impl Contents for MergedContents {
    fn read_part(
        &self,
        index: usize,
        _: &Node,
        content: &FileContent,
        part: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match self.places.get(index).copied().unwrap_or_default() {
            Place::Nowhere => bail!("a file without data; please report this"),
            Place::Spool(offset) => read_range(&self.spool, offset + part.start..offset + part.end, each)
                .context("reading the copied archive"),
            Place::Directory(number, index) => {
                let (tree, contents) =
                    self.directories.get(number).context("a directory without a number")?;
                let node = tree.nodes().get(index).context("a file without a number")?;
                contents.read_part(index, node, content, part, each)
            }
        }
    }
}
