//! What two trees have different: two images, or an image and a directory.
//!
//! Contents are compared by their hashes; only where the holes of a file lie elsewhere is it read as a program reads it.

mod side;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use image_format::{Metadata, Node, NodeKind};
use serde_json::{Value, json};

use crate::exclude::Excludes;
use crate::text;
use side::{Item, Side};

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// An image, or a directory.
    old: PathBuf,
    /// An image, or a directory.
    new: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Do not look at this. May be repeated, or several with commas between.
    #[arg(long, value_delimiter = ',', value_name = "WHAT")]
    ignore: Vec<Attribute>,
    /// Leave out of directories what matches, with all beneath it. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Look also at what `capture` leaves out by default.
    #[arg(long)]
    no_default_excludes: bool,
    /// A minisign public key that may have signed the images. May be repeated.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
}

/// What one name can have different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Attribute {
    /// What it is: a file, a directory, ...
    Kind,
    /// Permissions.
    Mode,
    /// User and group, by number.
    Owner,
    /// Modification time.
    Mtime,
    /// File flags.
    Flags,
    /// Extended attributes, ACLs among them.
    Xattrs,
    /// Where a symbolic link leads.
    Target,
    /// A device's number.
    Device,
    /// Bytes of a file.
    Size,
    /// What is in a file.
    Contents,
    /// Where a file's holes are; its contents are equal.
    Holes,
    /// Which other names its inode has.
    Links,
}

/// Before and after, for people.
type Changes = BTreeMap<Attribute, (String, String)>;

/// All differences.
#[derive(Default)]
struct Differences {
    added: Vec<(Vec<u8>, String)>,
    removed: Vec<(Vec<u8>, String)>,
    changed: Vec<(Vec<u8>, Changes)>,
}

/// Compares; whether nothing differs.
pub(crate) fn run(arguments: &DiffArguments) -> Result<bool> {
    let excludes = Excludes::given(&arguments.exclude, arguments.no_default_excludes);
    let open = |path: &PathBuf| {
        Side::open(path, &arguments.trust, &excludes).with_context(|| path.display().to_string())
    };
    let (old, new) = (open(&arguments.old)?, open(&arguments.new)?);
    let found = compare(&old, &new, &arguments.ignore)?;
    let equal = found.added.is_empty() && found.removed.is_empty() && found.changed.is_empty();
    let text = if arguments.json { found.to_json()? } else { found.to_text() };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("printing it"),
        _ => Ok(equal),
    }
}

/// Both trees are in the same order, by the names in a path.
fn compare(old: &Side, new: &Side, ignored: &[Attribute]) -> Result<Differences> {
    let mut found = Differences::default();
    let (mut olds, mut news) = (old.items().peekable(), new.items().peekable());
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return Ok(found),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => key(&a.node.path).cmp(key(&b.node.path)),
        };
        match order {
            std::cmp::Ordering::Less => found.removed.extend(olds.next().map(|item| named(&item.node))),
            std::cmp::Ordering::Greater => found.added.extend(news.next().map(|item| named(&item.node))),
            std::cmp::Ordering::Equal => {
                if let (Some(a), Some(b)) = (olds.next(), news.next()) {
                    let mut changes = item_changes(&a, &b);
                    content_changes(old, new, &a, &b, ignored, &mut changes)
                        .with_context(|| format!("comparing /{}", text::path(&a.node.path)))?;
                    changes.retain(|attribute, _| !ignored.contains(attribute));
                    if !changes.is_empty() {
                        found.changed.push((a.node.path, changes));
                    }
                }
            }
        }
    }
}

fn key(path: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    // The root has no name; `split` gives it an empty one.
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

fn named(node: &Node) -> (Vec<u8>, String) {
    (node.path.clone(), kind(&node.kind).to_owned())
}

const fn kind(kind: &NodeKind) -> &'static str {
    match kind {
        NodeKind::Directory => "directory",
        NodeKind::File(_) => "file",
        NodeKind::Symlink { .. } => "symbolic link",
        NodeKind::CharDevice { .. } => "character device",
        NodeKind::BlockDevice { .. } => "block device",
        NodeKind::Fifo => "named pipe",
        NodeKind::Socket => "socket",
        NodeKind::HardLink { .. } => "hard link",
    }
}

