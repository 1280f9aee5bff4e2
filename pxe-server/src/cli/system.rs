//! `pxe-server system`: what makes a node's installed system its own, by the code that makes its task.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use boot_menu::{Facts, Firmware};
use clap::{Args, Subcommand};
use dhcp_wire::MacAddr;

use super::check::read_alone;
use super::menu::{sample_name, server};
use crate::tasks::steps;

/// Stands for what the server gives a node when it first sees it.
const MACHINE_ID: &str = "MACHINE-ID";

#[derive(Subcommand)]
pub(super) enum SystemCommand {
    /// Print the steps that a node would follow
    Show(ShowArguments),
}

#[derive(Args)]
pub(super) struct ShowArguments {
    /// Hardware address of the NIC that boots
    #[arg(long)]
    mac: MacAddr,
    /// Site file
    #[arg(long, value_name = "site.toml", default_value = "/etc/esir/site.toml")]
    site: PathBuf,
    /// Name of the node [default: as the site or the server names it]
    #[arg(long)]
    name: Option<String>,
    /// Address that the node has when it gets its task
    #[arg(long)]
    address: Option<Ipv4Addr>,
    /// SMBIOS serial number
    #[arg(long)]
    serial: Option<String>,
    /// SMBIOS UUID
    #[arg(long)]
    uuid: Option<String>,
    /// Relay agent in front of the node
    #[arg(long)]
    relay: Option<Ipv4Addr>,
    /// Print every file and program whole, hashes of passwords included
    #[arg(long)]
    contents: bool,
}

/// `pxe-server system`.
pub(super) fn system(command: &SystemCommand) -> Result<()> {
    let SystemCommand::Show(arguments) = command;
    let site = read_alone(&arguments.site)?;
    let facts = Facts {
        mac: arguments.mac,
        name: sample_name(&site, arguments.name.clone(), arguments.mac),
        serial: arguments.serial.clone(),
        uuid: arguments.uuid.clone(),
        address: arguments.address,
        relay: arguments.relay,
        // No rule asks for it.
        firmware: Firmware::Uefi,
    };
    let made = steps(&site.changeable(), &facts, &server(&site), MACHINE_ID)
        .with_context(|| format!("the site's settings do not fit {}", facts.name))?;
    println!("host name   {}", facts.name);
    for key in &site.authorized_keys {
        println!("root's key  {key}");
    }
    if arguments.contents {
        print!("{made:#}")
    } else {
        print!("{made}")
    }
    Ok(())
}
