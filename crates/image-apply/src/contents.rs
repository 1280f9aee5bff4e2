//! Whether a file on the disk holds what an image says.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use image_format::Hash;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Why a file does not hold what the image says, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unlike {
    #[error("its contents")]
    Contents,
    #[error("there is data in one of its holes")]
    DataInHole,
    #[error("it ends early")]
    EndsEarly,
    #[error(transparent)]
    Unreadable(#[from] io::Error),
}

impl From<Errno> for Unlike {
    fn from(error: Errno) -> Self {
        Self::Unreadable(error.into())
    }
}

/// Compares a file of `size` bytes whose data lies in these ranges, ascending, with the hash of them one after the
/// other, where there is one; what lies beside them must read as zeros. The bytes hashed.
///
/// # Errors
/// See [`Unlike`].
pub(crate) fn compare(
    file: &OwnedFd,
    size: u64,
    data: impl Iterator<Item = Range<u64>> + Clone,
    expected: Option<Hash>,
    buffer: &mut [u8],
) -> Result<u64, Unlike> {
    let bytes = compare_data(file.as_fd(), data.clone(), expected, buffer, &|_| {})?;
    let mut end = 0;
    for range in data.chain(std::iter::once(size..size)) {
        check_hole(file, end..range.start, buffer)?;
        end = range.end;
    }
    Ok(bytes)
}

/// As [`compare`] without a look at what lies beside the data. `progress` gets the bytes as they are read.
///
/// # Errors
/// See [`Unlike`].
pub(crate) fn compare_data(
    file: BorrowedFd<'_>,
    data: impl Iterator<Item = Range<u64>>,
    expected: Option<Hash>,
    buffer: &mut [u8],
    progress: &dyn Fn(u64),
) -> Result<u64, Unlike> {
    let mut hasher = blake3::Hasher::new();
    for range in data {
        read_range(file, range, buffer, |bytes| {
            hasher.update(bytes);
            progress(bytes.len() as u64);
            Ok(())
        })?;
    }
    if expected.is_some_and(|expected| expected != Hash::from(hasher.finalize())) {
        return Err(Unlike::Contents);
    }
    Ok(hasher.count())
}

/// Only what the file system says is data is read.
fn check_hole(file: &OwnedFd, hole: Range<u64>, buffer: &mut [u8]) -> Result<(), Unlike> {
    let mut at = hole.start;
    while at < hole.end {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < hole.end => data,
            Ok(_) | Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let data_end = rustix::fs::seek(file, SeekFrom::Hole(data))?.min(hole.end);
        read_range(file.as_fd(), data..data_end, buffer, |bytes| {
            if bytes.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(Unlike::DataInHole) }
        })?;
        at = data_end;
    }
    Ok(())
}

fn read_range(
    file: BorrowedFd<'_>,
    range: Range<u64>,
    buffer: &mut [u8],
    mut each: impl FnMut(&[u8]) -> Result<(), Unlike>,
) -> Result<(), Unlike> {
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..len).unwrap_or_default();
        let count = match rustix::io::pread(file, &mut *part, at) {
            Err(Errno::INTR) => continue,
            count => count?,
        };
        if count == 0 {
            return Err(Unlike::EndsEarly);
        }
        each(part.get(..count).unwrap_or_default())?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const DATA: [Range<u64>; 2] = [4096..4102, (1 << 21)..(1 << 21) + 5];
    const SIZE: u64 = 3 << 20;

    /// What comes of comparing a file of these writes with one that holds `hello world`.
    fn of(writes: &[(u64, &[u8])], size: u64) -> Result<u64, String> {
        let file = tempfile::tempfile().unwrap();
        for (at, bytes) in writes {
            file.write_all_at(bytes, *at).unwrap();
        }
        file.set_len(size).unwrap();
        let expected = Some(blake3::hash(b"hello world").into());
        let found = compare(&file.into(), SIZE, DATA.into_iter(), expected, &mut [0; 4096]);
        found.map_err(|unlike| unlike.to_string())
    }

    #[test]
    fn holes_are_holes_or_zeros_and_nothing_else() {
        let data: [(u64, &[u8]); 2] = [(4096, b"hello "), (1 << 21, b"world")];
        assert_eq!(of(&data, SIZE), Ok(11));
        let filled = vec![0; 1 << 20];
        assert_eq!(of(&[&data[..], &[(8192, &filled)]].concat(), SIZE), Ok(11), "written zeros are zeros");
        for at in [0, 4095, 4102, 1 << 20, (1 << 21) + 5, SIZE - 1] {
            let found = of(&[&data[..], &[(at, b"x")]].concat(), SIZE);
            assert_eq!(found.unwrap_err(), "there is data in one of its holes", "a byte at {at}");
        }
        assert_eq!(of(&data, (1 << 21) + 3).unwrap_err(), "it ends early");
        assert_eq!(of(&[(4096, b"HELLO ")], SIZE).unwrap_err(), "its contents");
    }
}
