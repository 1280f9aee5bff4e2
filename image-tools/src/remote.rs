//! A golden node -> an image, over ssh: this program is sent there, and sends the node's files back.
//!
//! One connection, nothing installed, nothing left: the helper lies in a new directory of the node's own making and is
//! removed with it, whatever happens.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::build::{self, BuildOptions};
use crate::clean::CleanArguments;
use crate::exclude::Excludes;
use crate::sources::Sources;

/// Bytes that a node's files may be [GiB]: above real systems, below what fills a disk by a mistake.
const LIMIT_GIB: u64 = 64;

/// How to reach the node.
#[derive(Debug, Args)]
pub(crate) struct RemoteArguments {
    /// Capture a running node, over ssh: `root@NODE`, or another user with `--sudo`.
    #[arg(long, value_name = "USER@NODE", conflicts_with_all = ["directory", "partition"])]
    pub(crate) host: Option<String>,
    /// The ssh command, with its options.
    #[arg(long, value_name = "COMMAND", default_value = "ssh", requires = "host")]
    ssh: String,
    /// Become root on the node by `sudo -n`.
    #[arg(long, requires = "host")]
    sudo: bool,
    /// The program to send, for a node of another architecture or with older libraries [default: this one].
    #[arg(long, value_name = "FILE", requires = "host")]
    helper: Option<PathBuf>,
    /// The root of the system on the node.
    #[arg(long, value_name = "DIR", default_value = "/", requires = "host")]
    host_root: String,
    /// Read the running file systems, even where a snapshot could be taken.
    #[arg(long, requires = "host")]
    no_snapshot: bool,
}

/// What is left out beside what the node's own file systems say.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) exclude: &'a [String],
    pub(crate) no_default_excludes: bool,
    pub(crate) clean: &'a CleanArguments,
}

/// Makes the image.
pub(crate) fn run(
    host: &str,
    remote: &RemoteArguments,
    wanted: &Wanted<'_>,
    options: &BuildOptions,
) -> Result<()> {
    ensure!(!host.starts_with('-') && !host.is_empty(), "{host:?} is no USER@NODE");
    let helper = match &remote.helper {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("finding this program")?,
    };
    let program = std::fs::read(&helper).with_context(|| format!("reading {}", helper.display()))?;
    let doing = || format!("capturing {host}");
    let mut child = start(host, remote, &script(remote, wanted, program.len())).with_context(doing)?;
    let sender = send(&mut child, program)?;
    let mut output = child.stdout.take().context("ssh has no output")?;
    let mut sources = Sources::new(&options.output, LIMIT_GIB << 30)?;
    let read = if wanted.clean.dry_run {
        std::io::copy(&mut output, &mut std::io::stdout()).map(drop).map_err(Into::into)
    } else {
        sources.add_stream(&mut output)
    };
    drop(output);
    let status = child.wait().context("waiting for ssh")?;
    // Where the node said what is wrong, that is on the screen already; a cut connection has no last word.
    ensure!(status.success(), "{}: the helper on the node or ssh ended with {status}", doing());
    read.with_context(doing)?;
    match sender.join() {
        Ok(sent) => sent.with_context(doing)?,
        Err(_) => bail!("{}: sending the helper ended abnormally", doing()),
    }
    if wanted.clean.dry_run {
        return Ok(());
    }
    let (tree, contents) = sources.into_tree(&Excludes::default())?;
    build::build(&tree, &contents, options)
}

fn start(host: &str, remote: &RemoteArguments, script: &str) -> Result<Child> {
    let mut words = remote.ssh.split_whitespace();
    let program = words.next().context("--ssh is empty")?;
    let mut command = Command::new(program);
    command.args(words).args(["-T", "--", host, script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().with_context(|| format!("running {program}"))
}

/// Sends the helper while the node's answer is read.
fn send(child: &mut Child, program: Vec<u8>) -> Result<std::thread::JoinHandle<Result<()>>> {
    let mut input = child.stdin.take().context("ssh has no input")?;
    Ok(std::thread::spawn(move || input.write_all(&program).context("sending the helper")))
}

/// What the node's shell runs.
fn script(remote: &RemoteArguments, wanted: &Wanted<'_>, helper_bytes: usize) -> String {
    let mut arguments = vec!["stream".to_owned()];
    for pattern in wanted.exclude {
        arguments.extend(["--exclude".to_owned(), pattern.clone()]);
    }
    for rule in &wanted.clean.keep {
        arguments.extend(["--keep".to_owned(), rule.clone()]);
    }
    let switches = [
        ("--no-default-excludes", wanted.no_default_excludes),
        ("--no-clean", wanted.clean.no_clean),
        ("--dry-run", wanted.clean.dry_run),
        ("--no-snapshot", remote.no_snapshot),
    ];
    arguments.extend(switches.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()));
    arguments.extend(["--".to_owned(), remote.host_root.clone()]);
    let arguments = arguments.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(" ");
    let sudo = if remote.sudo { "sudo -n " } else { "" };
    format!(
        "set -e; umask 077; d=$(mktemp -d); trap 'rm -rf \"$d\"' EXIT HUP TERM; \
         head -c {helper_bytes} > \"$d/image-tools\"; chmod 700 \"$d/image-tools\"; \
         {sudo}\"$d/image-tools\" {arguments}"
    )
}

/// One word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_stay_words_in_a_shell() {
        assert_eq!(quoted("a'b $(c)"), "'a'\\''b $(c)'");
    }
}
