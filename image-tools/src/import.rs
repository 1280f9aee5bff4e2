//! A tar archive -> an image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use image_format::{Metadata, Node, NodeKind, OwnerNames, Tree, Xattr};

use crate::build::{self, BuildOptions};
use crate::contents::SpoolContents;
use crate::pending::Pending;
use crate::tar_read::{Member, MemberKind, TarReader};
use crate::text;

/// Mode of a directory that an archive names no member for.
const IMPLIED_DIRECTORY_MODE: u32 = 0o755;
/// Windows of `zstd --long=31`.
const WINDOW_LOG_MAX: u32 = 31;

/// What to import and where to.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// The archive: tar, or tar in zstd; `-` for standard input.
    archive: PathBuf,
    #[command(flatten)]
    build: BuildOptions,
}

/// Makes the image.
pub(crate) fn run(arguments: &ImportArguments) -> Result<()> {
    let name = arguments.archive.display();
    let input = open(&arguments.archive).with_context(|| format!("opening the archive {name}"))?;
    let spool = Pending::beside(&arguments.build.output)?;
    let members = collect(input, spool.file()).with_context(|| format!("importing {name}"))?;
    let (tree, offsets) = members.into_tree().with_context(|| format!("importing {name}"))?;
    let file = spool.file().try_clone()?;
    build::build(&tree, &SpoolContents { file, offsets }, &arguments.build)
}

/// The archive's bytes, decompressed if they are zstd's.
fn open(path: &Path) -> Result<Box<dyn Read>> {
    let raw: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut raw = BufReader::new(raw);
    let mut magic = Vec::new();
    (&mut raw).take(6).read_to_end(&mut magic)?;
    let kind = magic.clone();
    let whole = io::Cursor::new(magic).chain(raw);
    match kind.as_slice() {
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::stream::read::Decoder::new(whole)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Ok(Box::new(decoder))
        }
        [0x1f, 0x8b, ..] => bail!("it is compressed by gzip; use `zcat FILE | image-tools import - -o ...`"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            bail!("it is compressed by xz; use `xzcat FILE | image-tools import - -o ...`")
        }
        [b'B', b'Z', b'h', ..] => {
            bail!("it is compressed by bzip2; use `bzcat FILE | image-tools import - -o ...`")
        }
        _ => Ok(Box::new(whole)),
    }
}

/// An inode of the archive and where its data was copied to.
struct Inode {
    metadata: Metadata,
    owner_names: OwnerNames,
    xattrs: Vec<Xattr>,
    kind: NodeKind,
    spool_offset: u64,
}

/// All names, each with the number of its inode; a later member of the same name replaces an earlier one.
#[derive(Default)]
struct Members {
    inodes: Vec<Inode>,
    names: BTreeMap<Vec<Vec<u8>>, usize>,
}

fn collect(input: Box<dyn Read>, mut spool: &File) -> Result<Members> {
    let mut members = Members::default();
    let mut reader = TarReader::new(input);
    let mut spooled = 0;
    while let Some(member) = reader.next_member()? {
        let offset = spooled;
        if matches!(member.kind, MemberKind::File(_)) {
            reader.read_data(&mut |bytes| {
                spooled += bytes.len() as u64;
                spool.write_all(bytes).context("copying the archive's data")
            })?;
        }
        members.add(member, offset)?;
    }
    if members.names.is_empty() {
        bail!("the archive is empty");
    }
    Ok(members)
}

impl Members {
    fn add(&mut self, member: Member, spool_offset: u64) -> Result<()> {
        let shown = || text::path(&member.names.join(&b'/'));
        if let MemberKind::HardLink { target } = &member.kind {
            let inode = self.names.get(target).copied();
            let inode = inode.with_context(|| {
                format!(
                    "{} is a hard link to {}, which does not come before it",
                    shown(),
                    text::path(&target.join(&b'/'))
                )
            })?;
            self.names.insert(member.names, inode);
            return Ok(());
        }
        let kind = match member.kind {
            MemberKind::Directory | MemberKind::HardLink { .. } => NodeKind::Directory,
            MemberKind::File(content) => NodeKind::File(content),
            MemberKind::Symlink { target } => NodeKind::Symlink { target },
            MemberKind::CharDevice { major, minor } => NodeKind::CharDevice { major, minor },
            MemberKind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
            MemberKind::Fifo => NodeKind::Fifo,
        };
        let Member { names, metadata, owner_names, xattrs, .. } = member;
        let inode = Inode { metadata, owner_names, xattrs, kind, spool_offset };
        self.inodes.push(inode);
        self.names.insert(names, self.inodes.len() - 1);
        Ok(())
    }

    /// The tree in an image's order, and by its indices where each file's data begins.
    fn into_tree(mut self) -> Result<(Tree, Vec<u64>)> {
        self.imply_directories();
        let mut nodes: Vec<Node> = Vec::new();
        let mut offsets = Vec::new();
        let mut first_name: BTreeMap<usize, usize> = BTreeMap::new();
        for (names, &number) in &self.names {
            let Some(inode) = self.inodes.get(number) else { continue };
            let path = names.join(&b'/');
            let node = match first_name.get(&number) {
                Some(&to) => {
                    let kind = NodeKind::HardLink { to };
                    let (metadata, names) = (Metadata::default(), OwnerNames::default());
                    Node { path, metadata, names, xattrs: Vec::new(), kind }
                }
                None => {
                    let Inode { metadata, owner_names, xattrs, kind, .. } = inode;
                    let (names, xattrs) = (owner_names.clone(), xattrs.clone());
                    Node { path, metadata: *metadata, names, xattrs, kind: kind.clone() }
                }
            };
            first_name.entry(number).or_insert(nodes.len());
            offsets.push(inode.spool_offset);
            nodes.push(node);
        }
        let tree = Tree::new(nodes).map_err(|error| anyhow!("the image cannot hold {error}"))?;
        Ok((tree, offsets))
    }

    /// Directories that are only named as parts of paths.
    fn imply_directories(&mut self) {
        let mut missing = Vec::new();
        for names in self.names.keys() {
            let above = (0..names.len()).filter_map(|depth| names.get(..depth));
            missing.extend(above.filter(|above| !self.names.contains_key(*above)).map(<[Vec<u8>]>::to_vec));
        }
        for names in missing {
            let metadata = Metadata { mode: IMPLIED_DIRECTORY_MODE, ..Metadata::default() };
            self.inodes.push(Inode {
                metadata,
                owner_names: OwnerNames::default(),
                xattrs: Vec::new(),
                kind: NodeKind::Directory,
                spool_offset: 0,
            });
            self.names.insert(names, self.inodes.len() - 1);
        }
    }
}
