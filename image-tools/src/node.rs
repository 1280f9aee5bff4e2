//! What runs on a golden node: its file systems as one tar stream on standard output, cleaned on the way.
//!
//! Never writes to the node but for a snapshot of btrfs or LVM, which is removed at the end. What changes while it is
//! read is read again; a later member of the stream replaces the earlier one.

mod mounts;
mod snapshot;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use image_apply::{open_file, open_root};
use image_format::{END_OF_ARCHIVE, FileContent, Node, NodeKind, Tree, data_padding, tar_header_with};

use crate::capture::{Walk, join, read_node};
use crate::clean::{CleanArguments, Cleaning};
use crate::contents::{Stamp, data_ranges};
use crate::exclude::Excludes;
use crate::owners::Accounts;
use crate::text;
use mounts::mounted;
use snapshot::Snapshot;

/// How often a file that changed is read again.
const ROUNDS_MAX: usize = 3;
/// Of the stream: quick, and two to three times less to send.
const LEVEL: i32 = 1;
/// What our own reader of tar knows as a socket.
const SOCKET_RECORD: &str = "ESIR.socket";
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Files that changed which are named.
const NAMED_MAX: usize = 10;

/// What to send.
#[derive(Debug, Args)]
pub(crate) struct StreamArguments {
    /// The root of the system.
    #[arg(default_value = "/")]
    root: PathBuf,
    /// Leave out what matches, with all beneath it. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Keep also what `capture` leaves out by default.
    #[arg(long)]
    no_default_excludes: bool,
    /// Take the running file systems, even where a snapshot could be taken.
    #[arg(long)]
    no_snapshot: bool,
    #[command(flatten)]
    clean: CleanArguments,
}

/// A file system, and where its files are in the tree.
struct Part {
    above: Vec<u8>,
    root: OwnedFd,
    tree: Tree,
    stamps: Vec<Stamp>,
}

/// Sends it, or says what would be sent.
pub(crate) fn run(arguments: &StreamArguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "a whole system is read as root: use root@NODE, or --sudo");
    let mut excludes = Excludes::given(&arguments.exclude, arguments.no_default_excludes);
    let cleaning =
        if arguments.clean.no_clean { Cleaning::default() } else { Cleaning::new(&arguments.clean.keep)? };
    let file_systems = mounted(&arguments.root)?;
    for line in &file_systems.left_out {
        eprintln!("left out: {line}");
    }
    file_systems.excluded.iter().for_each(|pattern| excludes.add(pattern));
    let snapshot = if arguments.no_snapshot { None } else { Snapshot::take(&arguments.root) };
    let root_path = snapshot.as_ref().map_or(arguments.root.as_path(), Snapshot::path);
    eprintln!(
        "reading {}{}",
        arguments.root.display(),
        if snapshot.is_some() { " from a snapshot" } else { " as it runs: what changes is read again" }
    );
    let root = open_root(root_path)?;
    let accounts = Accounts::read(root.as_fd())?;
    let walk = |root: &OwnedFd, above: &[u8]| -> Result<(Tree, Vec<Stamp>)> {
        let walk =
            Walk { cleaning: Some(&cleaning), above, is_live: true, ..Walk::new(root, &excludes, &accounts) };
        walk.run()
    };
    let (tree, stamps) = walk(&root, b"")?;
    let mut parts = vec![Part { above: Vec::new(), root, tree, stamps }];
    if snapshot.is_some() {
        // A snapshot is of one subvolume or volume; what is mounted in it is not.
        for place in &file_systems.kept {
            let root = open_root(&arguments.root.join(place))?;
            let above = place.as_os_str().as_encoded_bytes().to_vec();
            let (tree, stamps) = walk(&root, &above)?;
            parts.push(Part { above, root, tree, stamps });
        }
    }
    eprint!("cleaning rules (--keep RULE leaves one out):\n{cleaning}");
    if arguments.clean.dry_run {
        let entries: usize = parts.iter().map(|part| part.tree.nodes().len()).sum();
        eprintln!("{entries} entries would be taken; this was a dry run");
        return Ok(());
    }
    let mut out = zstd::stream::write::Encoder::new(io::stdout().lock(), LEVEL)?;
    out.include_checksum(true)?;
    for part in &parts {
        part.send(&mut out, &accounts)?;
    }
    out.write_all(&END_OF_ARCHIVE)?;
    out.finish()?.flush().context("sending it")
}

