//! A program inside the bed: started in its namespace and control group, its lines read as they come.
//!
//! Never leaves a process behind: the control group ends with the bed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::{Bed, Place};

/// Joins the control groups (`$1`, `$2`), enters the namespace and becomes the program: no unsafe code of ours runs
/// between fork and exec.
const ENTER: &str = r#"
while [ "$1" != -- ]; do echo $$ >"$1" || exit 97; shift; done
shift
exec nsenter --net="$@"
"#;
/// Of a failed program's log, what is shown.
const LOG_TAIL_BYTES: usize = 800;

impl Bed {
    /// Runs `argv` at `place` when it is spawned. Ends with the bed at the latest.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, place: Place, argv: &[S]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "sh"]).args(self.group.entrances()).arg("--");
        command.arg(self.namespace(place)).args(argv);
        command
    }
}

/// Something a program did.
#[derive(Debug)]
pub(crate) struct Event {
    /// Index that its starter gave it.
    pub(crate) program: usize,
    pub(crate) at: Instant,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Line(String),
    /// Its standard output is closed: it ended or is about to.
    Ended,
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    log: PathBuf,
}

impl Program {
    /// Starts `argv` at `place`; its lines arrive at `events` under the number `index`, its errors in `log`.
    pub(crate) fn start(
        bed: &Bed,
        place: Place,
        argv: &[OsString],
        (index, events): (usize, Sender<Event>),
        log: PathBuf,
    ) -> Result<Self> {
        let mut command = bed.command(place, argv);
        let errors = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().with_context(|| format!("starting {argv:?}"))?;
        let output = child.stdout.take().context("the program has no standard output")?;
        let input = child.stdin.take();
        thread::Builder::new().name("lines".into()).spawn(move || {
            let mut lines = BufReader::new(output);
            let mut line = Vec::new();
            // Bytes: progress displays are not always text.
            while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                let event = Event { program: index, at: Instant::now(), what: What::Line(text) };
                if events.send(event).is_err() {
                    return;
                }
            }
            let _ = events.send(Event { program: index, at: Instant::now(), what: What::Ended });
        })?;
        Ok(Self { child, input, log })
    }

    /// Writes a line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the program's standard input is closed")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    /// Whether it has ended, and well.
    pub(crate) fn ended_well(&mut self) -> Result<bool> {
        Ok(self.child.wait()?.success())
    }

    /// Takes it away without a warning.
    pub(crate) fn kill(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGKILL)?)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it wrote to its standard error.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(LOG_TAIL_BYTES)..).unwrap_or_default();
        String::from_utf8_lossy(tail).trim().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.input.take());
        // Ended by now, or killed with its group: this only takes its entry from the process table.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the process's network has a socket bound to this port: TCP and listening, or UDP.
pub(crate) fn is_bound(pid: u32, protocol: &str, port: u16) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).unwrap_or_default();
    let ending = format!(":{port:04X}");
    text.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
        // proc(5): 0A is LISTEN.
        local.ends_with(&ending) && (protocol == "udp" || state == "0A")
    })
}
