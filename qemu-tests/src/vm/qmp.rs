//! QEMU's control socket (QMP): one command per connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// QEMU opens its sockets well within a second; a busy machine gets ten.
const LISTENING_MAX: Duration = Duration::from_secs(10);
/// An answer to a command.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Events that may come before the answer; more means that this is not QMP.
const EVENTS_MAX: usize = 100;

/// Waits until QEMU answers, or says that it ended.
pub(super) fn wait_until_listening(socket: &Path, qemu: &mut Child) -> Result<()> {
    let until = Instant::now() + LISTENING_MAX;
    while Instant::now() < until {
        if let Some(status) = qemu.try_wait()? {
            bail!("QEMU ended with {status}");
        }
        if UnixStream::connect(socket).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("QEMU does not listen on {}", socket.display())
}

/// Runs one command without arguments.
pub(super) fn execute(socket: &Path, command: &str) -> Result<()> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut say = |word: &str| -> Result<()> {
        writeln!(&stream, "{}", json!({ "execute": word }))?;
        for line in lines.by_ref().take(EVENTS_MAX) {
            let answer: Value = serde_json::from_str(&line?)?;
            match (answer.get("return"), answer.get("error")) {
                (Some(_), _) => return Ok(()),
                (None, Some(error)) => bail!("QEMU refuses {word}: {error}"),
                (None, None) => {}
            }
        }
        bail!("QEMU does not answer {word}")
    };
    say("qmp_capabilities")?;
    say(command)
}
