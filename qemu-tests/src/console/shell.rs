//! A shell on the serial console.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use tokio::time::{Instant, timeout_at};

use super::{Console, plain, position};

/// Between user name and shell; a first login under TCG reads many files.
const LOGIN_STEP_MAX: Duration = Duration::from_secs(90);
/// Text kept for one answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a command said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub status: i32,
    /// Standard output and error, trimmed.
    pub text: String,
}

/// A logged-in shell. Dropping it leaves the shell logged in but hangs up the line.
#[derive(Debug)]
pub struct Shell {
    line: UnixStream,
    heard: Vec<u8>,
}

impl Shell {
    pub(super) async fn log_in(
        console: &Console,
        user: &str,
        password: &str,
        within: Duration,
    ) -> Result<Self> {
        console.wait_for(&["login: "], within).await?;
        let socket = console.socket();
        let line =
            UnixStream::connect(socket).await.with_context(|| format!("opening {}", socket.display()))?;
        let mut shell = Self { line, heard: Vec::new() };
        shell.say(&format!("{user}\n")).await?;
        shell.hear("assword: ", LOGIN_STEP_MAX).await?;
        shell.say(&format!("{password}\n")).await?;
        shell.hear("# ", LOGIN_STEP_MAX).await?;
        // No echo, no prompt, no line wrapping: what is heard from here on is what commands say.
        shell.say("stty -echo cols 500; export TERM=dumb PAGER=cat PS1=\n").await?;
        shell.run("true", LOGIN_STEP_MAX).await?;
        Ok(shell)
    }

    /// Runs one command line.
    ///
    /// # Errors
    /// It did not end `within`, or the machine went away.
    pub async fn run(&mut self, command: &str, within: Duration) -> Result<Output> {
        // The mark is split by quotes, so that an echo of the command line is not taken for the mark.
        self.say(&format!("{command}; echo \"es\"\"ir-done $?\"\n")).await?;
        let before = self.hear("esir-done ", within).await.with_context(|| format!("running `{command}`"))?;
        let status = self.hear("\n", within).await?;
        let status = status.trim().parse().with_context(|| format!("exit code of `{command}`: {status}"))?;
        Ok(Output { status, text: before.trim().to_owned() })
    }

    /// The text of a command that must succeed.
    ///
    /// # Errors
    /// As [`Self::run`], or an exit code that is not 0.
    pub async fn text_of(&mut self, command: &str, within: Duration) -> Result<String> {
        let output = self.run(command, within).await?;
        if output.status != 0 {
            bail!("`{command}` ended with {}: {}", output.status, output.text);
        }
        Ok(output.text)
    }

    async fn say(&mut self, text: &str) -> Result<()> {
        self.line.write_all(text.as_bytes()).await.context("typing on the console")
    }

    /// What was heard before `word`.
    async fn hear(&mut self, word: &str, within: Duration) -> Result<String> {
        let until = Instant::now() + within;
        loop {
            if let Some(at) = position(&self.heard, word.as_bytes()) {
                let rest = self.heard.split_off(at + word.len());
                let mut before = std::mem::replace(&mut self.heard, rest);
                before.truncate(at);
                return Ok(plain(&before));
            }
            let read = timeout_at(until, self.line.read_buf(&mut self.heard)).await;
            match read {
                Ok(Ok(count)) if count > 0 && self.heard.len() <= ANSWER_BYTES_MAX => {}
                Ok(_) => bail!("the console hung up or floods"),
                Err(_) => bail!("no {word:?} within {} s after {:?}", within.as_secs(), plain(&self.heard)),
            }
        }
    }
}
