//! The kernel's log as lines for the server (Documentation/ABI/testing/dev-kmsg).

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use crate::sys::watch::watch;
use nix::libc;

use super::Reporter;

/// Records are at most this long (PRINTKRB_RECORD_MAX and its prefix).
const RECORD_BYTES_MAX: usize = 8192;
/// What the agent itself wrote; the report has it already, uncut.
const OWN_PREFIX: &str = "esir: [";
/// Debug messages are noise to a server.
const LEVEL_DEBUG: u64 = 7;
/// When the log cannot be followed for a moment.
const PAUSE: Duration = Duration::from_secs(1);

/// Copies kernel messages into the report for ever; returns only when there is no kernel log to read.
pub(crate) async fn follow_kernel_log(reporter: Reporter) {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let Some(log) = open.ok().and_then(|file| watch(file).ok()) else { return };
    loop {
        let Ok(mut ready) = log.readable().await else { return };
        match read_all(log.get_ref(), &reporter) {
            Ok(()) => ready.clear_ready(),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Takes every record that waits; each read gives one.
fn read_all(mut log: &File, reporter: &Reporter) -> std::io::Result<()> {
    let mut buffer = [0; RECORD_BYTES_MAX];
    loop {
        match log.read(&mut buffer) {
            Ok(read) => {
                let record = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default());
                if let Some(text) = worth_sending(&record) {
                    reporter.log("kernel", text.to_owned());
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // EPIPE: records were overwritten before we came; the next read goes on after the gap.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The text of a record `prefix,sequence,microseconds,flags;text`, unless it is ours or debug.
fn worth_sending(record: &str) -> Option<&str> {
    let (head, text) = record.split_once(';')?;
    let priority: u64 = head.split(',').next()?.parse().ok()?;
    // Lines after the first are the device's dictionary.
    let text = text.lines().next()?;
    (priority & 7 < LEVEL_DEBUG && !text.starts_with(OWN_PREFIX)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_and_own_lines_and_debug_are_not() {
        let record = "6,339,5140900,-;NET: Registered PF_INET6\n SUBSYSTEM=net\n";
        assert_eq!(worth_sending(record), Some("NET: Registered PF_INET6"));
        assert_eq!(worth_sending("14,1,1,-;esir: [start] mounts"), None);
        assert_eq!(
            worth_sending("14,1,1,-;esir: PID 1: the agent ended"),
            Some("esir: PID 1: the agent ended")
        );
        assert_eq!(worth_sending("7,1,1,-;debug"), None);
        assert_eq!(worth_sending("nonsense"), None);
        assert_eq!(worth_sending(""), None);
    }
}