impl Part {
    fn send(&self, out: &mut dyn Write, accounts: &Accounts) -> Result<()> {
        let mut changed: Vec<(usize, Node, Stamp)> = Vec::new();
        let mut links: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, node) in self.tree.nodes().iter().enumerate() {
            if let NodeKind::HardLink { to } = node.kind {
                links.entry(to).or_default().push(index);
                self.send_link(out, index, to)?;
                continue;
            }
            let stamp = self.stamps.get(index).copied().unwrap_or_default();
            if !self.send_node(out, node, stamp)? {
                changed.push((index, node.clone(), stamp));
            }
        }
        for _ in 0..ROUNDS_MAX {
            let mut still = Vec::new();
            for (index, node, _) in changed {
                let Some((again, stamp)) = self.read_again(&node, accounts)? else {
                    ensure!(
                        !links.contains_key(&index),
                        "/{} went while it was read; take the node when nobody installs anything",
                        text::path(&self.place(&node))
                    );
                    continue;
                };
                let same = self.send_node(out, &again, stamp)?;
                for &link in links.get(&index).into_iter().flatten() {
                    self.send_link(out, link, index)?;
                }
                if !same {
                    still.push((index, again, stamp));
                }
            }
            changed = still;
        }
        for (_, node, _) in changed.iter().take(NAMED_MAX) {
            eprintln!("changed every time it was read: /{}", text::path(&self.place(node)));
        }
        if changed.len() > NAMED_MAX {
            eprintln!("and {} more", changed.len() - NAMED_MAX);
        }
        Ok(())
    }

    fn place(&self, node: &Node) -> Vec<u8> {
        join(&self.above, &node.path)
    }

    fn send_link(&self, out: &mut dyn Write, index: usize, to: usize) -> Result<()> {
        let nodes = self.tree.nodes();
        let (link, target) = nodes.get(index).zip(nodes.get(to)).context("a hard link without its file")?;
        let (link, target) = (self.placed(link), self.placed(target));
        out.write_all(&tar_header_with(&link, Some(&target), &[])?).context("sending it")
    }

    fn placed(&self, node: &Node) -> Node {
        Node { path: self.place(node), ..node.clone() }
    }

    /// One inode; whether it stayed as it was.
    fn send_node(&self, out: &mut dyn Write, node: &Node, stamp: Stamp) -> Result<bool> {
        let mut placed = self.placed(node);
        let mut records = Vec::new();
        if node.kind == NodeKind::Socket {
            placed.kind = NodeKind::File(FileContent::default());
            records.push((SOCKET_RECORD, b"1".to_vec()));
        }
        let content = match &placed.kind {
            NodeKind::File(content) if content.data_bytes() > 0 => content.clone(),
            _ => {
                out.write_all(&tar_header_with(&placed, None, &records)?).context("sending it")?;
                return Ok(true);
            }
        };
        let reading = || format!("reading /{}", text::path(&placed.path));
        let file = match open_file(self.root.as_fd(), &node.path).map(File::from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.with_context(reading)?,
        };
        let before = Stamp::of_file(&file).with_context(reading)?;
        out.write_all(&tar_header_with(&placed, None, &records)?).context("sending it")?;
        let mut whole = true;
        for range in data_ranges(&content, &(0..content.data_bytes())) {
            whole &= send_range(&file, range, out).with_context(reading)?;
        }
        let padding = usize::try_from(data_padding(content.data_bytes()))?;
        out.write_all(END_OF_ARCHIVE.get(..padding).unwrap_or_default()).context("sending it")?;
        let after = Stamp::of_file(&file).with_context(reading)?;
        Ok(whole && before == stamp && after == stamp)
    }

    fn read_again(&self, node: &Node, accounts: &Accounts) -> Result<Option<(Node, Stamp)>> {
        match read_node(&self.root, &node.path, accounts) {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether something is not there any more.
pub(crate) fn is_gone(error: &anyhow::Error) -> bool {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

/// Sends exactly these bytes; what a file has lost meanwhile is zeros, and said by `false`.
fn send_range(file: &File, range: std::ops::Range<u64>, out: &mut dyn Write) -> Result<bool> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = range.start;
    let mut whole = true;
    while at < range.end {
        let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(READ_BYTES);
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        let count = match file.read_at(part, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => bail!(error),
            Ok(0) => {
                whole = false;
                part.fill(0);
                wanted
            }
            Ok(count) => count,
        };
        out.write_all(part.get(..count).unwrap_or_default()).context("sending it")?;
        at += count as u64;
    }
    Ok(whole)
}
