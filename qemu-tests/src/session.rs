//! What this process must clean up: directories, namespaces, mounts and child processes, written down as they are made.
//!
//! The same sweep runs when a session is dropped, when a signal ends the process, and at the next start for
//! sessions whose process was killed. Never signals a process that is not written down with its start time.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::image::cache_dir;

/// How long a killed process may take to vanish; a QEMU with a large dirty disk file needs a few seconds.
const KILLED_GONE_MAX: Duration = Duration::from_secs(10);
/// How soon a lab is taken down after its parent process died.
const PARENT_LOOKED_AT_EVERY: Duration = Duration::from_millis(500);
/// Labs whose logs are kept, the newest; as many again of labs whose story failed.
const LABS_LOGGED_MAX: usize = 12;
/// What the logs of a failed story begin with.
const FAILED: &str = "failed-";
/// File in a session's directory: one owned thing per line, oldest first.
const OWNED_FILE: &str = "owned";

/// One lab's directory and the list of all that must vanish with it.
#[derive(Debug)]
pub struct Session {
    name: String,
    dir: PathBuf,
}

impl Session {
    /// Cleans what dead processes left, then makes a directory of our own.
    ///
    /// # Errors
    /// The cache directory cannot be written.
    pub fn begin() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep_stale();
        let name = format!("esir-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = all_sessions()?.join(&name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("making {}", dir.display()))?;
        let session = Self { name, dir };
        session.owns_process(std::process::id(), "owner")?;
        Ok(session)
    }

    /// Unique on this machine while the process lives; also good as the name of a namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything in here goes when the session ends.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes down a network namespace, before it is made.
    ///
    /// # Errors
    /// The session's directory cannot be written.
    pub fn owns_namespace(&self, name: &str) -> Result<()> {
        self.write_down(&format!("namespace {name}"))
    }

    /// Writes down a mount, before it is made.
    ///
    /// # Errors
    /// The session's directory cannot be written.
    pub fn owns_mount(&self, place: &Path) -> Result<()> {
        self.write_down(&format!("mount {}", place.display()))
    }

    /// Writes down a child process by its id and start time.
    ///
    /// # Errors
    /// The process is gone already, or the session's directory cannot be written.
    pub fn owns_process(&self, pid: u32, what: &str) -> Result<()> {
        let Some(start) = start_time(pid) else { bail!("{what} (process {pid}) ended at once") };
        self.write_down(&format!("process {pid} {start} {what}"))
    }

    fn write_down(&self, line: &str) -> Result<()> {
        let path = self.dir.join(OWNED_FILE);
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(file, "{line}").with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        sweep(&self.dir);
    }
}

/// Something that is done when a signal ends this process, before its sessions are swept.
type LastDeed = Box<dyn FnOnce() + Send>;

/// In the order in which they were asked for.
static BEFORE_EXIT: Mutex<Vec<LastDeed>> = Mutex::new(Vec::new());

/// Has `deed` done when a signal ends this process.
pub fn before_exit(deed: impl FnOnce() + Send + 'static) {
    BEFORE_EXIT.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(deed));
}

fn run_before_exit() {
    let deeds = std::mem::take(&mut *BEFORE_EXIT.lock().unwrap_or_else(PoisonError::into_inner));
    deeds.into_iter().for_each(|deed| deed());
}

/// Sweeps all sessions of this process when it gets SIGINT or SIGTERM, then exits with 130.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn sweep_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("sweep".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        eprintln!("\ninterrupted: taking the lab down");
        run_before_exit();
        sweep_own();
        std::process::exit(130);
    })?;
    Ok(())
}

/// Sweeps all sessions of this process and ends it when the process that started it is gone: a test runner that
/// was killed cannot pass the signal on.
///
/// # Errors
/// The watching thread cannot be started.
pub fn sweep_when_orphaned() -> Result<()> {
    let parent = nix::unistd::getppid();
    thread::Builder::new().name("orphaned".into()).spawn(move || {
        while nix::unistd::getppid() == parent {
            thread::sleep(PARENT_LOOKED_AT_EVERY);
        }
        eprintln!("\nthe process that started this one is gone: taking the lab down");
        sweep_own();
        std::process::exit(130);
    })?;
    Ok(())
}

/// Takes down every session of this process.
fn sweep_own() {
    let own = format!("esir-{}-", std::process::id());
    for dir in session_dirs() {
        if dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own)) {
            sweep(&dir);
        }
    }
}

/// Takes down the sessions of processes that no longer live.
fn sweep_stale() {
    for dir in session_dirs() {
        let owned = fs::read_to_string(dir.join(OWNED_FILE)).unwrap_or_default();
        let owner = owned.lines().next().and_then(parse_process);
        // A directory without an owner line is one that another process is making right now.
        if owner.is_some_and(|(pid, start)| start_time(pid) != Some(start)) {
            sweep(&dir);
        }
    }
}

