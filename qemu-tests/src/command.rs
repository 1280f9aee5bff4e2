//! Other programs that are run to their end: what one prints is the result, what it complains of is the error.
//!
//! Never waits for a program that stays: servers and machines have handles of their own.

use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// What a program prints, as text and without the line ends behind it. Unless the command says otherwise, the
/// program reads nothing.
///
/// # Errors
/// It cannot be started or fails; the error has its name, its arguments and its complaint.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {}", line(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", line(command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
}

/// As [`output`], where nothing that the program prints matters.
///
/// # Errors
/// As [`output`].
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a long step whose own words people should see, on standard error: standard output belongs to results.
pub(crate) fn say_and_run(command: &mut Command) -> Result<()> {
    let begun = Instant::now();
    eprintln!("+ {}", line(command));
    let words = std::io::stderr().as_fd().try_clone_to_owned()?;
    let status = command
        .stdin(Stdio::null())
        .stdout(words)
        .status()
        .with_context(|| format!("running {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    eprintln!("  took {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Program and arguments.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(result: Result<impl std::fmt::Debug>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn output_is_what_is_printed_without_the_line_ends_behind_it() {
        assert_eq!(output(Command::new("printf").arg(" one\ntwo \n\n")).unwrap(), " one\ntwo ");
        assert_eq!(output(&mut Command::new("true")).unwrap(), "");
    }

    #[test]
    fn a_program_that_reads_finds_nothing() {
        assert_eq!(output(&mut Command::new("cat")).unwrap(), "");
    }

    #[test]
    fn an_error_has_the_program_its_arguments_and_its_complaint() {
        let mut fails = Command::new("sh");
        fails.args(["-c", "echo said; echo no such thing >&2; exit 3", "name"]);
        let expected =
            "sh -c echo said; echo no such thing >&2; exit 3 name ended with exit status: 3: no such thing";
        assert_eq!(error(output(&mut fails)), expected);
        assert_eq!(error(run(&mut fails)), expected);
        assert_eq!(error(say_and_run(Command::new("false").arg("x"))), "false x ended with exit status: 1");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let missing = error(run(Command::new("esir-no-such-program").arg("x")));
        assert!(missing.starts_with("running esir-no-such-program x: "), "{missing}");
    }
}
