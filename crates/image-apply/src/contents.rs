//! What a file holds, read from the file system.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use image_format::{DataExtent, Hash};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Bytes read at once; one buffer per thread.
const READ_BYTES: usize = 256 << 10;

/// The hash of what lies in `extents` of a file of `size` bytes; `None` if something beside them is not zero, or if the
/// file has become shorter than they are.
///
/// # Errors
/// As pread(2).
pub(crate) fn hash_of_data(file: &OwnedFd, size: u64, extents: &[DataExtent]) -> io::Result<Option<Hash>> {
    let mut buffer = vec![0; READ_BYTES];
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    for extent in extents {
        let end = extent.offset + extent.len;
        let is_whole = is_zero(file, at..extent.offset, &mut buffer)?
            && read_all(file, extent.offset..end, &mut buffer, &mut |bytes| {
                hasher.update(bytes);
                true
            })?;
        if !is_whole {
            return Ok(None);
        }
        at = end;
    }
    Ok(is_zero(file, at..size, &mut buffer)?.then(|| hasher.finalize().into()))
}

fn is_zero(file: &OwnedFd, range: Range<u64>, buffer: &mut [u8]) -> io::Result<bool> {
    let Range { start: mut at, end } = range;
    while at < end {
        // What the file system knows to be a hole need not be read.
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(true),
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let until = end.min(at + buffer.len() as u64);
        if at < until && !read_all(file, at..until, buffer, &mut |bytes| bytes.iter().all(|&byte| byte == 0))?
        {
            return Ok(false);
        }
        at = until;
    }
    Ok(true)
}

/// Whether the whole range is there and `take` wants to go on with each part of it.
fn read_all(
    file: &OwnedFd,
    range: Range<u64>,
    buffer: &mut [u8],
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    let Range { start: mut at, end } = range;
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        match rustix::io::pread(file, buffer.get_mut(..most).unwrap_or_default(), at) {
            Ok(0) => return Ok(false),
            Ok(count) if !take(buffer.get(..count).unwrap_or_default()) => return Ok(false),
            Ok(count) => at += count as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const EXTENTS: [DataExtent; 2] =
        [DataExtent { offset: 4096, len: 6 }, DataExtent { offset: 1 << 21, len: 5 }];
    const SIZE: u64 = 3 << 20;

    fn of(writes: &[(u64, &[u8])], size: u64) -> Option<Hash> {
        let file = tempfile::tempfile().unwrap();
        for (at, bytes) in writes {
            file.write_all_at(bytes, *at).unwrap();
        }
        file.set_len(size).unwrap();
        hash_of_data(&file.into(), SIZE, &EXTENTS).unwrap()
    }

    #[test]
    fn holes_are_holes_or_zeros_and_nothing_else() {
        let data: [(u64, &[u8]); 2] = [(4096, b"hello "), (1 << 21, b"world")];
        let expected = Some(blake3::hash(b"hello world").into());
        assert_eq!(of(&data, SIZE), expected);
        let filled = vec![0; 1 << 20];
        assert_eq!(of(&[&data[..], &[(8192, &filled)]].concat(), SIZE), expected, "written zeros are zeros");
        for at in [0, 4095, 4102, 1 << 20, (1 << 21) + 5, SIZE - 1] {
            assert_eq!(of(&[&data[..], &[(at, b"x")]].concat(), SIZE), None, "a byte at {at}");
        }
        assert_eq!(of(&data, (1 << 21) + 3), None, "it ends too early");
        assert_ne!(of(&[(4096, b"HELLO ")], SIZE), expected);
    }
}
