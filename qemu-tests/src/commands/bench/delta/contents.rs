//! What is new in a tree, found without our own programs: contents of regular files that another tree has nowhere.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::LEVEL;

/// Contents that are new.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewContents {
    /// Each counted once.
    pub(super) files: usize,
    pub(super) bytes: u64,
    /// All of them one behind the other, in the order of their paths, by zstd at [`LEVEL`].
    pub(super) compressed_bytes: u64,
}

impl NewContents {
    pub(super) fn between(older: &Path, newer: &Path) -> Result<Self> {
        let mut known: HashSet<blake3::Hash> = HashSet::new();
        for file in files_below(older)? {
            known.insert(hash(&older.join(file))?);
        }
        let (mut new, mut bytes) = (Vec::new(), 0);
        for file in files_below(newer)? {
            let path = newer.join(&file);
            if known.insert(hash(&path)?) {
                bytes += fs::symlink_metadata(&path)?.len();
                new.push(file);
            }
        }
        Ok(Self { files: new.len(), bytes, compressed_bytes: compressed(newer, &new)? })
    }
}

/// Paths of the regular files, relative and sorted.
pub(super) fn files_below(tree: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        let reading = || format!("reading {}", tree.join(&folder).display());
        for entry in fs::read_dir(tree.join(&folder)).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let (kind, path) = (entry.file_type()?, folder.join(entry.file_name()));
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    hasher.update_reader(file).with_context(|| format!("reading {}", path.display()))?;
    Ok(hasher.finalize())
}

fn compressed(tree: &Path, files: &[PathBuf]) -> Result<u64> {
    let script = format!("set -o pipefail; xargs -0 --no-run-if-empty cat -- | zstd -q -{LEVEL} | wc -c");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(tree).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("running bash")?;
    let mut names = child.stdin.take().context("a pipe")?;
    for file in files {
        names.write_all(file.as_os_str().as_bytes())?;
        names.write_all(b"\0")?;
    }
    drop(names);
    let counted = child.wait_with_output()?;
    ensure!(counted.status.success(), "{script} ended with {}", counted.status);
    let counted = String::from_utf8_lossy(&counted.stdout).into_owned();
    counted.trim().parse().with_context(|| format!("wc says {counted:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_or_was_copied_is_not_new_and_what_is_new_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("older/a", "one");
        write("newer/elsewhere/b", "one");
        write("newer/c", "two two");
        write("newer/d", "two two");
        write("newer/e", "three");
        let new = NewContents::between(&dir.path().join("older"), &dir.path().join("newer")).unwrap();
        assert_eq!((new.files, new.bytes), (2, 12));
        assert!((12..40).contains(&new.compressed_bytes), "{}", new.compressed_bytes);
    }
}
