//! PID 1: starts the agent, reaps children, starts the agent again when it dies, and is the only one who reboots.
//!
//! Does as little as it can, because the kernel panics when it ends. Never touches a disk or the network.
//!
//! ```text
//!  early mounts, secrets -> start agent -> wait -+-> asked for reboot or power off -> sync, reboot
//!                              ^                 +-> ctrl-alt-del ---------------------^
//!                              |                 +-> died: kill what it left, pause ---+-> too often
//!                              +---------------------------------------------------------'
//! ```

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::console::{attach, say};
use crate::failure::BackOff;
use crate::secrets::{BootSecrets, RUN_DIRECTORY};
use crate::stage::start;

/// Where the binary is in the initrd; also what the kernel calls to load modules.
pub(crate) const AGENT_PATH: &str = "/init";
/// The argument that makes this binary the agent proper.
pub(crate) const AGENT_ARGUMENT: &str = "agent";
/// Tells the agent how often its predecessors died.
pub(crate) const DEATHS_VARIABLE: &str = "ESIR_AGENT_DEATHS";
/// The agent's exit status that asks for a reboot; 0 is no answer, because an agent has no reason to end.
pub(crate) const EXIT_REBOOT: u8 = 64;
/// The agent's exit status that asks for power off.
pub(crate) const EXIT_POWER_OFF: u8 = 65;

/// An agent that dies so often does so for a reason that starting it again does not cure.
const DEATHS_MAX: u32 = 6;
/// An agent that lived so long begins a new count.
const LIVED_LONG: Duration = Duration::from_mins(10);
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LIMIT: Duration = Duration::from_secs(30);
/// Time for a person to read why the node reboots.
const REBOOT_PAUSE: Duration = Duration::from_secs(10);
/// A dead disk makes sync wait for ever; the reboot must not.
const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// How one agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentEnd {
    Exited(u8),
    Killed(&'static str),
    CtrlAltDel,
    NotStarted,
}

/// What PID 1 does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    StartAgain,
    Reboot,
    PowerOff,
}

/// Runs as PID 1 and never returns.
pub(crate) fn run() -> ! {
    for problem in start::mount_basics() {
        say(&format!("esir: PID 1: {problem}"));
    }
    if let Err(error) = attach() {
        say(&format!("esir: PID 1: no /dev/console: {error}"));
    }
    say(&format!("esir: PID 1: agent {} starts", env!("CARGO_PKG_VERSION")));
    // The keys then come to us as SIGINT instead of restarting the machine in the middle of a write.
    let _ = set_cad_enabled(false);
    let signals = watched_signals();
    if let Err(error) = signals.thread_block() {
        say(&format!("esir: PID 1: signals cannot be watched: {error}"));
    }
    if let Err(error) = crate::entropy::make_ready() {
        say(&format!("esir: PID 1: {error:#}"));
    }
    if let Err(error) = BootSecrets::make_or_read(Path::new(RUN_DIRECTORY)) {
        say(&format!("esir: PID 1: this boot has no secrets: {error:#}"));
    }
    let mut deaths = 0;
    let mut back_off = BackOff::new(PAUSE_FIRST, PAUSE_LIMIT);
    loop {
        let started = Instant::now();
        let end = run_agent(deaths, &signals);
        if started.elapsed() > LIVED_LONG {
            deaths = 0;
            back_off = BackOff::new(PAUSE_FIRST, PAUSE_LIMIT);
        }
        deaths += 1;
        match decide(end, deaths) {
            Next::StartAgain => {
                let pause = back_off.pause();
                say(&format!(
                    "esir: PID 1: the agent ended ({end:?}), death {deaths} of {DEATHS_MAX}; it starts again in {} s",
                    pause.as_secs()
                ));
                kill_the_rest();
                std::thread::sleep(pause);
            }
            Next::Reboot => leave(RebootMode::RB_AUTOBOOT, end),
            Next::PowerOff => leave(RebootMode::RB_POWER_OFF, end),
        }
    }
}

