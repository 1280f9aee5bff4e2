//! Makes, inspects, signs and fetches file-mode images; builds the boot bundle.
//!
//! Never writes half a file: every output appears under its name only when it is complete.
#![forbid(unsafe_code)]

mod boot;
mod build;
mod capture;
mod cat;
mod clean;
mod contents;
mod delta;
mod diff;
mod exclude;
mod export;
mod extract;
mod facts;
mod fetch;
mod image_file;
mod import;
mod inspect;
mod keys;
mod list;
mod mount;
mod mounts;
mod node;
mod owners;
mod partition;
mod pending;
mod processors;
mod progress;
mod reader;
mod remote;
mod sources;
mod text;
mod update;
mod verify;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Makes, inspects and signs images; builds the boot bundle.
#[derive(Debug, Parser)]
#[command(name = "image-tools", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an image of a root directory, of a running node, or of a partition.
    Capture(capture::CaptureArguments),
    /// Make an image of a tar archive, a container image, a cloud image (qcow2 or raw), a directory, or several of them.
    Import(import::ImportArguments),
    /// Say what an image holds.
    Inspect(inspect::InspectArguments),
    /// List the entries of an image.
    Ls(list::ListArguments),
    /// Print files of an image.
    Cat(cat::CatArguments),
    /// Say what two images, or an image and a directory, have different. Exit status 0: nothing, 1: something, 2: trouble.
    Diff(diff::DiffArguments),
    /// Show an image's files in a directory, read-only, without unpacking it.
    Mount(mount::MountArguments),
    /// Write an image as a tar archive, as an OCI image layout, or as a disk.
    Export(Box<export::ExportArguments>),
    /// Check every byte of an image against its manifest, and the manifest against its signature.
    Verify(verify::VerifyArguments),
    /// Write an image's tree into a directory.
    Extract(extract::ExtractArguments),
    /// Make a delta image: what a node that has one image needs to get another.
    Delta(delta::DeltaArguments),
    /// Send this system's files to whoever captures it (`capture --host` runs this on the node).
    #[command(hide = true)]
    Stream(node::StreamArguments),
    /// Turn a tree of one image into a tree of another by a delta image.
    Update(update::UpdateArguments),
    /// Pull an image, or any file, out of a swarm.
    Fetch(Box<fetch::FetchArguments>),
    /// Make a key pair for signing images (minisign format).
    Keygen(keys::KeygenArguments),
    /// Sign an image's manifest.
    Sign(keys::SignArguments),
    /// Build, inspect or verify a boot bundle.
    #[command(subcommand)]
    Boot(boot::BootCommand),
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == system_apply::ENTER) {
        return u8::try_from(system_apply::enter(words)).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    let result = match cli.command {
        Command::Capture(arguments) => capture::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Ls(arguments) => list::run(&arguments),
        Command::Cat(arguments) => cat::run(&arguments),
        Command::Diff(arguments) => return differs(diff::run(&arguments)),
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Extract(arguments) => extract::run(&arguments),
        Command::Delta(arguments) => delta::run(&arguments),
        Command::Stream(arguments) => node::run(&arguments),
        Command::Update(arguments) => update::run(&arguments),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Keygen(arguments) => keys::keygen(&arguments),
        Command::Sign(arguments) => keys::sign(&arguments),
        Command::Boot(command) => boot::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image-tools: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The exit status of diff(1).
fn differs(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("image-tools: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Help and version are answers; anything else is a mistake of the caller.
fn report_usage(error: &clap::Error) -> ExitCode {
    // A closed pipe leaves nobody to tell.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
