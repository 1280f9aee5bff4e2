//! Writes `newc` cpio archives, the format of initrds (kernel: `Documentation/driver-api/early-userspace/
//! buffer-format.rst`): the same entries always give the same bytes.

use std::io::{self, Write};

const MODE_DIRECTORY: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_SYMLINK: u32 = 0o120_000;
const MODE_CHARACTER_DEVICE: u32 = 0o020_000;

/// The kernel looks for the next archive of a concatenation at a multiple of 4; 512 is what cpio pads to.
const ARCHIVE_ALIGNMENT: u64 = 512;

/// Writes entries in the order of the calls, all owned by root, all dated 1970. Parents before children.
///
/// Paths are given without a leading slash. An error leaves the archive useless.
#[derive(Debug)]
pub struct NewcWriter<W: Write> {
    out: W,
    written_bytes: u64,
    next_inode: u32,
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl<W: Write> NewcWriter<W> {
    /// An empty archive.
    pub const fn new(out: W) -> Self {
        Self { out, written_bytes: 0, next_inode: 1 }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// The writer's own.
    pub fn directory(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.entry(&Entry { path, mode: MODE_DIRECTORY | permissions, links: 2, device: (0, 0), data: &[] })
    }

    /// Adds a regular file; `permissions` such as `0o755`.
    ///
    /// # Errors
    /// The writer's own; data of 4 GiB and more.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) -> io::Result<()> {
        self.entry(&Entry { path, mode: MODE_FILE | permissions, links: 1, device: (0, 0), data })
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// The writer's own.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let mode = MODE_SYMLINK | 0o777;
        self.entry(&Entry { path, mode, links: 1, device: (0, 0), data: target.as_bytes() })
    }

    /// Adds a character device, such as `dev/console` with major 5, minor 1.
    ///
    /// # Errors
    /// The writer's own.
    pub fn character_device(
        &mut self,
        path: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        let mode = MODE_CHARACTER_DEVICE | permissions;
        self.entry(&Entry { path, mode, links: 1, device: (major, minor), data: &[] })
    }

    /// Writes the trailer, pads the archive to a multiple of 512 bytes and gives the writer back.
    ///
    /// # Errors
    /// The writer's own.
    pub fn finish(mut self) -> io::Result<W> {
        self.next_inode = 0;
        self.entry(&Entry { path: "TRAILER!!!", mode: 0, links: 1, device: (0, 0), data: &[] })?;
        self.pad(ARCHIVE_ALIGNMENT)?;
        Ok(self.out)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let too_big = |_| io::Error::new(io::ErrorKind::InvalidInput, "a newc entry holds less than 4 GiB");
        let size = u32::try_from(entry.data.len()).map_err(too_big)?;
        let name_size = u32::try_from(entry.path.len() + 1).map_err(too_big)?;
        let mut header = String::from("070701");
        let (major, minor) = entry.device;
        // inode, mode, uid, gid, links, mtime, size, device of the file system (2), device (2), name, checksum
        let inode = self.next_inode;
        for field in [inode, entry.mode, 0, 0, entry.links, 0, size, 0, 0, major, minor, name_size, 0] {
            header.push_str(&format!("{field:08X}"));
        }
        self.next_inode = self.next_inode.wrapping_add(1);
        self.put(header.as_bytes())?;
        self.put(entry.path.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)?;
        self.put(entry.data)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        while !self.written_bytes.is_multiple_of(alignment) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

/// One entry of an archive that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewcEntry<'a> {
    /// Path as the archive has it.
    pub path: &'a str,
    /// Type and permissions.
    pub mode: u32,
    /// Contents of a file, target of a symbolic link.
    pub data: &'a [u8],
}

/// An archive that is cut off or no newc archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no whole newc entry at byte {offset}")]
pub struct NewcError {
    /// Where the entry should be.
    pub offset: usize,
}

/// The entries of an archive, in its order, up to its trailer; what follows the trailer is not looked at.
///
/// # Errors
/// The first place where no whole entry is.
pub fn read_newc(archive: &[u8]) -> Result<Vec<NewcEntry<'_>>, NewcError> {
    let mut entries = Vec::new();
    let mut offset = 0;
    loop {
        let (entry, next) = read_entry(archive, offset).ok_or(NewcError { offset })?;
        if entry.path == "TRAILER!!!" {
            return Ok(entries);
        }
        entries.push(entry);
        offset = next;
    }
}

/// Bytes of an entry's header.
const HEADER_BYTES: usize = 110;

fn read_entry(archive: &[u8], offset: usize) -> Option<(NewcEntry<'_>, usize)> {
    let header = archive.get(offset..offset.checked_add(HEADER_BYTES)?)?;
    let field = |number: usize| -> Option<usize> {
        let text = std::str::from_utf8(header.get(6 + number * 8..14 + number * 8)?).ok()?;
        usize::from_str_radix(text, 16).ok()
    };
    let (mode, size, name_size) = (u32::try_from(field(1)?).ok()?, field(6)?, field(11)?);
    let name_start = offset + HEADER_BYTES;
    let name_end = name_start.checked_add(name_size)?;
    let path = std::str::from_utf8(archive.get(name_start..name_end)?.strip_suffix(&[0])?).ok()?;
    let data_start = name_end.checked_next_multiple_of(4)?;
    let data_end = data_start.checked_add(size)?;
    let data = archive.get(data_start..data_end)?;
    header
        .starts_with(b"070701")
        .then_some((NewcEntry { path, mode, data }, data_end.checked_next_multiple_of(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut archive = NewcWriter::new(Vec::new());
        archive.directory("etc", 0o755).unwrap();
        archive.file("etc/hello", 0o644, b"hello\n").unwrap();
        archive.symlink("link", "etc/hello").unwrap();
        archive.character_device("console", 0o600, 5, 1).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn layout_is_that_of_the_kernel_documentation() {
        let bytes = sample();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6..14], b"00000001");
        assert_eq!(&bytes[14..22], b"000041ED");
        assert_eq!(bytes.len() % 512, 0);
        // header 110 + "etc\0" = 114, padded to 116.
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(&bytes[116 + 110..116 + 120], b"etc/hello\0");
        assert_eq!(&bytes[236..242], b"hello\n");
        assert_eq!(sample(), bytes);
    }

    #[test]
    fn entries_are_read_back_and_a_cut_archive_is_refused() {
        let archive = sample();
        let entries = read_newc(&archive).unwrap();
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path).collect();
        assert_eq!(paths, ["etc", "etc/hello", "link", "console"]);
        assert_eq!(entries[1].data, b"hello\n");
        assert_eq!(entries[2].data, b"etc/hello");
        assert_eq!(entries[0].mode, 0o040_755);
        for cut in 0..entries.len() * 110 {
            assert!(read_newc(&archive[..cut]).is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..400, byte: u8) {
            let _ = read_newc(&bytes);
            let mut archive = sample();
            archive[at] = byte;
            let _ = read_newc(&archive);
        }
    }

    #[test]
    fn cpio_reads_it_back() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("a.cpio");
        std::fs::write(&archive, sample()).unwrap();
        let list = std::process::Command::new("cpio").arg("-tvF").arg(&archive).env("LC_ALL", "C").output();
        let Ok(list) = list else {
            println!("skipped: cpio is not installed");
            return;
        };
        let text = String::from_utf8(list.stdout).unwrap();
        assert!(list.status.success(), "{text}");
        for expected in ["drwxr-xr-x", "etc/hello", "link -> etc/hello", "5,   1"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
