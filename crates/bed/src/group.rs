//! One control group for all programs of a bed: priority over other work, processor time, waiting, and the end.
//!
//! Works with the old hierarchies (version 1) and the unified one (version 2) side by side. Never holds this
//! process itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Twenty times the default of 1,024: a build beside the bed would otherwise cost it 2 to 5 % of its time.
const SHARES: &str = "20480";
/// The same for version 2, where 100 is the default and this the most.
const WEIGHT: &str = "10000";
/// How long killed processes may take to vanish; they may hold gigabytes of memory files.
const GONE_MAX: Duration = Duration::from_secs(20);

/// The group.
#[derive(Debug)]
pub(crate) struct Group {
    /// In every hierarchy it needs; the unified one first.
    dirs: Vec<PathBuf>,
}

/// Microseconds in which programs of the group waited for a processor, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// At least one waited.
    pub some_us: u64,
    /// All that were not idle waited.
    pub full_us: u64,
}

impl Group {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut dirs = Vec::new();
        for hierarchy in hierarchies() {
            let dir = hierarchy.join(name);
            fs::create_dir(&dir).with_context(|| format!("making control group {}", dir.display()))?;
            for (file, value) in [("cpu.shares", SHARES), ("cpu.weight", WEIGHT)] {
                let path = dir.join(file);
                if path.exists() {
                    fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
                }
            }
            dirs.push(dir);
        }
        anyhow::ensure!(
            dirs.first().is_some_and(|dir| dir.join("cpu.pressure").exists()),
            "the kernel accounts no pressure (CONFIG_PSI, cgroup2); without it a disturbed run can't be told"
        );
        Ok(Self { dirs })
    }

    /// Files that a process writes its id to in order to join.
    pub(crate) fn entrances(&self) -> impl Iterator<Item = PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs"))
    }

    /// Processor time used by now, microseconds.
    pub(crate) fn cpu_us(&self) -> u64 {
        parse_field(&self.read("cpu.stat"), "usage_usec ")
    }

    pub(crate) fn pressure(&self) -> Pressure {
        parse_pressure(&self.read("cpu.pressure"))
    }

    /// Kills every process in it.
    pub(crate) fn kill_all(&self) {
        self.dirs.iter().for_each(|dir| kill_members(dir));
    }

    fn read(&self, file: &str) -> String {
        self.dirs
            .first()
            .map(|dir| fs::read_to_string(dir.join(file)).unwrap_or_default())
            .unwrap_or_default()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.dirs.iter().for_each(|dir| end(dir));
    }
}

/// Mount points: the unified hierarchy, and version 1's `cpu` where that controller is there.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    parse_hierarchies(&mounts)
}

fn parse_hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut unified = Vec::new();
    let mut old = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if kind == "cgroup2" {
            unified.push(PathBuf::from(at));
        } else if kind == "cgroup" && options.split(',').any(|option| option == "cpu") {
            old.push(PathBuf::from(at));
        }
    }
    unified.truncate(1);
    old.truncate(1);
    unified.extend(old);
    unified
}

/// Kills a group's members and removes it.
pub(crate) fn end(dir: &Path) {
    let until = Instant::now() + GONE_MAX;
    loop {
        kill_members(dir);
        if fs::remove_dir(dir).is_ok() || !dir.exists() || Instant::now() > until {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// `cgroup.kill` catches even what forks while it is being killed; version 1 has no such file.
fn kill_members(dir: &Path) {
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for line in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = line.parse().ok().filter(|pid| *pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn parse_pressure(text: &str) -> Pressure {
    let total = |which: &str| {
        let line = text.lines().find(|line| line.starts_with(which)).unwrap_or_default();
        line.rsplit_once("total=").and_then(|(_, total)| total.trim().parse().ok()).unwrap_or_default()
    };
    Pressure { some_us: total("some"), full_us: total("full") }
}

fn parse_field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_from_the_totals() {
        let text = "some avg10=1.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=56\n";
        assert_eq!(parse_pressure(text), Pressure { some_us: 1234, full_us: 56 });
    }

    #[test]
    fn both_generations_of_control_groups_are_found() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = parse_hierarchies(mounts);
        assert_eq!(
            found,
            [PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")]
        );
        assert_eq!(
            parse_hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
            [PathBuf::from("/sys/fs/cgroup")]
        );
    }
}
