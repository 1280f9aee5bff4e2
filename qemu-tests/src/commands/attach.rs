//! `qemu-tests attach`: a terminal on a serial console.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;

/// Options of `attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// The console's socket, as `qemu-tests up` printed it.
    socket: PathBuf,
}

impl AttachArguments {
    /// For a machine of this very program.
    pub(crate) fn of(socket: PathBuf) -> Self {
        Self { socket }
    }
}

pub(crate) fn run(arguments: &AttachArguments) -> Result<ExitCode> {
    let line = UnixStream::connect(&arguments.socket)
        .with_context(|| format!("opening the console {}", arguments.socket.display()))?;
    eprintln!("connected; Ctrl-] leaves");
    let _raw = RawTerminal::enter()?;
    let heard = line.try_clone()?;
    let listener = thread::spawn(move || show(heard));
    let typed = type_into(&line);
    let _ = line.shutdown(Shutdown::Both);
    let _ = listener.join();
    typed.map(|()| ExitCode::SUCCESS)
}

fn show(mut line: UnixStream) {
    let mut screen = std::io::stdout();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = line.read(&mut bytes) {
        if screen.write_all(bytes.get(..count).unwrap_or_default()).and_then(|()| screen.flush()).is_err() {
            break;
        }
    }
}

fn type_into(mut line: &UnixStream) -> Result<()> {
    let mut keys = [0; 256];
    loop {
        let count = std::io::stdin().read(&mut keys)?;
        let typed = keys.get(..count).unwrap_or_default();
        let leaves = typed.iter().position(|&key| key == LEAVE);
        let passed = typed.get(..leaves.unwrap_or(count)).unwrap_or_default();
        if line.write_all(passed).is_err() || leaves.is_some() || count == 0 {
            return Ok(());
        }
    }
}

/// The terminal passes every key on while this lives.
struct RawTerminal {
    before: Option<Termios>,
}

impl RawTerminal {
    fn enter() -> Result<Self> {
        // Standard input may be a pipe: then there is nothing to switch.
        let Ok(before) = tcgetattr(std::io::stdin()) else { return Ok(Self { before: None }) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}
