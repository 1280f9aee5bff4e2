//! One file of an image, on standard output.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use image_format::EntryKind;

use crate::image_file::ImageFile;
use crate::reader::{self, Reader};
use crate::text;

/// Which files.
#[derive(Debug, Args)]
pub(crate) struct CatArguments {
    /// The image.
    image: PathBuf,
    /// Paths from its root; symbolic links are followed within the image.
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// A minisign public key that may have signed the image. May be repeated.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
}

/// Writes their contents one after the other.
pub(crate) fn run(arguments: &CatArguments) -> Result<()> {
    let image = ImageFile::open(&arguments.image, &arguments.trust)?;
    let mut out = io::stdout().lock();
    let mut reader = Reader::new(&image);
    for path in &arguments.paths {
        let path = path.as_bytes();
        let index = reader::find(&image.toc, path)?;
        let (_, entry) = reader::inode(&image.toc, index).context("it is not there")?;
        let is_file = matches!(entry.kind, EntryKind::File { .. });
        ensure!(is_file, "/{} is not a file", text::path(path.strip_prefix(b"/").unwrap_or(path)));
        let mut closed = false;
        let result = reader.contents(entry, &mut |bytes| match out.write_all(bytes) {
            // `image-tools cat X /log | head`
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                closed = true;
                Err(error.into())
            }
            result => result.context("writing it"),
        });
        if closed {
            return Ok(());
        }
        result?;
    }
    out.flush().context("writing it")
}
