//! Runs programs of the installed system inside it: with its own root, a time limit and their output kept.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use disk_apply::NO_UDEV;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

/// First argument by which this binary, run again, enters a root and becomes another program.
///
/// Entering in a child of our own makes do without code between `fork` and `exec`.
pub const ENTER: &str = "enter-root";

/// What is kept of a program's output, bytes; the end is what explains a failure.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// What is left in a pipe whose writers are dead is there at once.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);
/// What is born while others are killed is found in the next round; a program that outruns so many is left to the
/// unmounting, which then says so.
const KILL_ROUNDS_MAX: u32 = 100;
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
pub enum ChrootError {
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

    /// Runs a program to its end, says how long it took, and returns what it printed on both outputs, at most 64 KiB of
    /// the end.
    ///
    /// # Errors
    /// [`ChrootError`] when it cannot start, takes longer than `limit`, or ends badly.
    pub(crate) async fn run(
        &self,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<String, ChrootError> {
        let begun = Instant::now();
        let output = self.run_with(&[], program, arguments, limit).await?;
        tracing::info!("{program}: done in {:.1} s", begun.elapsed().as_secs_f64());
        Ok(output)
    }

    /// As [`Self::run`] with variables beside `PATH`.
    pub(crate) async fn run_with(
        &self,
        environment: &[(String, String)],
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<String, ChrootError> {
        let (mut child, mut pipe) = self
            .start(environment, program, arguments)
            .map_err(|error| ChrootError::Start(program.to_owned(), error))?;
        let mut kept = Vec::new();
        let ended = tokio::time::timeout(limit, async {
            tokio::select! {
                // What it left running may hold its output open for ever.
                status = child.wait() => status,
                () = read_end(&mut pipe, &mut kept) => child.wait().await,
            }
        });
        let ended = ended.await;
        if ended.is_err() {
            // Dropping the child would kill it too; killing here makes sure that it is reaped.
            let _ = child.kill().await;
        }
        end_all_inside(&self.root);
        // Everybody who could write is dead: the rest is in the pipe.
        let _ = tokio::time::timeout(LAST_WORDS_LIMIT, read_end(&mut pipe, &mut kept)).await;
        let (program, output) = (program.to_owned(), String::from_utf8_lossy(&kept).trim().to_owned());
        match ended {
            Err(_) => Err(ChrootError::TooLong { program, limit_s: limit.as_secs(), output }),
            Ok(Err(error)) => Err(ChrootError::Start(program, error)),
            Ok(Ok(status)) if status.success() => Ok(output),
            Ok(Ok(status)) => Err(ChrootError::Failed { program, status, output }),
        }
    }

    /// Both outputs are one pipe, so that they come in the order in which they were said.
    fn start(
        &self,
        environment: &[(String, String)],
        program: &str,
        arguments: &[&str],
    ) -> std::io::Result<(Child, Receiver)> {
        let (reader, writer) = std::io::pipe()?;
        let child = Command::new("/proc/self/exe")
            .arg(ENTER)
            .arg(&self.root)
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .envs(NO_UDEV)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .kill_on_drop(true)
            .spawn()?;
        Ok((child, Receiver::from_owned_fd(reader.into())?))
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
pub fn enter(arguments: impl Iterator<Item = OsString>) -> i32 {
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
async fn read_end(pipe: &mut Receiver, kept: &mut Vec<u8>) {
    let mut part = vec![0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut part).await {
        kept.extend_from_slice(part.get(..count).unwrap_or_default());
        if kept.len() > OUTPUT_BYTES_MAX {
            kept.drain(..kept.len() - OUTPUT_BYTES_MAX);
        }
    }
}

/// Kills what a program left running inside the root, daemons among it: nothing may keep the root from being
/// unmounted.
fn end_all_inside(root: &Path) {
    for _ in 0..KILL_ROUNDS_MAX {
        let mut killed = false;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if std::fs::read_link(entry.path().join("root")).is_ok_and(|inside| inside == root) {
                killed |= kill(Pid::from_raw(id), Signal::SIGKILL).is_ok();
            }
        }
        if !killed {
            return;
        }
    }
}

fn io_to_nix(error: &std::io::Error) -> nix::Error {
    nix::Error::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}
