//! Two trees as rsync sees them.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use qemu_tests::command::output;

/// What `capture` leaves out of a root tree by default: contents that belong to a running system.
const LEFT_OUT: [&str; 4] = ["/dev/*", "/run/*", "/tmp/*", "/var/lib/apt/lists/*"];

/// In what `copy` is not `source`: names, contents, modes, owners, times to the nanosecond, hard links, symlinks,
/// devices, ACLs and xattrs. One line each, as `rsync --itemize-changes` would make `copy` equal: eleven characters, a
/// space, the path.
pub(crate) fn differences(source: &Path, copy: &Path) -> Result<Vec<String>> {
    let mut rsync = Command::new("rsync");
    rsync.args(["--dry-run", "--archive", "--checksum", "--hard-links", "--acls", "--xattrs", "--delete"]);
    rsync.args(["--itemize-changes", "--modify-window=-1"]);
    rsync.args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}")));
    let said = output(rsync.arg(format!("{}/", source.display())).arg(format!("{}/", copy.display())))?;
    Ok(said.lines().map(str::to_owned).collect())
}
