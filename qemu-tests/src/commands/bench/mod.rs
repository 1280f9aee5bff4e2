//! `qemu-tests bench`: one benchmark, as a table for people or one JSON object for programs.

mod apply;
mod boot_bed;
mod choice;
mod delta;
mod deploy;
mod device;
mod dhcp;
mod figures;
mod have;
mod image;
mod memory;
mod paper;
mod payload;
mod print;
mod quiet;
mod simulate;
mod storm;
mod swarm;
mod swarm_cpu;
mod swarm_sim;
mod tftp;
mod timed;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

const BENCHMARKS: &[(&str, &str)] = &[
    (
        "apply",
        "from a local image to a synced file system: ours, zstd | tar, unsquashfs, partclone; limits of processors and disk",
    ),
    (
        "delta",
        "a newer image to a node that has an older one: bytes fetched and time; ours, in full, casync, rsync",
    ),
    (
        "deploy",
        "two machines of different kinds, from power to two running servers: time per stage, bytes by source",
    ),
    (
        "swarm",
        "one file to 1..32 nodes on shaped links: ours, libtorrent, aria2, HTTP, udpcast, uftp; loss, slow nodes",
    ),
    ("paper", "the paper's headline: 596 MiB to 32 nodes, on shaped links and on links as fast as they are"),
    (
        "swarm-sim",
        "one file to 32..10,000 simulated nodes, on one switch and in racks with oversubscribed uplinks",
    ),
    (
        "swarm-cpu",
        "one file to 1, 4 and 8 nodes on links as fast as they are: bytes per second and per processor second",
    ),
    ("have", "what announcing pieces costs and delays, by policy, with 32..1,000 simulated nodes"),
    (
        "tftp",
        "boot programs to 1, 10 and 100 nodes at a time: ours, dnsmasq, atftpd; block sizes and windows",
    ),
    (
        "dhcp",
        "handshakes per second and drops with our DHCP server, dnsmasq and Kea, with leases on a disk in each",
    ),
    (
        "storm",
        "100..1,000 nodes powered on at once, from DHCP to kernel and initrd; with faults, and with nodes that serve others",
    ),
    (
        "image",
        "three real trees as images: ours of files and of partitions, tar, squashfs, partclone, raw disks, qcow2; size and time",
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
    /// swarm: only these peers; image: only these forms; separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "PEER,..")]
    only: Vec<String>,
    /// swarm, have: only these cases; swarm-sim, storm: these numbers of nodes; tftp: these numbers of nodes at a
    /// time; image: these trees; delta: these changes; separated by commas.
    #[arg(long = "case", value_delimiter = ',', value_name = "NAME,..")]
    cases: Vec<String>,
    /// swarm, swarm-cpu, paper, image, delta: turns per row; 3 if not given. swarm-sim, have: seeds.
    #[arg(long)]
    runs: Option<usize>,
}

pub(crate) async fn run(arguments: BenchArguments) -> Result<ExitCode> {
    let BenchArguments { name, quick, json, only, cases, runs } = arguments;
    let choice = choice::Choice { quick, json, only, cases, runs };
    match name.as_str() {
        "list" => BENCHMARKS.iter().for_each(|(name, what)| println!("{name:<10} {what}")),
        "apply" => tokio::task::block_in_place(|| apply::apply(&choice))?,
        "delta" => tokio::task::block_in_place(|| delta::delta(&choice))?,
        "deploy" if quick => deploy::deploy_quick(json).await?,
        "deploy" => deploy::deploy(json).await?,
        "dhcp" => tokio::task::block_in_place(|| dhcp::dhcp(&choice))?,
        "payload" => payload::payload(json)?,
        "swarm" => tokio::task::block_in_place(|| swarm::swarm(&choice))?,
        "swarm-cpu" => tokio::task::block_in_place(|| swarm_cpu::swarm_cpu(&choice))?,
        "swarm-sim" => tokio::task::block_in_place(|| swarm_sim::swarm_sim(&choice))?,
        "image" => tokio::task::block_in_place(|| image::image(&choice))?,
        "have" => tokio::task::block_in_place(|| have::have(&choice))?,
        "paper" => tokio::task::block_in_place(|| paper::paper(&choice))?,
        "storm" => tokio::task::block_in_place(|| storm::storm(&choice))?,
        "tftp" => tokio::task::block_in_place(|| tftp::tftp(&choice))?,
        other => bail!("there is no benchmark {other}; `bench list` names them"),
    }
    Ok(ExitCode::SUCCESS)
}