const fn decide(end: AgentEnd, deaths: u32) -> Next {
    match end {
        AgentEnd::Exited(EXIT_REBOOT) | AgentEnd::CtrlAltDel => Next::Reboot,
        AgentEnd::Exited(EXIT_POWER_OFF) => Next::PowerOff,
        AgentEnd::Exited(_) | AgentEnd::Killed(_) | AgentEnd::NotStarted if deaths >= DEATHS_MAX => {
            Next::Reboot
        }
        AgentEnd::Exited(_) | AgentEnd::Killed(_) | AgentEnd::NotStarted => Next::StartAgain,
    }
}

fn watched_signals() -> SigSet {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        signals.add(signal);
    }
    signals
}

/// Starts the agent and reaps children until it ends.
fn run_agent(deaths: u32, signals: &SigSet) -> AgentEnd {
    let started =
        Command::new(AGENT_PATH).arg(AGENT_ARGUMENT).env(DEATHS_VARIABLE, deaths.to_string()).spawn();
    let agent = match started.map(|child| i32::try_from(child.id())) {
        Ok(Ok(pid)) => Pid::from_raw(pid),
        Ok(Err(_)) => return AgentEnd::NotStarted,
        Err(error) => {
            say(&format!("esir: PID 1: {AGENT_PATH} cannot be started: {error}"));
            return AgentEnd::NotStarted;
        }
    };
    loop {
        if let Some(end) = reap(agent) {
            return end;
        }
        match signals.wait() {
            Ok(Signal::SIGINT) => {
                say("esir: PID 1: ctrl-alt-del was pressed");
                return AgentEnd::CtrlAltDel;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // Without signals, asking once a second still reaps.
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// Takes the status of every child that ended; the agent's, if it was among them.
fn reap(agent: Pid) -> Option<AgentEnd> {
    let mut end = None;
    loop {
        let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => {
                (pid, AgentEnd::Exited(u8::try_from(status).unwrap_or(u8::MAX)))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, AgentEnd::Killed(signal.as_str())),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return end,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return end,
        };
        if pid == agent {
            end = Some(how);
        }
    }
}

/// Ends every process but this one, and reaps them: a formatter that outlives its agent would write on.
fn kill_the_rest() {
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(20)),
            _ => {}
        }
    }
}

/// Reboots or powers off; never returns.
fn leave(mode: RebootMode, end: AgentEnd) -> ! {
    if !matches!(end, AgentEnd::Exited(EXIT_REBOOT | EXIT_POWER_OFF)) {
        say(&format!("esir: PID 1: the node reboots in {} s ({end:?})", REBOOT_PAUSE.as_secs()));
        std::thread::sleep(REBOOT_PAUSE);
    }
    kill_the_rest();
    let (done, synced) = mpsc::channel();
    std::thread::spawn(move || {
        nix::unistd::sync();
        let _ = done.send(());
    });
    if synced.recv_timeout(SYNC_LIMIT).is_err() {
        say("esir: PID 1: some disk does not take its last writes; leaving without it");
    }
    let word = if mode == RebootMode::RB_POWER_OFF { "powering off" } else { "rebooting" };
    say(&format!("esir: PID 1: {word}"));
    loop {
        let Err(error) = reboot(mode);
        say(&format!("esir: PID 1: {word} failed: {error}"));
        std::thread::sleep(REBOOT_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_that_dies_is_started_again_until_it_dies_too_often() {
        assert_eq!(decide(AgentEnd::Killed("SIGSEGV"), 1), Next::StartAgain);
        assert_eq!(decide(AgentEnd::Exited(0), 1), Next::StartAgain);
        assert_eq!(decide(AgentEnd::Exited(101), DEATHS_MAX), Next::Reboot);
        assert_eq!(decide(AgentEnd::NotStarted, DEATHS_MAX - 1), Next::StartAgain);
    }

    #[test]
    fn only_the_agent_or_a_person_ends_the_boot() {
        assert_eq!(decide(AgentEnd::Exited(EXIT_REBOOT), 1), Next::Reboot);
        assert_eq!(decide(AgentEnd::Exited(EXIT_POWER_OFF), 9), Next::PowerOff);
        assert_eq!(decide(AgentEnd::CtrlAltDel, 1), Next::Reboot);
    }
}
