//! Where the files of a container image are: a directory, or a tar that was copied.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use image_apply::open_file;
use image_format::NodeKind;
use image_source::Merge;
use image_source::oci::Blobs;

use super::Place;

/// An unpacked layout. Its links lead nowhere outside of it.
pub(super) struct DirectoryBlobs<'a>(pub(super) &'a OwnedFd);

impl Blobs for DirectoryBlobs<'_> {
    fn open(&self, path: &str) -> io::Result<Option<(u64, Box<dyn Read + '_>)>> {
        let file = match open_file(self.0.as_fd(), path.as_bytes()) {
            Ok(fd) => File::from(fd),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then(|| (metadata.len(), Box::new(file) as Box<dyn Read>)))
    }
}

/// The members of an archive.
pub(super) struct SpoolBlobs<'a> {
    pub(super) file: &'a File,
    pub(super) merge: &'a Merge<Place>,
}

impl Blobs for SpoolBlobs<'_> {
    fn open(&self, path: &str) -> io::Result<Option<(u64, Box<dyn Read + '_>)>> {
        match self.merge.find(path.as_bytes()) {
            Some((NodeKind::File(content), Place::Spool(offset))) if content.is_plain() => {
                let reader = Section { file: self.file, at: *offset, left: content.size };
                Ok(Some((content.size, Box::new(reader))))
            }
            _ => Ok(None),
        }
    }
}

/// A run of bytes of a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let count = self.file.read_at(out.get_mut(..room).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
