//! A directory, a running node, or a partition -> an image.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use image_apply::{FileType, Inode, open_directory, open_root, read_inode};
use image_format::{DataExtent, FileContent, Metadata, Node, NodeKind, OwnerNames, Tree};
use rustix::fs::SeekFrom;

use crate::build::{self, BuildOptions};
use crate::clean::{Action, CleanArguments, Cleaning};
use crate::contents::{DirectoryContents, Stamp};
use crate::exclude::Excludes;
use crate::node::is_gone;
use crate::owners::Accounts;
use crate::partition;
use crate::pending::directory_of;
use crate::remote::{self, RemoteArguments, Wanted};
use crate::text;

/// What to capture and where to.
#[derive(Debug, Args)]
pub(crate) struct CaptureArguments {
    /// The root directory of the system to capture.
    #[arg(required_unless_present_any = ["partition", "host"])]
    directory: Option<PathBuf>,
    /// Capture the blocks of a partition, or of a file that holds one, instead of a directory: for file systems whose
    /// files cannot be carried. Of ext2, ext3, ext4 and XFS only what is in use is read, of others all but zeros.
    #[arg(long, value_name = "DEVICE|FILE", conflicts_with_all = ["directory", "exclude", "no_default_excludes", "one_file_system"])]
    partition: Option<PathBuf>,
    #[command(flatten)]
    build: BuildOptions,
    /// Leave out what matches, with all beneath it: a path from the root, with `*`, `?` and `**`. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Keep also the contents of /proc, /sys, /dev, /run, /tmp, /var/tmp and the package caches.
    #[arg(long)]
    no_default_excludes: bool,
    /// Leave out what is on other file systems than the directory itself.
    #[arg(long)]
    one_file_system: bool,
    #[command(flatten)]
    clean: CleanArguments,
    #[command(flatten)]
    remote: RemoteArguments,
}

/// Makes the image.
pub(crate) fn run(arguments: &CaptureArguments) -> Result<()> {
    if let Some(path) = &arguments.partition {
        return partition::capture(path, &arguments.build);
    }
    if let Some(host) = &arguments.remote.host {
        let wanted = Wanted {
            exclude: &arguments.exclude,
            no_default_excludes: arguments.no_default_excludes,
            clean: &arguments.clean,
        };
        return remote::run(host, &arguments.remote, &wanted, &arguments.build);
    }
    let directory = arguments.directory.as_deref().context("name a directory")?;
    let excludes = Excludes::given(&arguments.exclude, arguments.no_default_excludes);
    let doing = || format!("opening the directory {}", directory.display());
    let root = open_root(directory).with_context(doing)?;
    refuse_output_inside(directory, &arguments.build.output, &excludes)?;
    let accounts = Accounts::read(root.as_fd())?;
    let cleaning = if arguments.clean.clean { Some(Cleaning::new(&arguments.clean.keep)?) } else { None };
    let walk = Walk {
        cleaning: cleaning.as_ref(),
        one_file_system: arguments.one_file_system,
        ..Walk::new(&root, &excludes, &accounts)
    };
    let (tree, stamps) = walk.run()?;
    if let Some(cleaning) = &cleaning {
        print!("cleaning rules (--keep RULE leaves one out):\n{cleaning}");
    }
    if arguments.clean.dry_run {
        println!("{} entries would be taken; this was a dry run", tree.nodes().len());
        return Ok(());
    }
    build::build(&tree, &DirectoryContents { root, stamps }, &arguments.build)
}

/// An output that lies in what is captured would change while it is read.
fn refuse_output_inside(directory: &Path, output: &Path, excludes: &Excludes) -> Result<()> {
    let (Ok(root), Ok(place)) = (directory.canonicalize(), directory_of(output).canonicalize()) else {
        return Ok(());
    };
    let Ok(inside) = place.strip_prefix(&root) else { return Ok(()) };
    let mut above = inside.join(output.file_name().unwrap_or_default());
    loop {
        if excludes.matches(above.as_os_str().as_bytes()) {
            return Ok(());
        }
        if !above.pop() || above.as_os_str().is_empty() {
            bail!(
                "the output {} lies in the directory that is captured; write it elsewhere or exclude its place",
                output.display()
            );
        }
    }
}

/// One walk over a directory.
pub(crate) struct Walk<'a> {
    pub(crate) root: &'a OwnedFd,
    pub(crate) excludes: &'a Excludes,
    pub(crate) accounts: &'a Accounts,
    /// Whether what is on other file systems than the root is left out.
    pub(crate) one_file_system: bool,
    pub(crate) cleaning: Option<&'a Cleaning>,
    /// Where the root is in the system's tree, for patterns and rules.
    pub(crate) above: &'a [u8],
    /// Whether others may remove files meanwhile.
    pub(crate) is_live: bool,
}

impl<'a> Walk<'a> {
    /// A walk over everything, in a tree that nobody changes.
    pub(crate) const fn new(root: &'a OwnedFd, excludes: &'a Excludes, accounts: &'a Accounts) -> Self {
        Self { root, excludes, accounts, one_file_system: false, cleaning: None, above: b"", is_live: false }
    }

    /// A path as the system's own programs know it, without the first `/`.
    fn place(&self, path: &[u8]) -> Vec<u8> {
        join(self.above, path)
    }

    /// One inode; nothing if it went meanwhile and may.
    fn look(
        &self,
        parent: &mut Option<(Vec<u8>, OwnedFd)>,
        path: &[u8],
    ) -> Result<Option<(Inode, NodeKind)>> {
        let (directory, name) = split(path);
        let result = (|| {
            let fd = self.open_parent(parent, directory)?;
            let inode = read_inode(fd, name)?;
            let kind = kind(fd, name, &inode)?;
            anyhow::Ok((inode, kind))
        })();
        match result {
            Err(error) if self.is_live && !path.is_empty() && is_gone(&error) => Ok(None),
            result => result.map(Some).with_context(|| reading(path)),
        }
    }

