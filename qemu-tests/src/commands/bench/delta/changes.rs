//! What a site does to its image: updates of packages, and edits of a few files.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::command::run;
use qemu_tests::image;
use qemu_tests::programs::Programs;

use super::Older;
use super::contents::files_below;
use super::ways;

/// Part of the tree's bytes whose files are changed.
const PERCENT: u64 = 1;
/// Another text that compresses as well: what a byte is combined with.
const OTHER: u8 = 0x55;

/// From Debian 12 as its last point release was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Whole files, here and there, with a hundredth of the bytes.
    OnePercent,
    /// All updates since then but the kernel's.
    Updates,
    /// All of them.
    Kernel,
}

impl Change {
    pub(super) const ALL: [Self; 3] = [Self::OnePercent, Self::Updates, Self::Kernel];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::OnePercent => "one-percent",
            Self::Updates => "updates",
            Self::Kernel => "updates-and-kernel",
        }
    }

    /// The newer image and its tree, the latter in `dir`.
    pub(super) fn make(self, programs: &Programs, older: &Older, dir: &Path) -> Result<(PathBuf, PathBuf)> {
        let tree = dir.join("tree");
        let image = match self {
            Self::OnePercent => edited(programs, older, &tree, dir)?,
            Self::Updates => unpacked(programs, image::debian_12_older_kernel(programs)?.image, &tree)?,
            Self::Kernel => unpacked(programs, image::debian_12(programs)?.image, &tree)?,
        };
        Ok((image, tree))
    }
}

fn unpacked(programs: &Programs, image: PathBuf, tree: &Path) -> Result<PathBuf> {
    ways::extract(programs, &image, tree)?;
    Ok(image)
}

fn edited(programs: &Programs, older: &Older, tree: &Path, dir: &Path) -> Result<PathBuf> {
    run(Command::new("cp").arg("-aT").arg(&older.tree).arg(tree))?;
    change_one_percent(tree)?;
    let image = dir.join("newer.esir");
    let mut capture = Command::new(&programs.image_tools);
    run(capture.arg("capture").arg(tree).arg("--no-default-excludes").arg("-o").arg(&image))?;
    Ok(image)
}

/// Changes every byte of files, taken in the order of their paths' hashes, until that is so many.
fn change_one_percent(tree: &Path) -> Result<()> {
    let mut files = files_below(tree)?;
    files.sort_by_key(|file| *blake3::hash(file.as_os_str().as_encoded_bytes()).as_bytes());
    let sizes: Vec<u64> = files.iter().map(|file| size(&tree.join(file))).collect::<Result<_>>()?;
    let mut left = sizes.iter().sum::<u64>() * PERCENT / 100;
    for (file, bytes) in files.iter().zip(sizes) {
        // A file that is larger than what is left would be more than that.
        if bytes > 0 && bytes <= left {
            change(&tree.join(file)).with_context(|| format!("changing {}", file.display()))?;
            left -= bytes;
        }
    }
    ensure!(left < 4096, "{left} bytes too few were changed");
    Ok(())
}

/// Of a file; names beyond the first count nothing, so that no file is changed twice and back.
fn size(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    Ok(if metadata.nlink() == 1 { metadata.len() } else { 0 })
}

fn change(path: &Path) -> Result<()> {
    let changed: Vec<u8> = fs::read(path)?.into_iter().map(|byte| byte ^ OTHER).collect();
    Ok(OpenOptions::new().write(true).open(path)?.write_all_at(&changed, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_of_the_bytes_is_in_files_that_change_whole() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1000 {
            fs::write(dir.path().join(number.to_string()), vec![7; 3000 + number]).unwrap();
        }
        change_one_percent(dir.path()).unwrap();
        let (mut all, mut changed) = (0, 0);
        for file in files_below(dir.path()).unwrap() {
            let bytes = fs::read(dir.path().join(file)).unwrap();
            let first = bytes[0];
            assert!(bytes.iter().all(|&byte| byte == first), "a file is changed whole or not at all");
            all += bytes.len();
            changed += if first == 7 { 0 } else { bytes.len() };
        }
        assert!(changed <= all / 100 && changed + 4096 > all / 100, "{changed} of {all}");
    }
}
