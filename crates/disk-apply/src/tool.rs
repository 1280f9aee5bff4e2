//! Runs the distribution's own tools: with a time limit, their output kept, and nobody asked anything.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// mke2fs with lazy tables takes seconds; a disk that discards slowly takes minutes.
const LIMIT: Duration = Duration::from_mins(10);
/// Where installed tools are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// There is no udev, and whoever waits for it waits for ever; programs of an installed system too.
pub const NO_UDEV: [(&str, &str); 2] = [("DM_DISABLE_UDEV", "1"), ("MDADM_NO_UDEV", "1")];
/// The end of what a tool printed explains its failure.
const OUTPUT_CHARACTERS_MAX: usize = 2000;

/// A tool that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The tool did not start.
    #[error("starting {tool}; is it installed, or in the boot bundle?")]
    Start {
        tool: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// The tool failed.
    #[error("{tool} on /dev/{device} ended with {status}: {output}")]
    Failed { tool: &'static str, device: String, status: std::process::ExitStatus, output: String },
    /// The tool hung.
    #[error("{tool} on /dev/{device} took longer than {limit_s} s; the disk is failing or very slow")]
    TooLong { tool: &'static str, device: String, limit_s: u64 },
}

/// Runs a tool to its end; `device` is for messages, `input` what it reads.
pub(super) async fn run(
    tool: &'static str,
    arguments: &[&str],
    device: &str,
    input: Option<&[u8]>,
) -> Result<(), ToolError> {
    let started = |source| ToolError::Start { tool, source };
    let mut child = Command::new(find(tool))
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .envs(NO_UDEV)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(started)?;
    if let Some((mut pipe, bytes)) = child.stdin.take().zip(input) {
        // Keys are shorter than a pipe; a tool that ended already says why by itself.
        let _ = pipe.write_all(bytes).await;
    }
    let device = device.to_owned();
    let Ok(ended) = tokio::time::timeout(LIMIT, child.wait_with_output()).await else {
        return Err(ToolError::TooLong { tool, device, limit_s: LIMIT.as_secs() });
    };
    let ended = ended.map_err(started)?;
    if ended.status.success() {
        return Ok(());
    }
    let printed = [ended.stdout, ended.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).trim().replace('\n', "; ");
    let skip = printed.chars().count().saturating_sub(OUTPUT_CHARACTERS_MAX);
    let output = printed.chars().skip(skip).collect();
    Err(ToolError::Failed { tool, device, status: ended.status, output })
}

/// As [`run`] for those who can't wait asynchronously; says whether it succeeded.
pub(super) fn run_blocking(tool: &str, arguments: &[&str]) -> bool {
    let mut command = std::process::Command::new(find(tool));
    command.args(arguments).env_clear().env("PATH", PATH).envs(NO_UDEV);
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.is_ok_and(|status| status.success())
}

/// The tool's path, or its bare name for the operating system to say that it is not there.
fn find(tool: &str) -> PathBuf {
    PATH.split(':')
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.exists())
        .unwrap_or_else(|| tool.into())
}
