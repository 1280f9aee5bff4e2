//! Runs programs of the installed system inside it: with its own root, a time limit and their output kept.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// First argument by which this binary, run again, enters a root and becomes another program.
///
/// Entering in a child of our own makes do without code between `fork` and `exec`.
pub(crate) const ENTER: &str = "enter-root";

/// What is kept of a program's output, bytes; the end is what explains a failure.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// Exit code of [`enter`] when the program could not be started, as shells use it.
const EXIT_NOT_STARTED: i32 = 127;
/// `PATH` inside the installed system.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Kernel file systems that grub-install, update-grub and ssh-keygen look into.
const SHARED: [&str; 3] = ["dev", "proc", "sys"];

/// A root file system with `/dev`, `/proc` and `/sys` of the boot environment inside it until dropped.
#[derive(Debug)]
pub(crate) struct Chroot {
    root: PathBuf,
    mounted: Vec<PathBuf>,
}

/// A program that did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChrootError {
    /// The kernel file systems could not be shown inside the root.
    #[error("mounting {0} inside the installed system")]
    Mount(PathBuf, #[source] nix::Error),
    /// The program could not be started at all.
    #[error("starting {0} in the installed system")]
    Start(String, #[source] std::io::Error),
    /// It ran longer than allowed and was killed.
    #[error(
        "{program} in the installed system took longer than {limit_s} s and was stopped; it said: {output}"
    )]
    TooLong {
        /// Its name.
        program: String,
        /// The limit.
        limit_s: u64,
        /// The end of what it printed.
        output: String,
    },
    /// It failed by itself.
    #[error("{program} in the installed system ended with {status}; it said: {output}")]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
}

impl Chroot {
    /// Shows the kernel's file systems inside `root`.
    ///
    /// # Errors
    /// [`ChrootError::Mount`]; what was mounted is unmounted again.
    pub(crate) fn open(root: &Path) -> Result<Self, ChrootError> {
        let mut chroot = Self { root: root.to_owned(), mounted: Vec::new() };
        for name in SHARED {
            let inside = root.join(name);
            let source = Path::new("/").join(name);
            std::fs::create_dir_all(&inside)
                .map_err(|error| ChrootError::Mount(inside.clone(), io_to_nix(&error)))?;
            mount(Some(&source), &inside, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .map_err(|error| ChrootError::Mount(inside.clone(), error))?;
            chroot.mounted.push(inside);
        }
        Ok(chroot)
    }

    /// Whether the installed system has this program on its path.
    pub(crate) fn has(&self, program: &str) -> bool {
        PATH.split(':').any(|folder| self.root.join(folder.trim_start_matches('/')).join(program).exists())
    }

    /// Runs a program to its end and returns what it printed on both outputs, at most 64 KiB of the end.
    ///
    /// # Errors
    /// [`ChrootError`] when it cannot start, takes longer than `limit`, or ends badly.
    pub(crate) async fn run(
        &self,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<String, ChrootError> {
        let mut child = Command::new("/proc/self/exe")
            .arg(ENTER)
            .arg(&self.root)
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| ChrootError::Start(program.to_owned(), error))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let ended = tokio::time::timeout(limit, async {
            let (out, err, status) = tokio::join!(read_end(out), read_end(err), child.wait());
            (joined(out, err), status)
        });
        match ended.await {
            Err(_) => {
                // Dropping the child would kill it too; killing here makes sure that it is reaped.
                let _ = child.kill().await;
                let program = program.to_owned();
                Err(ChrootError::TooLong { program, limit_s: limit.as_secs(), output: String::new() })
            }
            Ok((_, Err(error))) => Err(ChrootError::Start(program.to_owned(), error)),
            Ok((output, Ok(status))) if status.success() => Ok(output),
            Ok((output, Ok(status))) => {
                Err(ChrootError::Failed { program: program.to_owned(), status, output })
            }
        }
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        for inside in self.mounted.iter().rev() {
            if let Err(error) = umount2(inside, MntFlags::MNT_DETACH) {
                tracing::warn!(path = %inside.display(), %error, "leaving a mount behind");
            }
        }
    }
}

/// The child's side of [`Chroot::run`]: `ROOT PROGRAM ARGUMENTS...`. Returns only if that failed.
pub(crate) fn enter(arguments: impl Iterator<Item = OsString>) -> i32 {
    let words: Vec<CString> = arguments.filter_map(|word| CString::new(word.into_vec()).ok()).collect();
    let Some((root, command)) = words.split_first() else { return EXIT_NOT_STARTED };
    let Some(program) = command.first() else { return EXIT_NOT_STARTED };
    let entered = nix::unistd::chroot(root.as_c_str()).and_then(|()| nix::unistd::chdir("/"));
    let error = match entered {
        Ok(()) => nix::unistd::execvp(program, command).err(),
        Err(error) => Some(error),
    };
    eprintln!("cannot start {}: {}", program.to_string_lossy(), error.map_or("", |error| error.desc()));
    EXIT_NOT_STARTED
}

/// Reads to the end and keeps the last [`OUTPUT_BYTES_MAX`].
async fn read_end(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let mut kept = Vec::new();
    let mut part = vec![0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut part).await {
        kept.extend_from_slice(part.get(..count).unwrap_or_default());
        if kept.len() > OUTPUT_BYTES_MAX {
            kept.drain(..kept.len() - OUTPUT_BYTES_MAX);
        }
    }
    kept
}

fn joined(out: Vec<u8>, err: Vec<u8>) -> String {
    let both = [String::from_utf8_lossy(&out), String::from_utf8_lossy(&err)];
    both.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

fn io_to_nix(error: &std::io::Error) -> nix::Error {
    nix::Error::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}
