//! What a bed leaves on the machine, by name: namespaces, control groups, files in memory; and how they go.
//!
//! Never touches anything whose name does not hold the id and start time of a dead process, or of this one.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::group;

/// Every name starts with this.
const PREFIX: &str = "bed-";
/// Where `ip netns` keeps its names.
const NAMESPACES: &str = "/run/netns";
/// Files of a run lie in memory, so that no disk is measured.
const MEMORY: &str = "/dev/shm";

/// A name that no other bed has: `bed-PID-START-COUNT`.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}", own_prefix(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A directory in memory of that name.
pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(MEMORY).join(name)
}

/// Path of a namespace.
pub(crate) fn namespace_path(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

/// Removes all that this process made; for signal handlers.
pub fn sweep_own() {
    sweep(|name| name.starts_with(&own_prefix()));
}

/// Removes what beds of dead processes left.
pub fn sweep_stale() {
    sweep(|name| owner(name).is_some_and(|(pid, start)| start_time(pid) != Some(start)));
}

/// Removes one bed: everything called `name` or `name-...`.
pub(crate) fn sweep_one(name: &str) {
    let longer = format!("{name}-");
    sweep(|found| found == name || found.starts_with(&longer));
}

fn sweep(is_ours: impl Fn(&str) -> bool) {
    let ours = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(PREFIX) && is_ours(name)).collect()
    };
    // Processes first: they hold namespaces and files.
    for hierarchy in group::hierarchies() {
        for name in ours(&hierarchy) {
            group::end(&hierarchy.join(name));
        }
    }
    for name in ours(Path::new(NAMESPACES)) {
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
    }
    for name in ours(Path::new(MEMORY)) {
        let _ = fs::remove_dir_all(directory(&name));
    }
}

fn own_prefix() -> String {
    let pid = std::process::id();
    format!("{PREFIX}{pid}-{}-", start_time(pid).unwrap_or_default())
}

/// `bed-PID-START-...`
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut words = name.strip_prefix(PREFIX)?.split('-');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// When a process started, in clock ticks since boot (proc(5), field 22).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and brackets; fields count from after the last one.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Runs a command to its end with text on its standard input; its own words are the error.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    input: &str,
) -> Result<String> {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("running {program}"))?;
    // The programs run here read all of their input before they write.
    let written = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    written.with_context(|| format!("writing to {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_owner() {
        let name = unique_name();
        let (pid, start) = owner(&format!("{name}-n3")).unwrap();
        assert_eq!(pid, std::process::id());
        assert_eq!(Some(start), start_time(pid));
        assert_eq!(owner("bed-room"), None);
    }
}
