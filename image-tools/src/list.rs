//! The entries of an image, one per line.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use image_format::{Entry, EntryIndex, EntryKind, Toc};

use crate::image_file::ImageFile;
use crate::text;

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// The image.
    image: PathBuf,
    /// Owners by number, even where the image has their names.
    #[arg(short, long)]
    numeric: bool,
}

/// Prints mode, owner, size, time and path of every entry.
pub(crate) fn run(arguments: &ListArguments) -> Result<()> {
    let image = ImageFile::open(&arguments.image, &[])?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (index, entry) in image.toc.entries() {
        match writeln!(out, "{}", line(&image.toc, index, entry, arguments.numeric)) {
            // `image-tools ls X | head`
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("printing the list")?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("printing the list"),
        _ => Ok(()),
    }
}

fn line(toc: &Toc, index: EntryIndex, entry: &Entry, numeric: bool) -> String {
    let path = |index| format!("/{}", text::path(&toc.path(index)));
    let (letter, size, arrow) = match entry.kind {
        EntryKind::Directory => ('d', String::new(), String::new()),
        EntryKind::File { size, .. } => ('-', size.to_string(), String::new()),
        EntryKind::Symlink => ('l', String::new(), format!(" -> {}", text::path(toc.link_target(entry)))),
        EntryKind::CharDevice { major, minor } => ('c', format!("{major},{minor}"), String::new()),
        EntryKind::BlockDevice { major, minor } => ('b', format!("{major},{minor}"), String::new()),
        EntryKind::Fifo => ('p', String::new(), String::new()),
        EntryKind::Socket => ('s', String::new(), String::new()),
        EntryKind::HardLink { to } => return format!("{:>59} {} = {}", "", path(index), path(to)),
    };
    let metadata = &entry.metadata;
    let names = toc.owner_names(entry);
    let shown = |name: &[u8], number: u32| {
        if numeric || name.is_empty() { number.to_string() } else { text::path(name) }
    };
    let owner = format!("{}/{}", shown(&names.user, metadata.uid), shown(&names.group, metadata.gid));
    let time = text::time(metadata.mtime.seconds);
    format!("{letter}{} {owner:>13} {size:>14} {time} {}{arrow}", mode(metadata.mode), path(index))
}

/// `rwsr-xr-t`
fn mode(mode: u32) -> String {
    let mut text = String::new();
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(super::mode(0o755), "rwxr-xr-x");
        assert_eq!(super::mode(0o4711), "rws--x--x");
        assert_eq!(super::mode(0o1776), "rwxrwxrwT");
    }
}
