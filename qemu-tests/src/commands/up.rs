//! `qemu-tests up`: a rack of empty machines to play with.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use qemu_tests::lab::{LabOptions, NodeBuilder};
use qemu_tests::{Bus, FirmwareKind, Lab, Nic, Node, gib};

use super::table::Table;

/// Between two looks at the server.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Options of `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// How many machines.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    nodes: u8,
    /// What starts them.
    #[arg(long, value_enum, default_value_t = FirmwareChoice::Bios)]
    firmware: FirmwareChoice,
    /// Main memory of each, MiB.
    #[arg(long, default_value_t = 2048)]
    memory_mib: u32,
    /// Size of each disk, GiB.
    #[arg(long, default_value_t = 8)]
    disk_gib: u64,
    /// Site file for the server.
    #[arg(long)]
    site: Option<PathBuf>,
    /// Image to deploy instead of the cached Debian 12.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Public key that the image is signed with, where it is not the cached one.
    #[arg(long)]
    trust: Vec<PathBuf>,
    /// Approves every machine at once.
    #[arg(long)]
    approve_all: bool,
    /// Port of the dashboard on this computer's loopback; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    dashboard_port: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FirmwareChoice {
    /// SeaBIOS, e1000, SATA.
    Bios,
    /// OVMF, virtio, NVMe.
    Uefi,
    /// OVMF with Secure Boot, virtio, NVMe. Its first boot ends when it has refused iPXE; reset it.
    Secureboot,
    /// BIOS and UEFI in turn.
    Mixed,
}

pub(crate) async fn run(arguments: UpArguments) -> Result<ExitCode> {
    let (mut options, _image) = LabOptions::debian_12()?;
    options.quiet = true;
    if let Some(image) = arguments.image.clone() {
        let found = image.canonicalize().with_context(|| format!("finding {}", image.display()))?;
        options.server.image = Some(found);
    }
    options.server.trusted.extend(arguments.trust.iter().cloned());
    options.server.site = arguments.site.clone();
    options.server.approve_all = arguments.approve_all;
    options.server.dashboard_port = arguments.dashboard_port;
    let lab = Lab::start(options).await?;
    let nodes: Result<Vec<Node>> =
        (1..=arguments.nodes).map(|number| power_on(&lab, &arguments, number)).collect();
    let nodes = nodes?;
    explain(&lab, &nodes);
    let mut table = Table::new();
    loop {
        let views = lab.server().admin().nodes().await.unwrap_or_default();
        table.show(&views);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn power_on(lab: &Lab, arguments: &UpArguments, number: u8) -> Result<Node> {
    let node = lab.node(&format!("n{number}")).memory_mib(arguments.memory_mib);
    let size = gib(arguments.disk_gib);
    let bios = |node: NodeBuilder| node.firmware(FirmwareKind::Bios).nic(Nic::E1000).disk(Bus::Ahci, size);
    let uefi = |node: NodeBuilder| node.firmware(FirmwareKind::Uefi).nic(Nic::Virtio).disk(Bus::Nvme, size);
    let node = match arguments.firmware {
        FirmwareChoice::Bios => bios(node),
        FirmwareChoice::Mixed if !number.is_multiple_of(2) => bios(node),
        FirmwareChoice::Uefi | FirmwareChoice::Mixed => uefi(node),
        FirmwareChoice::Secureboot => uefi(node).secure_boot(),
    };
    node.power_on()
}

fn explain(lab: &Lab, nodes: &[Node]) {
    println!("dashboard  {}", lab.server().dashboard());
    println!("server log {}", lab.server().log().display());
    println!("namespace  ip netns exec {} bash", lab.network().namespace());
    println!("approve    pxe-server approve --admin {} NAME", lab.server().dashboard());
    for node in nodes {
        println!("console    qemu-tests attach {}", node.machine().console_socket().display());
    }
    println!("Ctrl-C takes all of it down\n");
}
