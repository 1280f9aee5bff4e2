//! A machine's serial console: what it printed, and a shell on it.
//!
//! Never loses text: QEMU writes the log, the socket is only for typing.

mod shell;

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

pub use shell::{Output, Shell};

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Firmware polls the line and tells keys of several bytes from single ones by the pause after them.
const BETWEEN_KEYS: Duration = Duration::from_millis(400);
/// Lines of console that an error quotes.
const QUOTED_LINES: usize = 25;

/// Keys as a terminal sends them.
pub mod keys {
    /// Return.
    pub const ENTER: &str = "\r";
    /// Escape.
    pub const ESCAPE: &str = "\x1b";
}

/// The console's log as a text in which stories wait for words, each wait going on where the last one ended.
#[derive(Debug)]
pub struct Console {
    log: PathBuf,
    socket: PathBuf,
    seen: Mutex<u64>,
    power_on: AtomicU64,
}

impl Console {
    pub(crate) const fn new(log: PathBuf, socket: PathBuf) -> Self {
        Self { log, socket, seen: Mutex::new(0), power_on: AtomicU64::new(0) }
    }

    /// All that was printed since the machine was made, without terminal control codes.
    #[must_use]
    pub fn text(&self) -> String {
        plain(&self.bytes_from(0))
    }

    /// The last lines, for messages.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// What was printed since the machine was last switched on.
    #[must_use]
    pub fn text_since_power_on(&self) -> String {
        plain(&self.bytes_from(self.power_on.load(Ordering::Relaxed)))
    }

    /// The machine is switched on: later waits look only at what comes after.
    pub(crate) fn starts_anew(&self) {
        let end = fs::metadata(&self.log).map(|log| log.len()).unwrap_or_default();
        self.power_on.store(end, Ordering::Relaxed);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// Waits until one of `words` is printed after what earlier waits found, and says which.
    ///
    /// # Errors
    /// `within` passed; the error quotes the end of the console.
    pub async fn wait_for<'w>(&self, words: &[&'w str], within: Duration) -> Result<&'w str> {
        let until = Instant::now() + within;
        loop {
            if let Some(word) = self.find(words) {
                return Ok(word);
            }
            if Instant::now() >= until {
                let tail = self.tail(QUOTED_LINES);
                bail!("console did not show {words:?} within {} s; it ends:\n{tail}", within.as_secs());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Types keys one after the other; a key may be several bytes.
    ///
    /// # Errors
    /// The machine is off, or somebody else types.
    pub async fn types(&self, keys: &[&str]) -> Result<()> {
        let socket = self.socket.display();
        let mut line =
            UnixStream::connect(&self.socket).await.with_context(|| format!("opening {socket}"))?;
        for key in keys {
            line.write_all(key.as_bytes()).await.with_context(|| format!("typing on {socket}"))?;
            sleep(BETWEEN_KEYS).await;
        }
        Ok(())
    }

    /// Logs in at the `login:` prompt that is on the screen or comes `within`.
    ///
    /// # Errors
    /// No prompt, or the password is refused.
    pub async fn log_in(&self, user: &str, password: &str, within: Duration) -> Result<Shell> {
        Shell::log_in(self, user, password, within).await
    }

    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Finds the first of `words` after the position seen, and moves the position behind it.
    fn find<'w>(&self, words: &[&'w str]) -> Option<&'w str> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.bytes_from(*seen);
        let places = words.iter().filter_map(|&word| Some((position(&bytes, word.as_bytes())?, word)));
        let (at, word) = places.min()?;
        *seen += (at + word.len()) as u64;
        Some(word)
    }

    fn bytes_from(&self, offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Ok(mut log) = fs::File::open(&self.log)
            && log.seek(SeekFrom::Start(offset)).is_ok()
        {
            let _ = log.read_to_end(&mut bytes);
        }
        bytes
    }
}

fn position(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len().max(1)).position(|window| window == word)
}

/// Text without escape sequences (ECMA-48 CSI and two-byte ones) and carriage returns.
pub(crate) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => {
                if letters.next() == Some('[') {
                    let _final_byte = letters.find(|letter| ('@'..='~').contains(letter));
                }
            }
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_wait_goes_on_where_the_last_one_ended() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "one login: two\r\n\x1b[1mthree\x1b[0m login: ").unwrap();
        let console = Console::new(log, dir.path().join("none"));
        let soon = Duration::from_millis(1);
        assert_eq!(console.wait_for(&["three", "login:"], soon).await.unwrap(), "login:");
        assert_eq!(console.wait_for(&["three", "login:"], soon).await.unwrap(), "three");
        assert!(console.wait_for(&["one"], soon).await.is_err());
        assert_eq!(console.text(), "one login: two\nthree login: ");
        console.starts_anew();
        assert!(console.wait_for(&["login:"], soon).await.is_err());
    }
}
