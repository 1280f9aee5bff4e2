//! The boot bundle: what a node boots before it has a system, made from a distribution's kernel package.
//!
//! Never installs a package and never changes a kernel or a module: signatures must still hold on the node.
//!
//! Read first: [`BootCommand`], [`build`], [`sets`] (which modules go where).

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

mod build;
mod check;
mod elf;
mod firmware;
mod initrd;
mod kernel;
mod packages;
mod sets;
mod store;
mod tools;

/// Work on boot bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum BootCommand {
    /// Build a boot bundle: kernel, small initrd, and a store of modules, firmware and tools.
    Build(BuildArguments),
    /// Say what a boot bundle holds.
    Inspect {
        /// The bundle's directory.
        directory: PathBuf,
    },
    /// Check every file and object of a boot bundle against its manifests.
    Verify {
        /// The bundle's directory.
        directory: PathBuf,
    },
}

/// Where a bundle's parts come from and where it goes.
#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// Directory to make; an older bundle there is replaced when the new one is complete.
    #[arg(short, long)]
    output: PathBuf,
    /// The static `initrd-agent` program.
    #[arg(long)]
    agent: PathBuf,
    /// Debian package of the kernel, fetched with apt and unpacked, never installed.
    #[arg(long, default_value = "linux-image-amd64", conflicts_with = "kernel")]
    kernel_package: String,
    /// A kernel of your own.
    #[arg(long, requires = "modules")]
    kernel: Option<PathBuf>,
    /// The kernel's modules: the directory `lib/modules/RELEASE`.
    #[arg(long, requires = "kernel")]
    modules: Option<PathBuf>,
    /// Firmware: `debian` fetches the packages of non-free-firmware, `none` takes none, anything else is a
    /// directory like `/lib/firmware`.
    #[arg(long, default_value = "debian")]
    firmware: firmware::Source,
    /// Where downloads are kept [default: $ESIR_CACHE/boot or ~/.cache/esir/boot].
    #[arg(long)]
    cache: Option<PathBuf>,
}

/// Does what the command says and prints what came of it.
///
/// # Errors
/// One sentence with what to do; a bundle that was there before is untouched.
pub(crate) fn run(command: BootCommand) -> Result<()> {
    match command {
        BootCommand::Build(arguments) => build::build(&arguments),
        BootCommand::Inspect { directory } => check::inspect(&directory),
        BootCommand::Verify { directory } => check::verify(&directory),
    }
}

/// A size for people, in MiB with two decimals or in KiB.
fn human(bytes: u64) -> String {
    const MEBIBYTE: u64 = 1 << 20;
    if bytes >= MEBIBYTE {
        format!("{}.{:02} MiB", bytes / MEBIBYTE, bytes % MEBIBYTE * 100 / MEBIBYTE)
    } else {
        format!("{}.{} KiB", bytes / 1024, bytes % 1024 * 10 / 1024)
    }
}