    /// The tree, and what each inode was when it was seen.
    pub(crate) fn run(&self) -> Result<(Tree, Vec<Stamp>)> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut stamps = Vec::new();
        let mut first_names: HashMap<((u32, u32), u64), usize> = HashMap::new();
        let mut home = None;
        // What is still to visit, the next one last.
        let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
        let mut parent: Option<(Vec<u8>, OwnedFd)> = None;
        while let Some(path) = pending.pop() {
            let Some((inode, mut kind)) = self.look(&mut parent, &path)? else { continue };
            let home = *home.get_or_insert(inode.file_system);
            if self.one_file_system && inode.file_system != home {
                continue;
            }
            if let (Some(cleaning), false) = (self.cleaning, inode.file_type == FileType::Directory) {
                let is_file = inode.file_type == FileType::File;
                match cleaning.apply(&self.place(&path), is_file, inode.size) {
                    Some(Action::LeaveOut) => continue,
                    Some(Action::Empty) => kind = NodeKind::File(FileContent::default()),
                    None => {}
                }
            }
            let key = (inode.file_system, inode.number);
            let is_again = inode.links > 1 && inode.file_type != FileType::Directory;
            let (metadata, names, xattrs, kind) = match first_names.get(&key).filter(|_| is_again) {
                Some(&to) => {
                    (Metadata::default(), OwnerNames::default(), Vec::new(), NodeKind::HardLink { to })
                }
                None => {
                    if is_again {
                        first_names.insert(key, nodes.len());
                    }
                    let names = self.accounts.names(inode.metadata.uid, inode.metadata.gid);
                    (inode.metadata, names, inode.xattrs.clone(), kind)
                }
            };
            stamps.push(Stamp::of(&inode));
            if let (NodeKind::Directory, Some(fd)) = (&kind, &inode.fd) {
                self.push_names(&path, fd, &mut pending).with_context(|| reading(&path))?;
            }
            nodes.push(Node { path, metadata, names, xattrs, kind });
        }
        let tree = Tree::new(nodes).map_err(|error| anyhow!("the image cannot hold {error}"))?;
        Ok((tree, stamps))
    }

    /// The directory `path`; neighbours share it.
    fn open_parent<'b>(
        &self,
        cache: &'b mut Option<(Vec<u8>, OwnedFd)>,
        path: &[u8],
    ) -> std::io::Result<BorrowedFd<'b>> {
        let fd = match cache.take() {
            Some((open, fd)) if open == path => fd,
            _ => open_directory(self.root.as_fd(), path)?,
        };
        Ok(cache.insert((path.to_vec(), fd)).1.as_fd())
    }

    /// The names in a directory that are not left out, so that they are popped in ascending order.
    fn push_names(&self, path: &[u8], directory: &OwnedFd, pending: &mut Vec<Vec<u8>>) -> Result<()> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(directory)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        for name in names {
            let child = if path.is_empty() { name } else { [path, b"/", &name].concat() };
            if !self.excludes.matches(&self.place(&child)) {
                pending.push(child);
            }
        }
        Ok(())
    }
}

/// One inode of a tree by its path, as it is now.
pub(crate) fn read_node(root: &OwnedFd, path: &[u8], accounts: &Accounts) -> Result<(Node, Stamp)> {
    let (directory, name) = split(path);
    let parent = open_directory(root.as_fd(), directory).with_context(|| reading(path))?;
    let inode = read_inode(parent.as_fd(), name).with_context(|| reading(path))?;
    let kind = kind(parent.as_fd(), name, &inode).with_context(|| reading(path))?;
    let names = accounts.names(inode.metadata.uid, inode.metadata.gid);
    let stamp = Stamp::of(&inode);
    Ok((Node { path: path.to_vec(), metadata: inode.metadata, names, xattrs: inode.xattrs, kind }, stamp))
}

/// Where a path of the tree at `above` is in the tree around it.
pub(crate) fn join(above: &[u8], path: &[u8]) -> Vec<u8> {
    match (above, path) {
        (b"", path) => path.to_vec(),
        (above, b"") => above.to_vec(),
        (above, path) => [above, b"/", path].concat(),
    }
}

fn reading(path: &[u8]) -> String {
    let hint =
        if rustix::process::geteuid().is_root() { "" } else { " (a whole system is captured as root)" };
    format!("reading /{}{hint}", text::path(path))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

fn kind(parent: BorrowedFd<'_>, name: &[u8], inode: &Inode) -> Result<NodeKind> {
    let (major, minor) = inode.device;
    Ok(match inode.file_type {
        FileType::Directory => NodeKind::Directory,
        FileType::File => {
            let fd = inode.fd.as_ref().context("the file is not open")?;
            NodeKind::File(FileContent { size: inode.size, extents: data_extents(fd, inode.size)? })
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(parent, OsStr::from_bytes(name), Vec::new())?;
            NodeKind::Symlink { target: target.into_bytes() }
        }
        FileType::CharDevice => NodeKind::CharDevice { major, minor },
        FileType::BlockDevice => NodeKind::BlockDevice { major, minor },
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
    })
}

/// What the file system says is data.
fn data_extents(file: &OwnedFd, size: u64) -> Result<Vec<DataExtent>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(offset) if offset < size => offset,
            Ok(_) | Err(rustix::io::Errno::NXIO) => break,
            // No holes on this file system.
            Err(rustix::io::Errno::INVAL) => return Ok(FileContent::plain(size).extents),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(offset))?.min(size);
        extents.push(DataExtent { offset, len: end - offset });
        at = end;
    }
    Ok(extents)
}