/// Not below `/tmp`, where others could prepare a list of processes for us to kill.
fn all_sessions() -> Result<PathBuf> {
    Ok(cache_dir()?.join("labs"))
}

fn session_dirs() -> Vec<PathBuf> {
    let entries = all_sessions().map(fs::read_dir);
    entries.into_iter().flatten().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Ends what a session's list names, newest first, and removes its directory. Failures leave the rest to the
/// next start's sweep.
fn sweep(dir: &Path) {
    let owned = fs::read_to_string(dir.join(OWNED_FILE)).unwrap_or_default();
    for line in owned.lines().rev() {
        if let Some(name) = line.strip_prefix("namespace ") {
            let mut delete = Command::new("ip");
            let _ = delete.args(["netns", "del", name]).stderr(Stdio::null()).status();
        } else if let Some(place) = line.strip_prefix("mount ") {
            let _ = Command::new("umount").args(["--lazy", "--quiet", place]).stderr(Stdio::null()).status();
        } else if let Some((pid, start)) = parse_process(line).filter(|_| !line.ends_with(" owner")) {
            end_process(pid, start);
        }
    }
    keep_logs(dir);
    let _ = fs::remove_dir_all(dir);
}

/// Copies consoles and logs, so that a failed story can be looked into after its lab is gone.
fn keep_logs(dir: &Path) {
    let (Ok(cache), Some(name)) = (cache_dir(), dir.file_name()) else { return };
    let kept = cache.join("logs");
    let logs = logs_in(dir);
    if logs.is_empty() || fs::create_dir_all(kept.join(name)).is_err() {
        return;
    }
    for log in logs {
        // `b/console.log` becomes `b-console.log`.
        let relative = log.strip_prefix(dir).unwrap_or(&log).to_string_lossy().replace('/', "-");
        let _ = fs::copy(&log, kept.join(name).join(relative));
    }
    forget_old_logs(&kept, false);
}

/// Sets the logs of this process's labs that were taken down after `since` aside, so that the labs of later stories
/// do not push them out. To be called when a story has failed.
pub fn keep_logs_of_failed(since: SystemTime) {
    let Ok(kept) = cache_dir().map(|cache| cache.join("logs")) else { return };
    let own = format!("esir-{}-", std::process::id());
    for entry in fs::read_dir(&kept).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name.starts_with(&own) && modified(&path).is_some_and(|modified| modified >= since) {
            let _ = fs::rename(path, kept.join(format!("{FAILED}{name}")));
        }
    }
    forget_old_logs(&kept, true);
}

fn forget_old_logs(kept: &Path, failed: bool) {
    let entries = fs::read_dir(kept).into_iter().flatten().flatten();
    let of_kind = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(FAILED) == failed);
    let mut labs: Vec<PathBuf> = of_kind.map(|entry| entry.path()).collect();
    labs.sort_by_key(|lab| modified(lab));
    for old in labs.iter().take(labs.len().saturating_sub(LABS_LOGGED_MAX)) {
        let _ = fs::remove_dir_all(old);
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// Files that end in `.log` or `.pcap`, in the directory and one level below.
fn logs_in(dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut files = entries(dir);
    let below: Vec<PathBuf> =
        files.iter().filter(|path| path.is_dir()).flat_map(|path| entries(path)).collect();
    files.extend(below);
    let is_kept = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "log" || ending == "pcap");
    files.retain(|path| path.is_file() && is_kept(path));
    files
}

/// `process PID START WHAT`
fn parse_process(line: &str) -> Option<(u32, u64)> {
    let mut words = line.strip_prefix("process ")?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Kills the process if it is still the one that was written down, and waits until it is gone.
fn end_process(pid: u32, start: u64) {
    let until = Instant::now() + KILLED_GONE_MAX;
    let Ok(raw) = i32::try_from(pid) else { return };
    while start_time(pid) == Some(start) && Instant::now() < until {
        let _ = kill(Pid::from_raw(raw), Signal::SIGKILL);
        thread::sleep(Duration::from_millis(20));
    }
}

/// When a living process started, in clock ticks since boot (proc(5), field 22); `None` for dead ones and zombies.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and brackets; fields count from after the last one.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    fields.nth(18)?.parse().ok().filter(|_| state != "Z" && state != "X")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_session_ends_its_processes_and_nothing_else() {
        let ours = Command::new("sleep").arg("100").spawn().unwrap();
        let other = Command::new("sleep").arg("100").spawn().unwrap();
        let session = Session::begin().unwrap();
        let dir = session.dir().to_owned();
        session.owns_process(ours.id(), "sleep").unwrap();
        assert!(start_time(ours.id()).is_some());
        drop(session);
        assert_eq!(start_time(ours.id()), None);
        assert!(start_time(other.id()).is_some(), "a process that the session does not own lives on");
        assert!(!dir.exists());
        for mut child in [ours, other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_reused_process_id_is_not_killed() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let start = start_time(child.id()).unwrap();
        end_process(child.id(), start + 1);
        assert_eq!(start_time(child.id()), Some(start));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
