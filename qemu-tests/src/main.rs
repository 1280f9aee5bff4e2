//! Virtual bare metal for people: machines, networks and disks on this computer.
#![forbid(unsafe_code)]

mod commands;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use commands::{attach, bench, demo, setup_image, try_menu, up};

/// Virtual bare metal in a network namespace of its own; everything goes when the command ends.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Powers on empty machines beside a server and keeps them until Ctrl-C.
    Up(up::UpArguments),
    /// Turns two bare machines of different kinds into running servers and reports how it went.
    Demo(demo::DemoArguments),
    /// Shows a node's boot menu on a virtual machine, on this terminal; Ctrl-] leaves.
    Try(try_menu::TryArguments),
    /// Connects this terminal to a machine's serial console; Ctrl-] leaves.
    Attach(attach::AttachArguments),
    /// Makes the Debian test image and the boot bundle in the cache.
    SetupImage(setup_image::SetupImageArguments),
    /// Runs one benchmark; `bench list` names them.
    Bench(bench::BenchArguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("qemu-tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Up(arguments) => with_runtime(up::run(arguments)),
        Command::Demo(arguments) => with_runtime(demo::run(arguments)),
        Command::Try(arguments) => with_runtime(try_menu::run(arguments)),
        Command::Attach(arguments) => attach::run(&arguments),
        Command::SetupImage(arguments) => setup_image::run(&arguments),
        Command::Bench(arguments) => with_runtime(bench::run(arguments)),
    }
}

fn with_runtime(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    anyhow::ensure!(nix::unistd::Uid::effective().is_root(), "needs root for network namespaces; use sudo");
    qemu_tests::session::sweep_on_signals()?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(command)
}
