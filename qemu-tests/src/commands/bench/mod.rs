//! `qemu-tests bench`: one benchmark, as a table for people or one JSON object for programs.

mod deploy;
mod payload;
mod print;
mod quiet;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

const BENCHMARKS: [(&str, &str); 2] = [
    (
        "deploy",
        "two machines of different kinds, from power to two running servers: time per stage, bytes by source",
    ),
    ("payload", "what a node loads before it can ask for more: kernel, initrd, agent"),
];

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Which one, or `list`.
    name: String,
    /// A reduced form that ends within a minute.
    #[arg(long)]
    quick: bool,
    /// One JSON object on standard output and nothing else.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: BenchArguments) -> Result<ExitCode> {
    match arguments.name.as_str() {
        "list" => BENCHMARKS.iter().for_each(|(name, what)| println!("{name:<10} {what}")),
        "deploy" if arguments.quick => deploy::deploy_quick(arguments.json).await?,
        "deploy" => deploy::deploy(arguments.json).await?,
        "payload" => payload::payload(arguments.json)?,
        other => bail!("there is no benchmark {other}; `bench list` names them"),
    }
    Ok(ExitCode::SUCCESS)
}