/// All but contents.
fn item_changes(old: &Item, new: &Item) -> Changes {
    let mut changes = Changes::new();
    let mut note = |attribute, a: String, b: String| {
        if a != b {
            changes.insert(attribute, (a, b));
        }
    };
    if kind(&old.node.kind) != kind(&new.node.kind) {
        note(Attribute::Kind, kind(&old.node.kind).to_owned(), kind(&new.node.kind).to_owned());
        return changes;
    }
    let (a, b): (&Metadata, &Metadata) = (&old.node.metadata, &new.node.metadata);
    // Linux gives every symbolic link the same mode, archives give it any.
    if !matches!(old.node.kind, NodeKind::Symlink { .. }) {
        note(Attribute::Mode, format!("{:04o}", a.mode), format!("{:04o}", b.mode));
    }
    note(Attribute::Owner, format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid));
    let time = |it: &Metadata| format!("{}.{:09}", text::time(it.mtime.seconds), it.mtime.nanoseconds);
    note(Attribute::Mtime, time(a), time(b));
    note(Attribute::Flags, format!("{:#x}", a.flags), format!("{:#x}", b.flags));
    note(Attribute::Xattrs, xattrs(&old.node, &new.node), xattrs(&new.node, &old.node));
    note(Attribute::Links, links(old), links(new));
    match (&old.node.kind, &new.node.kind) {
        (NodeKind::Symlink { target: a }, NodeKind::Symlink { target: b }) => {
            note(Attribute::Target, text::path(a), text::path(b));
        }
        (
            NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor },
            NodeKind::CharDevice { major: to_major, minor: to_minor }
            | NodeKind::BlockDevice { major: to_major, minor: to_minor },
        ) => note(Attribute::Device, format!("{major},{minor}"), format!("{to_major},{to_minor}")),
        (NodeKind::File(a), NodeKind::File(b)) => {
            note(Attribute::Size, a.size.to_string(), b.size.to_string())
        }
        _ => {}
    }
    changes
}

/// Those attributes of one that the other has not, or otherwise.
fn xattrs(node: &Node, other: &Node) -> String {
    let own = node.xattrs.iter().filter(|xattr| !other.xattrs.contains(xattr));
    let shown = own.map(|xattr| format!("{}={}", text::path(&xattr.name), text::path(&xattr.value)));
    shown.collect::<Vec<_>>().join(" ")
}

fn links(item: &Item) -> String {
    item.first_name.as_ref().map_or_else(|| "itself".to_owned(), |name| format!("/{}", text::path(name)))
}

/// Contents, if both are files of one size.
fn content_changes(
    old: &Side,
    new: &Side,
    a: &Item,
    b: &Item,
    ignored: &[Attribute],
    changes: &mut Changes,
) -> Result<()> {
    let (NodeKind::File(old_content), NodeKind::File(new_content)) = (&a.node.kind, &b.node.kind) else {
        return Ok(());
    };
    // Another name of a file that was compared already.
    let is_again = a.first_name.is_some() && b.first_name.is_some();
    if is_again || ignored.contains(&Attribute::Contents) || old_content.size != new_content.size {
        if old_content.size != new_content.size {
            changes.insert(Attribute::Contents, ("as it was".to_owned(), "other".to_owned()));
        }
        return Ok(());
    }
    let short = |hash: image_format::Hash| hash.to_string().get(..16).unwrap_or_default().to_owned();
    let same_holes = old_content.extents == new_content.extents;
    let (was, is) = if same_holes {
        (old.data_hash(a)?, new.data_hash(b)?)
    } else {
        (Some(old.contents_hash(a)?), Some(new.contents_hash(b)?))
    };
    if let (Some(was), Some(is)) = (was, is)
        && was != is
    {
        changes.insert(Attribute::Contents, (short(was), short(is)));
    } else if !same_holes {
        let holes = |content: &image_format::FileContent| content.size - content.data_bytes();
        let shown = |content| format!("{} bytes", holes(content));
        changes.insert(Attribute::Holes, (shown(old_content), shown(new_content)));
    }
    Ok(())
}

impl Attribute {
    const fn word(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Mtime => "mtime",
            Self::Flags => "flags",
            Self::Xattrs => "xattrs",
            Self::Target => "target",
            Self::Device => "device",
            Self::Size => "size",
            Self::Contents => "contents",
            Self::Holes => "holes",
            Self::Links => "links",
        }
    }
}

impl Differences {
    /// One line per name, and one with the sums.
    fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        for (path, kind) in &self.removed {
            let _ = writeln!(out, "- /{} ({kind})", text::path(path));
        }
        for (path, kind) in &self.added {
            let _ = writeln!(out, "+ /{} ({kind})", text::path(path));
        }
        for (path, changes) in &self.changed {
            let shown = changes.iter().map(|(attribute, (was, is))| match attribute {
                Attribute::Contents => "contents".to_owned(),
                _ => format!("{} {was} -> {is}", attribute.word()),
            });
            let _ = writeln!(out, "~ /{}: {}", text::path(path), shown.collect::<Vec<_>>().join("; "));
        }
        if !out.is_empty() {
            let (removed, added, changed) = (self.removed.len(), self.added.len(), self.changed.len());
            let _ = writeln!(out, "{removed} removed, {added} added, {changed} changed");
        }
        out
    }

    fn to_json(&self) -> Result<String> {
        let names = |list: &[(Vec<u8>, String)]| -> Vec<Value> {
            list.iter().map(|(path, kind)| json!({ "path": shown(path), "kind": kind })).collect()
        };
        let changed: Vec<Value> = self
            .changed
            .iter()
            .map(|(path, changes)| {
                let attributes: serde_json::Map<String, Value> = changes
                    .iter()
                    .map(|(attribute, (was, is))| {
                        (attribute.word().to_owned(), json!({ "old": was, "new": is }))
                    })
                    .collect();
                json!({ "path": shown(path), "attributes": attributes })
            })
            .collect();
        let value =
            json!({ "added": names(&self.added), "removed": names(&self.removed), "changed": changed });
        Ok(serde_json::to_string_pretty(&value).context("encoding the answer")? + "\n")
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", text::path(path))
}
