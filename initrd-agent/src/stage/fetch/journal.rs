//! Which containers are safe on the new disk: an append-only file in the new root.
//!
//! A line is written only after the data of its container was flushed to the disk, so a journal that survives a
//! power cut never promises too much; it may promise too little. Lines: `esir-journal 1 IMAGE`, then one
//! `container N` each.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use image_apply::WORK_DIRECTORY;

/// In [`WORK_DIRECTORY`] below the new root, which goes when the system is complete.
const FILE: &str = "journal";

/// Writes the journal; the only writer of its file.
#[derive(Debug)]
pub(crate) struct Journal {
    root: PathBuf,
    file: File,
}

impl Journal {
    /// Begins a new journal for an image below `root`.
    pub(crate) fn begin(root: &Path, image_id: &str) -> io::Result<Self> {
        let directory = root.join(WORK_DIRECTORY);
        fs::create_dir_all(&directory)?;
        let path = directory.join(FILE);
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
        writeln!(file, "esir-journal 1 {image_id}")?;
        file.sync_all()?;
        Ok(Self { root: root.to_owned(), file })
    }

    /// Flushes all data written so far to the disk and then records these containers, whose frames were all
    /// written before the call.
    pub(crate) fn record(&mut self, containers: &[u32]) -> io::Result<()> {
        if containers.is_empty() {
            return Ok(());
        }
        disk_apply::flush(&self.root)?;
        let mut lines = String::new();
        for container in containers {
            let _ = writeln!(lines, "container {container}");
        }
        self.file.write_all(lines.as_bytes())?;
        self.file.sync_data()
    }
}

/// Removes the journal of a system that is complete.
pub(crate) fn remove(root: &Path) -> io::Result<()> {
    let directory: PathBuf = root.join(WORK_DIRECTORY);
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_appended_and_the_journal_goes_with_the_end() {
        let root = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(root.path(), "ab").unwrap();
        journal.record(&[3, 1]).unwrap();
        journal.record(&[]).unwrap();
        journal.record(&[2]).unwrap();
        let text = fs::read_to_string(root.path().join(".esir/journal")).unwrap();
        assert_eq!(text, "esir-journal 1 ab\ncontainer 3\ncontainer 1\ncontainer 2\n");
        remove(root.path()).unwrap();
        remove(root.path()).unwrap();
        assert!(!root.path().join(".esir").exists());
    }
}
